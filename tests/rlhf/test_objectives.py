"""Objectives against formulas written out here in plain NumPy, in float64; no number is copied from a run."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.best_of_n import best_of_n_kl
from rlhf.objectives import (
    dpo,
    explained_variance,
    gae,
    group_advantages,
    kl_k1,
    kl_k3,
    penalize_unstopped,
    policy_loss,
    token_rewards,
    value_loss,
    weighted_mean,
    whiten,
)

LENGTHS = np.array([1, 4, 6, 3])
B, R = 4, 6
WEIGHTS = (np.arange(R) < LENGTHS[:, None]).astype(float)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def draw(count, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(count, B, R))


def padded(x, columns=0, padding=0.0):
    """`x` with `padding` wherever no token is real, and that many more columns of it."""
    return jnp.pad(jnp.where(WEIGHTS > 0, x, padding), ((0, 0), (0, columns)), constant_values=padding)


def advantages(rewards, values, discount, decay):
    """Every discounted sum of TD errors on its own, in O(T^2)."""
    result = np.zeros((B, R))
    for b, length in enumerate(LENGTHS):
        following = [*values[b, 1:length], 0]
        deltas = [rewards[b, t] + discount * following[t] - values[b, t] for t in range(length)]
        for t in range(length):
            result[b, t] = sum((discount * decay) ** (k - t) * deltas[k] for k in range(t, length))
    return result


def finite_differences(loss, x, step=1e-6):
    slopes = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        move = np.zeros_like(x)
        move[place] = step
        slopes[place] = (loss(x + move) - loss(x - move)) / (2 * step)
    return slopes


# --- advantages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 0.95), (0.9, 0.8), (0.97, 0.0), (0.97, 1.0), (1.0, 1.0)])
def test_gae_is_the_sum_of_discounted_td_errors(discount, decay):
    rewards, values = draw(2)
    found = gae(padded(rewards), padded(values), jnp.asarray(WEIGHTS), discount, decay)
    np.testing.assert_allclose(found, advantages(rewards, values, discount, decay), atol=1e-12)


def test_gae_without_decay_is_the_td_error_and_with_decay_1_the_return_minus_the_value():
    rewards, values = draw(2)
    td, returns = np.zeros((2, B, R))
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            td[b, t] = rewards[b, t] - values[b, t] + (0.9 * values[b, t + 1] if t + 1 < length else 0)
            returns[b, t] = sum(0.9 ** (k - t) * rewards[b, k] for k in range(t, length)) - values[b, t]
    inputs = padded(rewards), padded(values), jnp.asarray(WEIGHTS), 0.9
    np.testing.assert_allclose(gae(*inputs, 0.0), td, atol=1e-12)
    np.testing.assert_allclose(gae(*inputs, 1.0), returns, atol=1e-12)


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan, np.inf])
def test_padding_changes_nothing_whatever_stands_on_it(padding):
    one, other, third = draw(3)
    weights, more = jnp.asarray(WEIGHTS), jnp.pad(jnp.asarray(WEIGHTS), ((0, 0), (0, 3)))
    clean = [padded(x) for x in (one, other, third)]
    dirty = [padded(x, 3, padding) for x in (one, other, third)]
    for of in (lambda a, b, _, w: gae(a, b, w, 0.9, 0.8), lambda a, b, c, w: whiten(a, w)):
        found = of(*dirty, more)
        np.testing.assert_allclose(found[:, :R], of(*clean, weights), atol=1e-12)
        assert not np.any(found[:, R:])
    for of in (
        lambda a, b, c, w: policy_loss(a, b, c, w, 0.2),
        lambda a, b, c, w: value_loss(a, b, c, w, 0.2),
        lambda a, b, c, w: explained_variance(a, b, w),
        lambda a, b, c, w: weighted_mean(a, w),
    ):
        np.testing.assert_allclose(of(*dirty, more), of(*clean, weights), rtol=1e-12)


def test_advantages_within_a_group_are_standard_scores_of_that_group():
    scores = draw(1).reshape(-1)
    rows = scores.reshape(6, 4)
    expected = [(x - np.mean(row)) / (np.std(row) + 1e-4) for row in rows for x in row]
    np.testing.assert_allclose(group_advantages(jnp.asarray(scores), 4), expected, rtol=1e-10)
    assert not np.any(group_advantages(jnp.full(8, 0.7), 4))


# --- rewards --------------------------------------------------------------------------------------------------------

PAD, STOP = 0, 9


@pytest.mark.parametrize(
    ("response", "length"),
    [
        ([STOP, PAD, PAD, PAD], 1),
        ([5, STOP, PAD, PAD], 2),
        ([5, 6, 7, STOP], 4),
        ([5, 6, 7, 8], 4),
        ([5, PAD, 6, STOP], 4),
        ([5, PAD, PAD, PAD], 3),
        ([PAD, STOP, PAD, PAD], 2),
    ],
    ids=["first", "middle", "last", "absent", "pad inside", "pad at the end", "pad first"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_score_lands_whole_on_the_last_real_token(response, length, dtype):
    """Lengths decide, not ids: a PAD that was drawn is a token as any other."""
    kl = jnp.full((1, len(response)), 0.25, dtype)
    found = token_rewards(jnp.asarray([0.7], dtype), kl, jnp.asarray([length], jnp.int32), 2.0)
    expected = [-0.5] * (length - 1) + [-0.5 + 0.7] + [0.0] * (len(response) - length)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    alone = token_rewards(jnp.asarray([0.7], dtype), 0 * kl, jnp.asarray([length], jnp.int32), 2.0)
    assert alone.dtype == dtype
    assert alone[0, length - 1] == dtype(0.7)
    assert jnp.count_nonzero(alone) == 1


def test_token_rewards_ignore_the_kl_of_padding():
    found = token_rewards(jnp.zeros(1), jnp.asarray([[1.0, np.nan]]), jnp.asarray([1]), 0.5)
    assert np.array_equal(found, [[-0.5, 0]])


def test_only_responses_that_did_not_stop_pay_the_penalty_and_none_of_them_is_above_the_mean():
    found = penalize_unstopped(jnp.asarray([0.7, 0.7, -3.0]), jnp.asarray([True, False, False]), 1.5)
    np.testing.assert_allclose(found, [0.7, -1.5, -4.5])


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_divides_by_the_population_deviation_and_shifts_the_mean_when_told(shift_mean):
    x = 3 + draw(1, scale=2.0)[0]
    real = x[WEIGHTS > 0]
    found = np.asarray(whiten(padded(x, padding=99.0), jnp.asarray(WEIGHTS), shift_mean))
    expected = (real - real.mean()) / np.sqrt(np.mean((real - real.mean()) ** 2) + 1e-8)
    expected += 0 if shift_mean else real.mean()
    np.testing.assert_allclose(found[WEIGHTS > 0], expected, atol=1e-6)
    assert found[WEIGHTS > 0].mean() == pytest.approx(0 if shift_mean else real.mean(), abs=1e-6)
    assert not np.any(found[WEIGHTS == 0])


def test_whitening_adds_1e_8_to_the_variance():
    """With a deviation of 1e-4 the variance is 1e-8 itself, so what comes out has variance a half."""
    found = whiten(jnp.asarray([[1e-4, -1e-4]]), jnp.ones((1, 2)))
    np.testing.assert_allclose(found, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-6)
    assert not np.any(whiten(jnp.full((1, 3), 2.0), jnp.ones((1, 3))))


def test_both_estimators_expect_the_kl_and_k3_is_never_negative():
    p, q = np.random.default_rng(0).dirichlet(np.ones(9), size=2)
    exact = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    log_p, log_q = jnp.log(jnp.asarray([p])), jnp.log(jnp.asarray([q]))
    for estimator in (kl_k1, kl_k3):
        assert np.sum(p * np.asarray(estimator(log_p, log_q))[0]) == pytest.approx(exact, rel=1e-10)
    assert np.all(kl_k3(log_p, log_q) >= 0)
    assert np.any(kl_k1(log_p, log_q) < 0)
    # By its second-order term, which a difference of exponentials in float32 would lose.
    near = jnp.asarray([[-2.0]], jnp.float32)
    assert kl_k3(near, near + jnp.float32(1e-2))[0, 0] == pytest.approx(5e-5, rel=1e-2)
    assert not np.any(kl_k3(near, near))


# --- losses ---------------------------------------------------------------------------------------------------------


def plain_policy_loss(log_probs, old, advantages, clip):
    total = 0
    for place in np.argwhere(WEIGHTS > 0):
        b, t = place
        ratio = np.exp(log_probs[b, t] - old[b, t])
        total -= min(ratio * advantages[b, t], min(max(ratio, 1 - clip), 1 + clip) * advantages[b, t])
    return total / LENGTHS.sum()


def plain_value_loss(values, old, returns, clip):
    total = 0
    for place in np.argwhere(WEIGHTS > 0):
        b, t = place
        kept = min(max(values[b, t], old[b, t] - clip), old[b, t] + clip)
        total += max((values[b, t] - returns[b, t]) ** 2, (kept - returns[b, t]) ** 2) / 2
    return total / LENGTHS.sum()


@pytest.mark.parametrize(("loss", "plain"), [(policy_loss, plain_policy_loss), (value_loss, plain_value_loss)])
def test_clipped_losses_and_their_gradients_are_the_formula(loss, plain):
    x, old, target = draw(3, scale=0.5)
    others = jnp.asarray(old), jnp.asarray(target), jnp.asarray(WEIGHTS), 0.2
    found = jax.value_and_grad(lambda x: loss(x, *others).loss)(jnp.asarray(x))
    assert found[0] == pytest.approx(plain(x, old, target, 0.2), rel=1e-12)
    slopes = finite_differences(lambda x: plain(x, old, target, 0.2), x)
    np.testing.assert_allclose(found[1], slopes, atol=1e-8)
    # The share that is clipped is the share of tokens that get no gradient at all.
    clipped = np.mean(np.asarray(found[1])[WEIGHTS > 0] == 0)
    assert 0 < clipped < 1
    assert loss(jnp.asarray(x), *others).clip_fraction == pytest.approx(clipped)


@pytest.mark.parametrize(
    ("move", "advantage", "clipped"),
    [(0.5, 1.0, True), (-0.5, -1.0, True), (0.5, -1.0, False), (-0.5, 1.0, False), (0.1, 1.0, False)],
)
def test_the_policy_gets_no_gradient_where_clipping_took_hold_and_all_of_it_elsewhere(move, advantage, clipped):
    log_probs, one = jnp.asarray([[-1.0 + move]]), jnp.ones((1, 1))
    of = jax.grad(lambda x: policy_loss(x, -one, advantage * one, one, 0.2).loss)
    expected = 0.0 if clipped else -advantage * np.exp(move)
    assert of(log_probs)[0, 0] == (0 if clipped else pytest.approx(expected))
    assert policy_loss(log_probs, -one, advantage * one, one, 0.2).clip_fraction == clipped


@pytest.mark.parametrize(
    ("value", "target", "clipped"),
    [(0.5, 2.0, True), (0.5, -2.0, False), (0.5, 0.45, True), (0.1, 2.0, False), (-0.5, -0.45, True)],
)
def test_the_critic_gets_no_gradient_where_clipping_took_hold(value, target, clipped):
    """The old value is 0 and the clip 0.2: past it, clipping holds where it keeps the value further from the target."""
    values, one = jnp.asarray([[value]]), jnp.ones((1, 1))
    found = jax.grad(lambda x: value_loss(x, 0 * one, target * one, one, 0.2).loss)(values)[0, 0]
    assert found == (0 if clipped else pytest.approx(value - target))


def test_at_ratio_1_the_gradient_is_minus_the_advantage_over_the_tokens():
    old, advantages = draw(2)
    log_probs = jnp.asarray(old)
    of = jax.value_and_grad(
        lambda x: policy_loss(x, log_probs, jnp.asarray(advantages), jnp.asarray(WEIGHTS), 0.2).loss
    )
    loss, slopes = of(log_probs)
    np.testing.assert_allclose(slopes, -advantages * WEIGHTS / LENGTHS.sum(), atol=1e-15)
    assert loss == pytest.approx(-np.sum(advantages * WEIGHTS) / LENGTHS.sum())


def test_dpo_is_the_log_sigmoid_of_beta_times_the_margin():
    chosen, rejected = draw(2)[:, :, 0]
    beta = 0.3
    odds = 1 / (1 + np.exp(-beta * (chosen - rejected)))
    found = dpo(jnp.asarray(chosen), jnp.asarray(rejected), beta)
    assert found.loss == pytest.approx(-np.mean(np.log(odds)), rel=1e-12)
    assert found.accuracy == np.mean(chosen > rejected)
    both = jax.grad(lambda a, b: dpo(a, b, beta).loss, argnums=(0, 1))(jnp.asarray(chosen), jnp.asarray(rejected))
    # Chosen answers are pushed up, rejected ones down by as much, and the more the less the model agrees.
    np.testing.assert_allclose(both[0], -beta * (1 - odds) / B, rtol=1e-10)
    np.testing.assert_allclose(both[1], beta * (1 - odds) / B, rtol=1e-10)
    weights = jnp.asarray([1.0, 0, 0, 1])
    kept = -np.mean(np.log(odds[[0, 3]]))
    assert dpo(jnp.asarray(chosen), jnp.asarray(rejected), beta, weights).loss == pytest.approx(kept, rel=1e-12)


# --- measures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_that_of_the_best_rank(n):
    """Of many equally likely ranks, the best of n is at most k with probability (k / ranks)^n: the KL exactly."""
    ranks = 200_000
    p = np.diff((np.arange(ranks + 1) / ranks) ** n)
    exact = np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) * ranks), 0))
    assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-4)


def test_explained_variance_is_1_for_a_critic_that_knows_all_and_0_for_one_that_knows_nothing():
    returns, noise = draw(2)
    weights = jnp.asarray(WEIGHTS)

    def explained(values):
        return float(explained_variance(jnp.asarray(values), jnp.asarray(returns), weights))

    assert explained(returns) == 1
    assert explained(returns + 5) == pytest.approx(1)  # a constant error has no variance
    assert explained(np.full((B, R), 3.0)) == pytest.approx(0)
    assert explained(-returns) == pytest.approx(-3)  # the error is twice the return
    real = WEIGHTS > 0
    expected = 1 - np.var((returns - noise)[real]) / np.var(returns[real])
    assert explained(noise) == pytest.approx(expected)


def test_a_mean_over_no_weights_is_0():
    assert weighted_mean(jnp.full((2, 2), jnp.nan), jnp.zeros((2, 2))) == 0
