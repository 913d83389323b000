"""The reward model against known utilities, explicit pairs and padding."""

from collections import Counter
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.chat import ChatTemplate, Message
from model.decode import rounded
from model.errors import UserError
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from rlhf.answers import one_a_row
from rlhf.config import RewardConfig
from rlhf.objectives import bradley_terry
from rlhf.preferences import Pair, PromptGroup
from rlhf.reward import (
    Comparer,
    RewardTrainer,
    calibration_error,
    comparison_loss,
    evaluate_reward,
    reward_step,
)
from rlhf.scorer import (
    MOST_LIKELIER,
    init_reward_model,
    init_scorer,
    log_likelihoods,
    normalized,
    score,
    score_tokens,
)
from tests.train.tiny import CONFIG

TOKENIZER = train_tokenizer(TokenizerConfig(kind="char"), ["abcdefgh?"])
MODEL = Transformer(replace(CONFIG, vocab_size=TOKENIZER.size, context_length=32))
LETTERS = "abcdefgh"


def group(*answers, pairs=((0, 1),), prompt="?"):
    return PromptGroup((Message("user", prompt),), answers, tuple(Pair(*pair) for pair in pairs))


def comparer(groups, batch_size=4, length=32):
    return Comparer(groups, TOKENIZER, ChatTemplate(), length, batch_size, seed=0)


@pytest.fixture(scope="module")
def trunk():
    return nn.unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"]


@pytest.fixture(scope="module")
def scorer(trunk):
    """A reward model that has moved away from its reference."""
    fresh = init_reward_model(jax.random.key(1), trunk, MODEL.config.width, heads=2)
    return fresh._replace(reference=jax.tree.map(lambda x: 0.9 * x + 0.01, trunk))


scores_of = jax.jit(partial(score, MODEL))


def loss(*arguments, **options):
    return float(bradley_terry(*arguments, **options).loss)


def test_the_loss_is_the_formula_and_knows_no_origin():
    rng = np.random.default_rng(0)
    chosen, rejected, margin = rng.normal(size=(3, 20)).astype(np.float32)
    found = bradley_terry(chosen, rejected)
    # Written out: minus the log of the probability of what was chosen.
    assert found.loss == pytest.approx(np.mean(np.log(1 + np.exp(rejected - chosen))), rel=1e-5)
    assert found.accuracy == pytest.approx(np.mean(chosen > rejected))
    assert loss(chosen + 7, rejected + 7) == pytest.approx(loss(chosen, rejected), rel=1e-4)
    assert loss(chosen, rejected, margin) == pytest.approx(loss(chosen - margin, rejected), rel=1e-5)
    smooth = 0.9 * loss(chosen, rejected) + 0.1 * loss(rejected, chosen)
    assert loss(chosen, rejected, smoothing=0.1) == pytest.approx(smooth, rel=1e-5)
    half = np.array([1.0] * 10 + [0.0] * 10, np.float32)
    assert loss(chosen, rejected, weights=half) == pytest.approx(loss(chosen[:10], rejected[:10]), rel=1e-5)
    assert bradley_terry(np.zeros(3, np.float32), np.zeros(3, np.float32)).accuracy == 0.5


