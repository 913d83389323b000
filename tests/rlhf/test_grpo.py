"""GRPO's loss against the paper's formula written out token by token, and what it comes to where that is known."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf.config import GRPOConfig
from rlhf.grpo import GroupExperience, GRPOLearner
from rlhf.rollout import Rollout

B, R, V = 6, 4, 3
LENGTHS = np.array([4, 1, 3, 2, 4, 2])
CONFIG = GRPOConfig(batch_size=B, group_size=3, kl_coefficient=0.3, ptx_coefficient=0.0)


def episodes(log_probs, lengths=LENGTHS):
    rows = len(lengths)
    ones = jnp.ones(rows, jnp.int32)
    tokens = jnp.zeros((rows, 1 + log_probs.shape[1]), jnp.int32)
    return Rollout(tokens, ones, jnp.asarray(lengths, jnp.int32), jnp.ones(rows), jnp.asarray(log_probs))


def paper(log_probs, old, reference, scores, clip, beta):
    """Equations 3 and 4, negated, and 4.1.2's advantages; one token after the other."""
    total = 0.0
    for group in range(0, B, 3):
        rewards = scores[group : group + 3]
        for i in range(group, group + 3):
            advantage = (scores[i] - rewards.mean()) / (rewards.std() + 1e-4)
            of_answer = 0.0
            for t in range(LENGTHS[i]):
                ratio = np.exp(log_probs[i, t] - old[i, t])
                kept = min(max(ratio, 1 - clip), 1 + clip)
                off = np.exp(reference[i, t] - log_probs[i, t])
                kl = off - np.log(off) - 1
                of_answer += min(ratio * advantage, kept * advantage) - beta * kl
            total += of_answer / LENGTHS[i] / 3
    return -total / (B // 3)


def test_the_loss_and_its_gradient_are_the_papers():
    """Every answer counts the same, however long; padding counts nothing."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        log_probs, old, reference = rng.normal(size=(3, B, R)) * 0.3 - 1
        scores = rng.normal(size=B)
        learner = GRPOLearner(CONFIG, lambda table, rollout: (table, jnp.zeros_like(table)))
        rollout = episodes(np.where(np.arange(R) < LENGTHS[:, None], old, 0))
        experience, measured = learner.experience((), rollout, jnp.asarray(scores), jnp.asarray(reference))
        assert float(measured["score_spread"]) == pytest.approx(np.mean([scores[:3].std(), scores[3:].std()]))
        (loss, metrics), slopes = jax.value_and_grad(learner.loss, has_aux=True)(
            (jnp.asarray(log_probs), ()), experience
        )
        written = partial(paper, old=old, reference=reference, scores=scores, clip=CONFIG.clip, beta=0.3)
        assert float(loss) == pytest.approx(written(log_probs), rel=1e-10)
        assert 0 < metrics["clip_fraction"] < 1
        for place in np.ndindex(B, R):
            move = np.zeros((B, R))
            move[place] = 1e-6
            slope = (written(log_probs + move) - written(log_probs - move)) / 2e-6
            assert float(slopes[0][place]) == pytest.approx(slope, abs=1e-8)


def stationary(worth, reference, beta):
    """Where the pushes of advantages and the pulls of k3's gradient, that of KL(reference || policy), are level:
    policy (beta - advantage) = beta reference."""
    p = reference
    for _ in range(2000):
        mean = p @ worth
        advantages = (worth - mean) / np.sqrt(p @ (worth - mean) ** 2)
        p = p + 0.01 * (p * advantages - beta * (p - reference))
    return p


def test_answers_become_as_likely_as_the_objective_says():
    """One token, drawn again and again from a table: without a KL all weight goes to the token that scores most."""
    config = GRPOConfig(steps=400, batch_size=128, group_size=32, learning_rate=0.1)
    worth, reference = np.array([0.0, 1.0, 0.5]), np.array([0.5, 0.2, 0.3])

    def policy(table, rollout):
        drawn = jax.nn.log_softmax(table)[rollout.tokens[:, 1:]]
        return drawn, jnp.zeros_like(drawn)

    def learned(beta):
        learner = GRPOLearner(replace(config, kl_coefficient=beta), policy)

        def iteration(state, key):
            token = jax.random.categorical(key, state.params, shape=(128, 1)).astype(jnp.int32)
            rollout = episodes(jnp.zeros((128, 1)), np.ones(128))._replace(tokens=jnp.pad(token, ((0, 0), (1, 0))))
            rollout = rollout._replace(log_probs=policy(state.params, rollout)[0])
            scores, log_reference = (jnp.asarray(x, jnp.float32)[token] for x in (worth, np.log(reference)))
            experience, _ = learner.experience((), rollout, scores[:, 0], log_reference)
            return learner.update(state, experience, key)[0], jax.nn.softmax(state.params)

        keys = jax.random.split(jax.random.key(0), config.steps)
        start = learner.initial(jnp.log(jnp.asarray(reference, jnp.float32)))
        return np.asarray(jax.jit(partial(jax.lax.scan, iteration))(start, keys)[1])

    assert learned(0.0)[-1][1] > 0.99
    expected = stationary(worth, reference, 2.0)
    assert np.abs(expected - reference).max() > 0.1
    np.testing.assert_allclose(learned(2.0)[200:].mean(axis=0), expected, atol=0.02)


def test_experience_repeats_the_answers_advantage_at_its_tokens():
    learner = GRPOLearner(CONFIG, lambda table, rollout: (table, table))
    scores = jnp.asarray([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    found, _ = learner.experience((), episodes(jnp.zeros((B, R))), scores, jnp.zeros((B, R)))
    assert isinstance(found, GroupExperience)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-6)
    assert np.array_equal(np.sign(found.advantages[:, 0]), [-1, 0, 1, 0, 0, 0])
    assert np.array_equal(found.advantages != 0, np.isin(np.arange(B), [0, 2])[:, None] & np.asarray(found.weights > 0))
