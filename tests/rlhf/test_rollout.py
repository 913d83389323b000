"""Drawn responses against the model's own distribution, computed at once and without a cache."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.transformer import Transformer
from rlhf.rollout import Rollout, generate, response_log_probs
from tests.model.families import FAMILIES, model_and_parameters, random_tokens
from tests.train.tiny import CONFIG

MODEL = Transformer(CONFIG)
P, R, ROWS = 7, 9, 64
STOP = (3, 11)


@pytest.fixture(scope="module")
def params():
    """Random, and sure enough of itself that contexts and temperatures matter: fresh logits are all but equal."""
    fresh = nn.unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"]
    return {**fresh, "embedding": 4 * fresh["embedding"]}


def inputs(seed=0, rows=ROWS):
    """Prompts of every length up to P, and a temperature of each row's own."""
    rng = np.random.default_rng(seed)
    lengths = (1 + np.arange(rows) % P).astype(np.int32)
    prompts = rng.integers(1, CONFIG.vocab_size, (rows, P)).astype(np.int32)
    prompts[np.arange(P) >= lengths[:, None]] = 0
    return prompts, lengths, rng.uniform(0.3, 2.0, rows).astype(np.float32)


@pytest.fixture(scope="module")
def drawn(params):
    return generate(MODEL, params, jax.random.key(1), *inputs(), R, STOP)


def distributions(params, tokens, temperature):
    """log softmax(logits / temperature) of one whole row, no padding anywhere."""
    scores = np.asarray(MODEL.apply({"params": params}, jnp.asarray(tokens)[None])[0][0], np.float64) / temperature
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def test_log_probs_while_drawing_are_those_of_the_finished_rows(params, drawn):
    """Through the cache, one token at a time, against all at once: the first PPO step has ratio 1."""
    found, _ = response_log_probs(MODEL, params, drawn)
    mask = np.asarray(drawn.mask)
    assert mask.sum() > 3 * ROWS
    assert np.max(np.abs(found - drawn.log_probs)[mask]) < 1e-5


@pytest.mark.parametrize("family", ["gpt3", "llama"])
def test_a_prompt_read_once_is_seen_by_each_of_its_answers(family):
    """Through bands of attention that begin in the prompt, and key heads that several query heads share."""
    model, params = model_and_parameters(FAMILIES[family])
    prompts, lengths = random_tokens(4, 4), np.array([1, 2, 3, 4], np.int32)
    drawn = generate(model, params, jax.random.key(1), prompts, lengths, np.ones(4, np.float32), 4, (), answers=3)
    for each in (1, 3):
        found, _ = response_log_probs(model, params, drawn, each)
        np.testing.assert_allclose(found, drawn.log_probs, atol=1e-5)


def test_log_probs_and_entropies_are_the_formula_row_by_row(params, drawn):
    found, entropies = response_log_probs(MODEL, params, drawn)
    for row in (5, 29):
        prompt, length = int(drawn.prompt_lengths[row]), int(drawn.lengths[row])
        tokens = np.asarray(drawn.tokens[row, :length])
        log_p = distributions(params, tokens, float(drawn.temperature[row]))[prompt - 1 : length - 1]
        expected = log_p[np.arange(length - prompt), tokens[prompt:]]
        np.testing.assert_allclose(found[row, : length - prompt], expected, atol=1e-5)
        entropy = -(np.exp(log_p) * log_p).sum(-1)
        np.testing.assert_allclose(entropies[row, : length - prompt], entropy, atol=1e-4)


@pytest.mark.parametrize("filler", [0, 5])
def test_more_padding_changes_no_log_prob(params, drawn, filler):
    tokens = np.pad(np.asarray(drawn.tokens), ((0, 0), (0, 5)))
    tokens[np.arange(tokens.shape[1]) >= np.asarray(drawn.lengths)[:, None]] = filler
    more = drawn._replace(tokens=tokens)
    mask = np.asarray(drawn.mask)
    for one, other in zip(
        response_log_probs(MODEL, params, drawn), response_log_probs(MODEL, params, more), strict=True
    ):
        np.testing.assert_allclose(np.asarray(one)[mask], np.asarray(other)[mask], atol=1e-5)


def test_what_stands_on_a_prompts_padding_changes_no_draw(params, drawn):
    prompts, lengths, temperature = inputs()
    wide = np.pad(prompts, ((0, 0), (0, 4)))
    wide[np.arange(P + 4) >= lengths[:, None]] = 8
    other = generate(MODEL, params, jax.random.key(1), wide, lengths, temperature, R, STOP)
    assert np.array_equal(other.response_lengths, drawn.response_lengths)
    assert np.array_equal(other.responses(), drawn.responses())
    np.testing.assert_allclose(other.log_probs, drawn.log_probs, atol=1e-5)


