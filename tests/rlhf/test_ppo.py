"""PPO where the answer is known: every sequence is enumerated, so expectations, gradients and the optimum are exact.

No number is copied from a run: optima and gradients come from formulas over all V^T sequences, in float64.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf.config import GRPOConfig, PPOConfig
from rlhf.grpo import GroupExperience, GRPOLearner
from rlhf.objectives import dpo, kl_k3
from rlhf.ppo import Experience, PPOLearner
from rlhf.rollout import Rollout
from tests.train.tiny import random_batch

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
    found, _ = PPOLearner(config, policy, critic).experience(values, rollout, jnp.asarray(rewards), old)
    probabilities = jnp.exp(rollout.log_probs.sum(axis=1, keepdims=True))
    return found._replace(weights=jnp.broadcast_to(probabilities, (COUNT, T)))


def learned_by_ppo(rewards, reference):
    """The policy after all iterations of real updates, from the reference."""
    learner = PPOLearner(EXACT, policy, critic)

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
    learner = PPOLearner(EXACT, policy, critic)
    for seed in range(2):
        values = jnp.asarray(np.random.default_rng(seed).normal(size=PREFIXES) * 3 * seed)
        experience = population(EXACT, table, values, rewards, reference)
        (found, _), metrics = learner.gradient((table, values), experience)
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
    mixed = PPOLearner(config, policy, critic, text_loss=text_loss)
    experience = population(config, table, values, rewards, reference)

    def gradient(learner, text):
        return learner.gradient((table, values), experience, text)[0]

    alone, alone_critic = gradient(PPOLearner(config, policy, critic), text)
    both, both_critic = gradient(mixed, text)
    of_text = jax.grad(text_loss)(table, text)
    assert np.linalg.norm(of_text) > 1e-2
    np.testing.assert_allclose(both, alone + 0.7 * of_text, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(both_critic, alone_critic)
    np.testing.assert_array_equal(gradient(mixed, None)[0], alone)


# --- epochs of minibatches ------------------------------------------------------------------------------------------


class Recorder(PPOLearner):
    """Moves nothing and keeps what episodes each update had a gradient of."""

    @cached_property
    def optimizer(self):
        updates = self.config.epochs * self.config.minibatches

        def record(grads, state, params=None):
            at, seen = state
            kept = jax.tree.map(lambda all, new: all.at[at].set((new != 0).astype(jnp.int32)), seen, grads)
            return jax.tree.map(jnp.zeros_like, grads), (at + 1, kept)

        def nothing(networks):
            return jnp.zeros((), jnp.int32), jax.tree.map(lambda x: jnp.zeros((updates, *x.shape), jnp.int32), networks)

        return optax.GradientTransformation(nothing, record)


def episodes(count):
    """Episode i consists of token i; nobody expects anything of it."""
    ones, zeros = jnp.ones(count, jnp.int32), jnp.zeros((count, 1))
    tokens = jnp.stack([ones, jnp.arange(count, dtype=jnp.int32)], axis=1)
    rollout = Rollout(tokens, ones, ones, jnp.ones(count), zeros)
    return Experience(rollout, zeros + 1, zeros, zeros + 1, zeros + 1)


def by_episode(table, rollout):
    """A parameter for each episode."""
    return table[rollout.responses()]


@pytest.mark.parametrize(("epochs", "minibatches", "group"), [(1, 1, 1), (3, 4, 1), (2, 8, 1), (3, 2, 2)])
def test_every_epoch_takes_every_episode_once_and_each_minibatch_is_a_step(epochs, minibatches, group):
    config = PPOConfig(batch_size=8, group_size=group, epochs=epochs, minibatches=minibatches)

    def policy(table, rollout):
        return by_episode(table, rollout), jnp.zeros_like(rollout.log_probs)

    def after(kind):
        learner = kind(config, policy, by_episode)
        return learner.update(learner.initial(jnp.zeros(8), jnp.zeros(8)), episodes(8), jax.random.key(0))[0]

    moved = after(PPOLearner)
    assert moved.step == 1
    counts = [int(count) for _, count in optax.tree.get_all_with_path(moved.opt_state, "count")]
    assert counts == [epochs * minibatches] * 4  # Adam and its schedule, of the policy and of the critic
    for seen in after(Recorder).opt_state[1]:
        assert np.all(seen.sum(axis=1) == 8 // minibatches)
        assert np.all(seen.reshape(epochs, minibatches, 8).sum(axis=1) == 1)
        by_prompt = seen.reshape(-1, 8 // group, group)
        assert np.array_equal(by_prompt, np.broadcast_to(by_prompt[..., :1], by_prompt.shape))
        if epochs > 1:
            assert not np.array_equal(seen[:minibatches], seen[minibatches : 2 * minibatches])


# --- parts of a minibatch -------------------------------------------------------------------------------------------


def ragged(count, seed=0):
    """Episodes of one to `T` tokens with advantages and values of all kinds, as PPO and GRPO know them."""
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(np.pad(rng.integers(0, V, (count, T)), ((0, 0), (1, 0))), jnp.int32)
    ones, lengths = jnp.ones(count, jnp.int32), jnp.asarray(1 + rng.permutation(count) % T, jnp.int32)
    rollout = Rollout(tokens, ones, lengths, jnp.ones(count), jnp.asarray(rng.normal(size=(count, T)) - 1))
    advantages, values, returns, reference = (jnp.asarray(rng.normal(size=(count, T))) for _ in range(4))
    mask = rollout.mask.astype(float)
    return {
        "ppo": Experience(rollout, mask, values, advantages, returns),
        "grpo": GroupExperience(rollout, mask / lengths[:, None], advantages, reference - 1),
    }


def constant_adam(rate, updates, epsilon):
    """`scheduled_adam` without its schedule."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, eps=epsilon))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_accumulation_changes_nothing_however_many_tokens_a_part_has(method, monkeypatch):
    # Optax's schedules count in float32 here too, and round their rate as each program is compiled.
    monkeypatch.setattr("rlhf.learner.scheduled_adam", constant_adam)
    experience, table = ragged(48)[method], problem()[2]
    sizes = {"batch_size": 48, "epochs": 2, "minibatches": 2, "learning_rate": 0.05}
    texts = jax.tree.map(lambda *x: np.stack(x), *(random_batch(seed, vocabulary=V) for seed in range(4)))

    def text_loss(table, batch):
        return -jnp.sum(jax.nn.log_softmax(table)[batch.tokens, batch.targets] * batch.weights)

    def after(parts):
        if method == "grpo":
            config = GRPOConfig(**sizes, group_size=2, accumulation=parts)
            learner, values = GRPOLearner(config, policy, text_loss=text_loss), ()
        else:
            config = PPOConfig(**sizes, critic_learning_rate=0.05, accumulation=parts)
            learner, values = PPOLearner(config, policy, critic, text_loss=text_loss), jnp.zeros(PREFIXES)
        return learner.update(learner.initial(table, values), experience, jax.random.key(0), texts)

    whole, measured = after(1)
    assert not np.allclose(whole.params, table, atol=1e-2)
    for parts in (2, 4, 12):
        state, again = after(parts)
        for one, other in zip(jax.tree.leaves((whole, measured)), jax.tree.leaves((state, again)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    # Nor would it change anything if parts were alike; these are not.
    by_part = [float(part.sum()) for part in ragged(48)["ppo"].weights.reshape(4, 12, T)]
    assert len(set(by_part)) > 1
