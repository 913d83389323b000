"""What knows the answer: a slow NumPy sampler that walks down the ranking, closed forms, and chi-squared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from model.config import SamplingConfig
from model.sampling import distribution, draw, entropy

VOCABULARY = 23


def slow_distribution(logits, sampling):
    scaled = np.asarray(logits, np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    result, before, likeliest = np.zeros_like(probabilities), 0.0, probabilities.max()
    for rank, token in enumerate(sorted(range(len(logits)), key=lambda token: -probabilities[token])):
        in_k = sampling.top_k is None or rank < sampling.top_k
        in_p = sampling.top_p is None or before < sampling.top_p
        in_min = sampling.min_p is None or probabilities[token] >= sampling.min_p * likeliest
        if in_k and in_p and in_min:
            result[token] = probabilities[token]
        before += probabilities[token]
    return result / result.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.3),
        SamplingConfig(temperature=2.5),
        SamplingConfig(top_k=1),
        SamplingConfig(top_k=7),
        SamplingConfig(top_k=10_000),
        SamplingConfig(top_p=0.05),
        SamplingConfig(top_p=0.8),
        SamplingConfig(top_p=1.0),
        SamplingConfig(min_p=0.1),
        SamplingConfig(min_p=1.0),
        SamplingConfig(temperature=0.7, top_k=9, top_p=0.9),
        SamplingConfig(temperature=1.4, top_k=12, top_p=0.7, min_p=0.05),
    ],
    ids=str,
)
def test_distribution_against_a_slow_one(sampling):
    logits = np.random.default_rng(0).normal(scale=2, size=(3, 8, VOCABULARY)).astype(np.float32)
    probabilities = np.asarray(distribution(jnp.asarray(logits), sampling))
    expected = np.apply_along_axis(slow_distribution, -1, logits, sampling)
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)
    np.testing.assert_array_equal(probabilities > 0, expected > 0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


def test_temperature_zero_takes_the_likeliest_and_the_first_of_equals():
    logits = jnp.array([[0.0, 3.0, 1.0], [2.0, 2.0, -1.0]])
    expected = [[0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(distribution(logits, SamplingConfig(temperature=0)), expected)
    np.testing.assert_array_equal(distribution(logits, SamplingConfig(temperature=0, top_p=0.9)), expected)


def test_temperature_divides_log_odds():
    logits = jnp.array([1.0, -0.5, 2.0, 0.0])
    for temperature in (0.25, 1.0, 4.0):
        log_odds = jnp.diff(jnp.log(distribution(logits, SamplingConfig(temperature=temperature))))
        np.testing.assert_allclose(log_odds, jnp.diff(logits) / temperature, rtol=1e-5)


def test_top_k_keeps_exactly_k_of_equals():
    assert int((distribution(jnp.zeros(10), SamplingConfig(top_k=3)) > 0).sum()) == 3


def test_top_p_keeps_the_fewest_of_equals():
    assert int((distribution(jnp.zeros(8), SamplingConfig(top_p=0.5)) > 0).sum()) == 4


def test_min_p_keeps_all_equals():
    assert int((distribution(jnp.zeros(8), SamplingConfig(min_p=1.0)) > 0).sum()) == 8


def test_bfloat16_logits_give_float32_probabilities():
    probabilities = distribution(jnp.zeros(10, jnp.bfloat16), SamplingConfig(top_p=0.5))
    assert probabilities.dtype == jnp.float32


def test_top_p_of_one_strikes_out_nothing():
    # Float32 sums of many small probabilities reach 1 before the tail; the tail must still be there.
    logits = jax.random.normal(jax.random.key(0), (4, 2000)) * 4
    np.testing.assert_array_equal(
        distribution(logits, SamplingConfig(top_p=1.0)) > 0, distribution(logits, SamplingConfig()) > 0
    )


def test_draws_follow_the_distribution():
    probabilities = distribution(jnp.array([0.0, 1.0, 2.0, -1.0, 0.5, 3.0]), SamplingConfig(top_k=5))
    n = 20_000
    tokens = draw(jax.random.key(0), jnp.broadcast_to(probabilities, (n, 6)))
    counts, kept = np.bincount(tokens, minlength=6), np.asarray(probabilities) > 0
    assert counts[~kept].sum() == 0, "what is struck out is never drawn"
    expected = np.asarray(probabilities, np.float64)[kept]
    # The seed is fixed: this passes always or never. A draw from a wrong distribution gives p < 1e-10.
    assert stats.chisquare(counts[kept], n * expected / expected.sum()).pvalue > 0.01


def test_entropy_closed_forms():
    uniform, certain, coin = np.full(8, 1 / 8), np.eye(8)[3], np.array([0.25, 0.75, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(
        entropy(jnp.asarray([uniform, certain, coin])),
        [np.log(8), 0.0, -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))],
        atol=1e-6,
    )