def test_several_answers_to_a_prompt_are_those_to_the_prompt_several_times(params):
    repeated = [np.repeat(x, 3, axis=0) for x in inputs()]
    once = generate(MODEL, params, jax.random.key(1), *inputs(), R, STOP, answers=3)
    for one, other in zip(once, generate(MODEL, params, jax.random.key(1), *repeated, R, STOP), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_response_ends_with_its_first_stop_token_and_only_zeros_follow(drawn):
    responses, log_probs = np.asarray(drawn.responses()), np.asarray(drawn.log_probs)
    stops = np.isin(responses, STOP)
    expected = np.where(stops.any(1), stops.argmax(1) + 1, R)
    assert np.array_equal(drawn.response_lengths, expected)
    assert {1, R} < set(expected.tolist())
    mask = np.arange(R) < expected[:, None]
    assert np.array_equal(drawn.mask, mask)
    assert np.array_equal(drawn.lengths, np.asarray(drawn.prompt_lengths) + expected)
    assert not responses[~mask].any()
    assert not log_probs[~mask].any()
    assert np.all(log_probs[mask] < 0)
    # Token 0 was drawn too, and counts as any other.
    assert np.any(responses[mask] == 0)


def test_prompts_stand_unchanged_in_front_of_their_responses(drawn):
    prompts, lengths, temperature = inputs()
    tokens = np.asarray(drawn.tokens)
    assert tokens.shape == (ROWS, P + R)
    for row, length in enumerate(lengths):
        assert np.array_equal(tokens[row, :length], prompts[row, :length])
        assert np.array_equal(tokens[row, length : length + R], drawn.responses()[row])
    assert np.array_equal(drawn.prompt_lengths, lengths)
    assert np.array_equal(drawn.temperature, temperature)


def test_a_key_decides_every_draw(params, drawn):
    again = generate(MODEL, params, jax.random.key(1), *inputs(), R, STOP)
    for one, other in zip(drawn, again, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(
        generate(MODEL, params, jax.random.key(2), *inputs(), R, STOP).responses(), drawn.responses()
    )


def test_a_draw_is_that_of_the_library_with_its_key(params):
    """The first token of many rows beside `jax.random.categorical`, whose noise it takes."""
    rows, prompt, temperature = 500, np.array([1, 2, 5], np.int32), 0.7
    same = np.tile(prompt, (rows, 1)), np.full(rows, 3, np.int32), np.full(rows, temperature, np.float32)
    found = generate(MODEL, params, jax.random.key(3), *same, 1, ())
    logits = MODEL.apply({"params": params}, jnp.asarray(same[0]))[0][:, -1]
    expected = jax.random.categorical(jax.random.fold_in(jax.random.key(3), 0), logits / temperature)
    assert len(set(expected.tolist())) > 2
    assert np.mean(found.responses()[:, 0] == expected) > 0.99  # rounding may decide between two


@pytest.mark.parametrize("place", [0, 1])
def test_draws_are_as_frequent_as_the_tempered_distribution_says(params, place):
    """Many rows of one prompt: the first token, and the second among rows that began with the commonest first."""
    rows, prompt, temperature = 20_000, np.array([1, 2, 5], np.int32), 0.3
    same = np.tile(prompt, (rows, 1)), np.full(rows, 3, np.int32), np.full(rows, temperature, np.float32)
    found = generate(MODEL, params, jax.random.key(3), *same, 2, ())
    assert np.all(np.asarray(found.response_lengths) == 2)  # no stop tokens, no stop
    responses = np.asarray(found.responses())
    if place:
        first = np.bincount(responses[:, 0]).argmax()
        responses, prompt = responses[responses[:, 0] == first], np.append(prompt, first)
    share = np.bincount(responses[:, place], minlength=CONFIG.vocab_size) / len(responses)

    def distance(temperature):
        return np.abs(share - np.exp(distributions(params, prompt, temperature)[-1])).sum() / 2

    # What V equally likely tokens would be off by on average is sqrt(V / (2 pi n)).
    chance = np.sqrt(CONFIG.vocab_size / (2 * np.pi * len(responses)))
    assert distance(temperature) < 1.5 * chance
    assert distance(1.0) > 3 * chance


@pytest.mark.parametrize("each", [1, 2])
def test_each_token_is_read_where_it_was_drawn_from(each):
    """Alone in a row and behind a shared prompt: the last token of the prompt, then the answer's own."""
    tokens = jnp.asarray([[3, 4, 5, 6, 0], [3, 4, 7, 0, 0], [5, 6, 0, 0, 0], [5, 7, 8, 0, 0]], jnp.int32)
    rollout = Rollout(tokens, jnp.asarray([2, 2, 1, 1]), jnp.asarray([2, 1, 1, 2]), jnp.ones(4), jnp.zeros((4, 2)))
    answers = rollout.answers(each)
    read = [jnp.take_along_axis(jnp.asarray(x), answers.wanted, axis=1) for x in (answers.tokens, answers.positions)]
    before = answers.drawn_from(jnp.stack(read, axis=-1).astype(float))
    mask = np.asarray(rollout.mask)
    assert np.array_equal(answers.inside, mask)
    assert np.array_equal(before[..., 0][mask], [4, 5, 4, 5, 5, 7])
    assert np.array_equal(before[..., 1][mask], [1, 2, 1, 0, 0, 1])
    said, places = answers.said()
    of_each = [np.asarray(answers.of_answers(x.astype(float)))[mask] for x in (said, places)]
    assert np.array_equal(of_each[0], [5, 6, 7, 6, 7, 8])
    assert np.array_equal(np.asarray(answers.wanted)[np.asarray(answers.rows), 0], [1, 1, 0, 0])
    assert np.array_equal(of_each[1], [0, 1, 0, 0, 0, 1] if each == 1 else [0, 1, 0, 0, 0, 3])
