"""PPO where the answer is known: every sequence is enumerated, so expectations, gradients and the optimum are exact.

No number is copied from a run: optima and gradients come from formulas over all V^T sequences, in float64.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.chat import ChatTemplate, Message
from model.errors import UserError
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from rlhf.config import PPOConfig
from rlhf.objectives import dpo, kl_k3
from rlhf.ppo import Experience, Learner, PaddedPrompts, PPOTrainer, encode_prompts, experience_of
from rlhf.rollout import Rollout
from rlhf.scorer import init_scorer
from tests.train.tiny import CONFIG, random_batch

V, T, BETA = 3, 3, 0.5
COUNT = V**T
SEQUENCES = np.stack(np.unravel_index(np.arange(COUNT), (V,) * T), axis=1).astype(np.int32)
PREFIXES = sum(V**t for t in range(T))
EXACT = PPOConfig(
    steps=500,
    batch_size=COUNT,
    minibatches=1,
    kl_coefficient=BETA,
    gae_decay=1.0,
    whiten_advantages=False,
    learning_rate=0.05,
    critic_learning_rate=0.05,
)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def prefixes(rollout):
    """The number of what stands before each token: shorter prefixes first, those of a length in order."""
    found, before = [], jnp.zeros(len(rollout.tokens), jnp.int32)
    for t in range(T):
        found.append(sum(V**k for k in range(t)) + before)
        before = V * before + rollout.responses()[:, t]
    return jnp.stack(found, axis=1)


def policy(table, rollout):
    """A row of logits for each prefix."""
    rows = jax.nn.log_softmax(table)[prefixes(rollout)]
    log_probs = jnp.take_along_axis(rows, rollout.responses()[..., None], axis=-1)[..., 0]
    return log_probs, -jnp.sum(jnp.exp(rows) * rows, axis=-1)


def critic(table, rollout):
    return table[prefixes(rollout)]


def everything(table):
    """Every sequence once, with its probabilities under a policy."""
    tokens = jnp.pad(jnp.asarray(SEQUENCES), ((0, 0), (1, 0)))
    ones = jnp.ones(COUNT, jnp.int32)
    blank = Rollout(tokens, ones, T * ones, jnp.ones(COUNT), jnp.zeros((COUNT, T)))
    return blank._replace(log_probs=policy(table, blank)[0])


def whole(table):
    """log p of every sequence."""
    return everything(table).log_probs.sum(axis=1)


def problem(seed=0):
    """Rewards of all sequences, a reference and a policy."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=COUNT), jnp.asarray(rng.normal(size=(PREFIXES, V))), jnp.asarray(rng.normal(size=(13, V)))


def optimum(rewards, reference):
    """log pi* and log Z of pi* = reference * exp(r / beta) / Z."""
    tilted = whole(reference) + rewards / BETA
    log_z = jax.nn.logsumexp(tilted)
    return tilted - log_z, log_z


def kl(log_p, log_q):
    return float(jnp.sum(jnp.exp(log_p) * (log_p - log_q)))


def objective(table, rewards, reference):
    """J = E[r] - beta KL(pi || reference), by enumeration."""
    log_p = whole(table)
    return jnp.sum(jnp.exp(log_p) * (rewards - BETA * (log_p - whole(reference))))


def population(config, table, values, rewards, reference) -> Experience:
    """What a policy meets on average: every sequence, weighted by its probability."""
    rollout = everything(table)
    old = policy(reference, rollout)[0]
    found, _ = experience_of(config, rollout, jnp.asarray(rewards), old, critic(values, rollout))
    probabilities = jnp.exp(rollout.log_probs.sum(axis=1, keepdims=True))
    return found._replace(weights=jnp.broadcast_to(probabilities, (COUNT, T)))


def learned_by_ppo(rewards, reference):
    """The policy after all iterations of real updates, from the reference."""
    learner = Learner(EXACT, policy, critic)

    def iteration(state, key):
        experience = population(EXACT, state.params, state.critic, rewards, reference)
        return learner.update(state, experience, key)[0], None

    keys = jax.random.split(jax.random.key(0), EXACT.steps)
    start = learner.initial(reference, jnp.zeros(PREFIXES))
    return jax.jit(partial(jax.lax.scan, iteration))(start, keys)[0].params


@pytest.mark.usefixtures("float64")
def test_ppo_reaches_the_tilted_reference_and_k3_in_the_reward_does_not(monkeypatch):
    """The penalty's gradient comes from the score function alone, which is right for k1 and biased for k3."""
    rewards, reference, _ = problem()
    best, _ = optimum(rewards, reference)
    assert kl(whole(reference), best) > 0.3
    missed_by = kl(whole(learned_by_ppo(rewards, reference)), best)
    assert missed_by < 1e-3
    monkeypatch.setattr("rlhf.ppo.kl_k1", kl_k3)
    assert kl(whole(learned_by_ppo(rewards, reference)), best) > max(10 * missed_by, 1e-2)