def test_a_ranking_in_one_batch_is_its_explicit_pairs(scorer):
    """All pairs of four answers, each answer computed once, against the six pairs one by one: loss and gradient."""
    ranked = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    whole = comparer([group("a", "bb", "ccc", "dddd", pairs=ranked)], batch_size=1).collate([0])
    answers = ["a", "bb", "ccc", "dddd"]
    apart = comparer([group(answers[i], answers[j]) for i, j in ranked], batch_size=6).collate(range(6))
    assert len(whole.answers.tokens) == 1  # the prompt too is computed once
    assert len(apart.answers.tokens) == 6
    of = jax.jit(jax.value_and_grad(lambda params, batch: comparison_loss(params, batch, MODEL, 0.0)[0]))
    (one, one_grad), (six, six_grad) = of(scorer, whole), of(scorer, apart)
    assert one == pytest.approx(float(six), rel=1e-5)
    for a, b in zip(jax.tree.leaves(one_grad), jax.tree.leaves(six_grad), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_correlation_is_with_the_length_of_the_answer_alone(scorer, monkeypatch):
    """Of scores that are its length, with a minus. The prompts are as different as to turn it round."""
    compared = comparer([group("a", "bbbb", prompt="a" * 9), group("cc", "ddd", prompt="?")], batch_size=2)
    scores = [np.array([[-len(said.answer)] for said in answers], float) for answers in compared.answers]
    trainer = RewardTrainer(MODEL, RewardConfig(), compared)
    monkeypatch.setattr(trainer, "scores", lambda *_: scores)
    found = evaluate_reward(trainer, scorer, compared, 1.0)
    assert found.length_correlation == pytest.approx(-1)


@pytest.mark.parametrize("third", ["cc", "cccc"])
def test_answers_that_share_a_prompt_score_as_each_alone(scorer, third):
    """Several rows of several answers of different lengths, against rows of one answer each. With the longer one the
    first row has no wanted place to spare, beside places for answers that there are none of."""
    groups = [group("a", "bbbb", third, prompt="ab?"), group("dd", "e", prompt="?")]
    compared = comparer(groups, batch_size=3)
    together = scores_of(scorer, compared.collate([0, 1]).answers)
    for found, said in zip(together, [said for answers in compared.answers for said in answers], strict=False):
        row = np.pad([said.ids], ((0, 0), (0, 20 - len(said.ids))))  # one shape, compiled once
        one = one_a_row(row, np.array([said.start]), np.array([len(said.ids)]), 8)
        np.testing.assert_allclose(found, scores_of(scorer, one)[0], atol=1e-5)


def test_padding_changes_no_score(scorer):
    ids = [TOKENIZER.document_end, *TOKENIZER.encode("abc?")]
    short = np.array([ids], np.int32)
    long = np.zeros((3, 20), np.int32)
    long[1, : len(ids)] = ids
    starts, lengths = np.array([1, 3, 1], np.int32), np.array([1, len(ids), 1], np.int32)
    alone = scores_of(scorer, one_a_row(short, starts[1:2], lengths[1:2], len(ids)))
    padded = scores_of(scorer, one_a_row(long, starts, lengths, 12))
    np.testing.assert_allclose(padded[1], alone[0], atol=1e-5)


def test_a_score_is_the_head_at_the_last_token_and_how_much_likelier_the_answer_became(scorer):
    """By the formula: the log-probabilities of the tokens from the start of the answer, one by one."""
    ids = jnp.array([[TOKENIZER.document_end, *TOKENIZER.encode("abc?")]], jnp.int32)
    start, length = 3, ids.shape[1]

    def likelihood(params):
        scores = MODEL.apply({"params": params}, ids)[0][0]
        return sum(jax.nn.log_softmax(scores[place - 1])[ids[0, place]] for place in range(start, length))

    answers = one_a_row(ids, np.array([start]), np.array([length]), length - start)
    of_head = score_tokens(MODEL, scorer.scorer, answers)[0, -1]
    unlike = jax.tree.map(lambda x: 3 * x, scorer.reference)
    ratios = []
    for reference in (scorer.reference, unlike, jax.tree.map(jnp.zeros_like, unlike)):
        ratios.append(float(likelihood(scorer.scorer.trunk) - likelihood(reference)))
        found = scores_of(scorer._replace(reference=reference), answers)[0]
        np.testing.assert_allclose(found, of_head + scorer.weight * min(ratios[-1], MOST_LIKELIER), atol=1e-5)
        whole = log_likelihoods(MODEL, reference, answers)
        np.testing.assert_allclose(whole[0], likelihood(reference), atol=1e-5)
    assert max(ratios) > MOST_LIKELIER > min(map(abs, ratios)) > 1e-3, "each side of the bound is seen"


def test_answers_begin_after_the_turn_of_who_gives_them():
    earlier = (Message("user", "a"), Message("assistant", "b"), Message("user", "c?"))
    compared = comparer([PromptGroup(earlier, ("dd", "ee"), (Pair(0, 1),))])
    ids, start = compared.answers[0][0]
    prompt = ChatTemplate().encode(TOKENIZER, earlier, answer=True).tokens
    assert ids[:start] == [TOKENIZER.document_end, *prompt]
    assert TOKENIZER.decode(ids[start:-1]) == "dd"


def test_the_reference_stays_as_it_is(trunk):
    trainer = RewardTrainer(
        MODEL, RewardConfig(steps=2, warmup_steps=0, learning_rate=0.01), comparer([group("a", "b")])
    )
    state = trainer.take_step(trainer.initial(trunk, seed=0), 1).state
    assert all(map(np.array_equal, jax.tree.leaves(state.params.reference), jax.tree.leaves(trunk)))
    moved = map(np.array_equal, jax.tree.leaves(state.params.scorer.trunk), jax.tree.leaves(trunk))
    assert not all(moved)


def test_the_head_is_drawn_as_stated():
    found = init_scorer(jax.random.key(0), {}, width=255, heads=200)
    assert np.std(found.kernel) == pytest.approx(1 / 16, rel=0.02)  # 1 / sqrt(255 + 1)
    assert not np.any(found.bias)


def test_normalized_scores_have_mean_0_and_std_1(scorer):
    groups = [group(a + b, b + a, prompt=a) for a in LETTERS for b in LETTERS if a != b]
    compared = comparer(groups)
    trainer = RewardTrainer(MODEL, RewardConfig(heads=2), compared)
    before = np.concatenate(trainer.scores(scorer, compared, range(len(groups))))
    after = np.concatenate(trainer.scores(normalized(scorer, before), compared, range(len(groups))))
    np.testing.assert_allclose(after.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(after.std(axis=0), 1, atol=1e-4)
    # Only the scale moves: the order of answers stays.
    assert np.array_equal(np.argsort(before[:, 0]), np.argsort(after[:, 0]))


def utilities():
    """Each letter is worth something; an answer is worth the sum of its three."""
    return dict(zip(LETTERS, np.random.default_rng(1).normal(size=len(LETTERS)), strict=True))


def choose(count, seed):
    """Choices of someone who prefers a to b with probability sigma(u_a - u_b)."""
    rng, worth, groups, best = np.random.default_rng(seed), utilities(), [], []
    for number in range(count):
        one, other = ("".join(rng.choice(list(LETTERS), 3)) for _ in range(2))
        if one == other:
            continue
        p = 1 / (1 + np.exp(sum(worth[x] for x in other) - sum(worth[x] for x in one)))
        best.append(max(p, 1 - p))
        answers = (one, other) if rng.random() < p else (other, one)
        groups.append(group(*answers, prompt=f"{LETTERS[number % 8]}?"))
    return groups, float(np.mean(best))


def test_known_utilities_are_recovered(trunk):
    learned, _ = choose(6000, seed=2)
    held_out, ceiling = choose(4000, seed=3)
    config = RewardConfig(steps=250, batch_size=64, learning_rate=3e-3, warmup_steps=10)
    trainer = RewardTrainer(MODEL, config, comparer(learned, batch_size=64))
    state = trainer.initial(trunk, seed=0)
    for step in range(1, config.steps + 1):
        state, metrics, *_ = trainer.take_step(state, step)
    assert np.std(np.concatenate(trainer.scores(state.params, trainer.comparer, range(128)))) == pytest.approx(
        1, abs=1e-4
    )
    judged = comparer(held_out, batch_size=64)
    found = evaluate_reward(trainer, state.params, judged, metrics["score_std"])
    assert found.accuracy > ceiling - 0.01
    assert found.calibration_error < 0.02
    # Choices say nothing about answers to different prompts, so each prompt has an origin of its own.
    worth, pairs = utilities(), zip(trainer.scores(state.params, judged, range(len(held_out))), held_out, strict=True)
    by_prompt = {}
    for rows, group in pairs:
        for row, answer in zip(rows, group.answers, strict=True):
            by_prompt.setdefault(group.prompt, []).append((row[0], sum(worth[x] for x in answer)))
    centred = np.concatenate([np.array(found) - np.mean(found, axis=0) for found in by_prompt.values()])
    assert np.corrcoef(centred.T)[0, 1] > 0.98


def test_calibration_error_against_hand_counts():
    """Ten sure of 0.9 and right nine times are calibrated; right five times they are off by 0.4."""
    sure = np.log(9.0)  # sigma = 0.9
    assert calibration_error(np.array([sure] * 9 + [-sure])) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.array([sure] * 5 + [-sure] * 5)) == pytest.approx(0.4, abs=1e-9)


def test_batches_follow_from_the_number_and_take_every_prompt_in_turn():
    groups = [group(a, a + a, prompt=a) for a in LETTERS]
    one, other = comparer(groups, batch_size=4), comparer(groups, batch_size=4)
    assert np.array_equal(one.batch(5).answers.tokens, other.batch(5).answers.tokens)
    epoch = np.concatenate([one.batch(0).answers.tokens, one.batch(1).answers.tokens])
    assert len({row.tobytes() for row in epoch}) == len(LETTERS)


def test_a_batch_has_prompts_of_similar_length_and_a_window_every_one_once():
    groups = [group("a", "b", prompt="?" * (index * 5 % 16 + 1)) for index in range(16)]
    compared = comparer(groups, batch_size=2)
    shapes = [compared.batch(number).answers.tokens.shape for number in range(16)]
    assert len(set(shapes)) > 1
    assert {width for _, width in shapes} <= {12, 16, 24, 32}
    for window in (range(8), range(8, 16)):
        lengths = [np.count_nonzero(row) for n in window for row in compared.batch(n).answers.segments]
        assert sorted(lengths) == sorted(compared.lengths)
        assert all(abs(one - other) <= 1 for one, other in zip(lengths[::2], lengths[1::2], strict=True))
        assert lengths != sorted(lengths)  # batches come in any order


def test_no_batch_has_a_prompt_twice_but_where_two_turns_meet():
    """20 prompts in windows of 16: ten turns are 12 windows and a half, in each of which but two, two turns meet."""
    compared = comparer([group("a", "b", prompt="?" * (index + 1)) for index in range(20)], batch_size=2)
    met, seen = 0, Counter()
    for number in range(96):
        lengths = [np.count_nonzero(row) for row in compared.batch(number).answers.segments]
        met, seen = met + (len(set(lengths)) == 1), seen + Counter(lengths)
    assert met <= sum(window * 16 // 20 < (window * 16 + 15) // 20 for window in range(12))
    assert set(seen.values()) <= {9, 10}
    assert len(seen) == 20


def test_steps_over_batches_of_several_widths_go_on_from_any(trunk):
    config = RewardConfig(steps=4, batch_size=2, warmup_steps=1)
    compared = comparer([group("a", "b", prompt="?" * (index * 3 + 1)) for index in range(6)], batch_size=2)
    trainer = RewardTrainer(MODEL, config, compared)
    assert len({compared.batch(number).answers.tokens.shape for number in range(4)}) > 1
    state = trainer.initial(trunk, seed=0)
    for number in range(1, 5):
        state = trainer.take_step(state, number).state
        if number == 2:
            kept = jax.device_get(state)
    again = jax.device_put(kept)
    for number in (3, 4):
        again = RewardTrainer(MODEL, config, compared).take_step(again, number).state
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_models_of_other_lengths_and_rates_take_the_same_program_after_a_first_step_at_no_rate(trunk):
    compared, programs, moves = comparer([group("a", "b")], batch_size=2), [], []
    for steps, rate in ((2, 0.01), (4, 0.02)):
        config = RewardConfig(steps=steps, batch_size=2, warmup_steps=1, learning_rate=rate)
        trainer = RewardTrainer(MODEL, config, compared)
        first = jax.device_get(trainer.initial(trunk, seed=0))
        state = trainer.take_step(jax.device_put(first), 1).state
        for one, other in zip(jax.tree.leaves(first.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_array_equal(one, other)
        update = reward_step(state, compared.batch(1), rate, MODEL, config.label_smoothing, config.weight_decay)
        moves.append(update[0].params.scorer.trunk["embedding"] - first.params.scorer.trunk["embedding"])
        programs.append(reward_step._cache_size())
    np.testing.assert_allclose(2 * moves[0], moves[1], rtol=1e-3, atol=1e-7)
    assert np.abs(moves[0]).max() > 1e-3
    assert programs[0] == programs[1]


@pytest.mark.parametrize("rise", [0, 3, 8, 20])
def test_the_rate_rises_and_falls_in_lines(trunk, monkeypatch, rise):
    """Against Optax's schedules; a rise that is longer than the stage ends with it."""
    rates = []
    monkeypatch.setattr("rlhf.reward.reward_step", lambda state, batch, rate, *_: (state, rates.append(rate) or 0, 0))
    config = RewardConfig(steps=8, batch_size=2, warmup_steps=rise, learning_rate=0.5)
    trainer = RewardTrainer(MODEL, config, comparer([group("a", "b")], batch_size=2))
    state = trainer.initial(trunk, seed=0)
    for number in range(1, config.steps):
        trainer.take_step(state, number)
    up, down = optax.linear_schedule(0.0, 0.5, min(rise, 8)), optax.linear_schedule(0.5, 0.0, max(8 - rise, 1))
    schedule = optax.join_schedules([up, down], [min(rise, 8)])
    np.testing.assert_allclose(rates, [schedule(step) for step in range(7)], rtol=1e-6)


def test_lengths_are_rounded_to_two_steps_an_octave():
    assert [rounded(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 96, 97, 129)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 96, 128, 192]


def test_scores_come_in_the_order_that_was_asked_for(scorer):
    compared = comparer([group("a", "b" * n, "c", prompt="?" * n) for n in (9, 1, 7, 3, 5)], batch_size=2)
    trainer = RewardTrainer(MODEL, RewardConfig(batch_size=2), compared)
    found = trainer.scores(scorer, compared, [3, 0, 4, 1])
    for place, scores in zip([3, 0, 4, 1], found, strict=True):
        alone = scores_of(scorer, compared.collate([place]).answers)
        np.testing.assert_allclose(scores, alone[: len(scores)], atol=1e-5)


def test_an_answer_that_is_too_long_is_refused():
    with pytest.raises(UserError, match=r"the answer 'aaaa.* tokens with its prompt; reward.length, .* is 16"):
        comparer([group("a" * 30, "b")], length=16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "reward.steps=0"),
        ({"label_smoothing": 0.5}, "must lie in"),
        ({"weight_decay": -1.0}, "reward.weight_decay"),
    ],
)
def test_values_out_of_range_are_refused(changes, told):
    with pytest.raises(UserError, match=told):
        RewardConfig(**changes)