@pytest.mark.usefixtures("float64")
def test_dpo_on_all_pairs_reaches_the_same_policy():
    """Each pair in both orders, weighted by the probability of that choice under Bradley-Terry."""
    rewards, reference, _ = problem()
    one, other = (places.reshape(-1) for places in np.indices((COUNT, COUNT)))
    weights = jnp.asarray(1 / (1 + np.exp(rewards[other] - rewards[one])) * (one != other))
    optimizer = optax.adam(optax.linear_schedule(0.05, 0.005, 500))

    def loss(table):
        implicit = whole(table) - whole(reference)
        return dpo(implicit[one], implicit[other], BETA, weights).loss

    def step(carry, _):
        table, state = carry
        moves, state = optimizer.update(jax.grad(loss)(table), state)
        return (optax.apply_updates(table, moves), state), None

    (table, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), length=500))(reference)
    assert kl(whole(table), optimum(rewards, reference)[0]) < 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(3))
def test_what_a_policy_falls_short_of_is_beta_times_its_kl_from_the_optimum(seed):
    rewards, reference, table = problem(seed)
    best, log_z = optimum(rewards, reference)
    short = BETA * log_z - objective(table, rewards, reference)
    assert float(short) == pytest.approx(BETA * kl(whole(table), best), rel=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_first_gradient_is_exactly_that_of_the_objective_whatever_the_critic_says():
    """A mean over tokens: a T-th of the gradient of J, which is over sequences. Values by prefix cancel."""
    rewards, reference, table = problem()
    exact = -jax.grad(objective)(table, rewards, reference) / T
    learner = Learner(EXACT, policy, critic)
    for seed in range(2):
        values = jnp.asarray(np.random.default_rng(seed).normal(size=PREFIXES) * 3 * seed)
        experience = population(EXACT, table, values, rewards, reference)
        (found, _), metrics = jax.grad(learner.loss, has_aux=True)((table, values), experience, None)
        assert np.linalg.norm(found - exact) < 1e-6 * np.linalg.norm(exact)
        assert metrics["clip_fraction"] == 0
        assert float(metrics["update_kl"]) == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_gradient_with_text_is_the_sum_of_both():
    rewards, reference, table = problem()
    values, text = jnp.zeros(PREFIXES), random_batch(0, vocabulary=V)

    def text_loss(table, batch):
        losses = -jax.nn.log_softmax(table)[batch.tokens, batch.targets]
        return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)

    config = replace(EXACT, ptx_coefficient=0.7)
    mixed = Learner(config, policy, critic, text_loss)
    experience = population(config, table, values, rewards, reference)

    def gradient(learner, text):
        return jax.grad(learner.loss, has_aux=True)((table, values), experience, text)[0]

    alone, alone_critic = gradient(Learner(config, policy, critic), text)
    both, both_critic = gradient(mixed, text)
    of_text = jax.grad(text_loss)(table, text)
    assert np.linalg.norm(of_text) > 1e-2
    np.testing.assert_allclose(both, alone + 0.7 * of_text, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(both_critic, alone_critic)
    np.testing.assert_array_equal(gradient(mixed, None)[0], alone)


# --- epochs of minibatches ------------------------------------------------------------------------------------------


class Recorder(Learner):
    """Moves nothing and keeps what episodes each update had a gradient of."""

    @cached_property
    def optimizers(self):
        updates = self.config.epochs * self.config.minibatches

        def record(grads, state, params=None):
            at, seen = state
            return jax.tree.map(jnp.zeros_like, grads), (at + 1, seen.at[at].set((grads != 0).astype(jnp.int32)))

        recorder = optax.GradientTransformation(
            lambda params: (jnp.zeros((), jnp.int32), jnp.zeros((updates, *params.shape), jnp.int32)), record
        )
        return recorder, recorder


def episodes(count):
    """Episode i consists of token i; nobody expects anything of it."""
    ones, zeros = jnp.ones(count, jnp.int32), jnp.zeros((count, 1))
    tokens = jnp.stack([ones, jnp.arange(count, dtype=jnp.int32)], axis=1)
    rollout = Rollout(tokens, ones, ones, jnp.ones(count), zeros)
    return Experience(rollout, zeros + 1, zeros, zeros + 1, zeros + 1)


def by_episode(table, rollout):
    """A parameter for each episode."""
    return table[rollout.responses()]


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 4), (2, 8)])
def test_every_epoch_takes_every_episode_once_and_each_minibatch_is_a_step(epochs, minibatches):
    config = PPOConfig(batch_size=8, epochs=epochs, minibatches=minibatches)

    def policy(table, rollout):
        return by_episode(table, rollout), jnp.zeros_like(rollout.log_probs)

    def after(kind):
        learner = kind(config, policy, by_episode)
        return learner.update(learner.initial(jnp.zeros(8), jnp.zeros(8)), episodes(8), jax.random.key(0))[0]

    moved = after(Learner)
    assert moved.step == 1
    assert moved.opt_state[1][0].count == moved.critic_opt_state[1][0].count == epochs * minibatches
    recorded = after(Recorder)
    for _, seen in (recorded.opt_state, recorded.critic_opt_state):
        assert np.all(seen.sum(axis=1) == 8 // minibatches)
        assert np.all(seen.reshape(epochs, minibatches, 8).sum(axis=1) == 1)
        if epochs > 1:
            assert not np.array_equal(seen[:minibatches], seen[minibatches : 2 * minibatches])


# --- on a transformer -----------------------------------------------------------------------------------------------

TOKENIZER = train_tokenizer(TokenizerConfig(kind="char"), ["abcdefgh?"])
TEMPLATE = ChatTemplate()
MODEL = Transformer(replace(CONFIG, vocab_size=TOKENIZER.size, context_length=32))
SMALL = PPOConfig(batch_size=8, epochs=2, minibatches=2, max_tokens=6)


def encoded(room=20, prompts=("a?", "bc?", "def?", "?")):
    rows = encode_prompts([(Message("user", p),) for p in prompts], TOKENIZER, TEMPLATE, room)
    return PaddedPrompts(rows, SMALL.batch_size, seed=0)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"]


@pytest.fixture(scope="module")
def scorer(params):
    return init_scorer(jax.random.key(1), params, MODEL.config.width, heads=2)


def trainer_of(params, reward, config=SMALL):
    stop = (TEMPLATE.stop_token(TOKENIZER),)
    return PPOTrainer(MODEL, config, encoded(), params, reward, TOKENIZER, stop, seed=0)


@pytest.fixture(scope="module")
def trainer(params, scorer):
    return trainer_of(params, scorer)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_step_follows_from_its_state_and_number(params, scorer, trainer):
    """Bit for bit, in another trainer too; another number is another step, and what was given is left alone."""
    before = jax.tree.map(np.array, (params, scorer))
    one, other = trainer, trainer_of(params, scorer)
    found = one.take_step(one.initial(params, scorer), 3)
    for again in (one, other):
        repeated = again.take_step(again.initial(params, scorer), 3)
        assert same(found.state, repeated.state)
        assert found.metrics == repeated.metrics
        assert found.samples == repeated.samples
    assert not same(found.state, one.take_step(one.initial(params, scorer), 4).state)
    assert same(before, (params, scorer))
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_the_first_minibatch_has_ratio_1(params, scorer):
    trainer = trainer_of(params, scorer, replace(SMALL, epochs=1, minibatches=1))
    rollout = trainer.rollout(params, 1)
    ratios = trainer.learner.policy(params, rollout)[0] - rollout.log_probs
    assert np.max(np.abs(ratios)[np.asarray(rollout.mask)]) < 1e-5
    metrics = trainer.take_step(trainer.initial(params, scorer), 1).metrics
    assert metrics["clip_fraction"] == metrics["value_clip_fraction"] == 0
    assert metrics["update_kl"] < 1e-8
    assert metrics["kl"] == pytest.approx(0, abs=1e-4)  # the policy begins as the reference


def test_the_critic_begins_as_the_mean_of_the_reward_models_heads(params, scorer):
    trainer = trainer_of(params, scorer, replace(SMALL, unstopped_penalty=0.0))
    rollout, state = trainer.rollout(params, 1), trainer.initial(params, scorer)
    _, measured = trainer._prepare(state.critic, rollout)
    longer = rollout._replace(
        prompt_lengths=rollout.prompt_lengths + rollout.response_lengths, log_probs=rollout.log_probs[:, :1]
    )
    # What it says at the last token of an answer is the answer's score.
    assert float(measured["reward"]) == pytest.approx(float(trainer.learner.critic(state.critic, longer).mean()), 1e-4)


def test_gold_is_asked_about_the_prompt_of_each_answer(params, scorer, trainer, monkeypatch):
    asked = []

    def gold(place, answer):
        asked.append((place, answer))
        return float(place)

    monkeypatch.setattr(trainer, "gold", gold)
    found = trainer.take_step(trainer.initial(params, scorer), 1)
    places = trainer.prompts.batch(0).tolist()
    assert [place for place, _ in asked] == places
    assert [answer for _, answer in asked] == trainer.answers(trainer.rollout(params, 1))
    assert found.metrics["gold_reward"] == pytest.approx(np.mean(places))


def test_scores_that_are_not_finite_are_refused(params, scorer):
    trainer = trainer_of(params, scorer._replace(bias=scorer.bias * np.nan))
    with pytest.raises(UserError, match="iteration 2: the reward model's scores are not finite"):
        trainer.take_step(trainer.initial(params, scorer), 2)


def test_a_prompt_that_leaves_no_room_is_refused_by_its_number():
    with pytest.raises(UserError, match=r"prompt 1 has \d+ tokens; .* room for 12"):
        encoded(room=12, prompts=("a?", "abcdefgh" * 3))


def test_prompts_come_in_turn_and_by_number():
    prompts = encoded()
    assert sorted(prompts.batch(0)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(encoded().batch(7), prompts.batch(7))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kl_coefficient": -1.0}, "ppo.kl_coefficient=-1.0"),
        ({"clip": 0.0}, "ppo.clip=0.0"),
        ({"gae_decay": 1.5}, "must lie between 0 and 1"),
        ({"minibatches": 3, "batch_size": 8}, "does not divide"),
    ],
)
def test_values_out_of_range_are_refused(changes, told):
    with pytest.raises(UserError, match=told):
        PPOConfig(**changes)
