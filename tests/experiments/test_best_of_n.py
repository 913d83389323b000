"""The best of n: against every subset written out, against known distributions, and against the exact KL."""

from itertools import combinations

import numpy as np
import pytest

from experiments.best_of_n import counts_to, kl_bound, kl_of_best, of_best, rank_weights


def test_the_values_of_n():
    assert counts_to(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert counts_to(10) == [1, 2, 3, 4, 6, 8, 10]
    assert counts_to(2) == [1, 2]


def test_against_every_subset():
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(3, 8)), rng.normal(size=(3, 8))
    scores[0, 2], gold[0, 2] = scores[0, 5], gold[0, 5]  # the same answer, drawn twice
    counts = list(range(1, 9))
    found = of_best(gold, scores, rank_weights(8, counts))
    for prompt in range(3):
        for n in counts:
            every = [max(subset, key=scores[prompt].__getitem__) for subset in combinations(range(8), n)]
            assert found[prompt, n - 1] == pytest.approx(gold[prompt, every].mean())


def test_against_a_known_distribution():
    """The best of n uniform numbers is n / (n + 1) on average, with no bias from how many were drawn."""
    counts = counts_to(20)
    draws = np.random.default_rng(1).random((20_000, 20))
    found = of_best(draws, draws, rank_weights(20, counts)).mean(axis=0)
    assert found == pytest.approx([n / (n + 1) for n in counts], abs=3e-3)


def test_weights_of_many_draws_are_probabilities():
    weights = rank_weights(5000, [1, 2, 70, 4999, 5000])
    assert weights.sum(axis=1) == pytest.approx(np.ones(5))
    assert weights[0] == pytest.approx(np.full(5000, 1 / 5000))
    assert weights[-1, -1] == pytest.approx(1)


def exact_kl(p, scores, n):
    """KL of the best of n from one draw: P(best is y) = F(y)^n - F(below y)^n."""
    p = p[np.argsort(scores)]
    upper = np.minimum(np.cumsum(p), 1)
    best = upper**n - np.maximum(upper - p, 0) ** n
    kept = best > 0
    return np.sum(best[kept] * np.log(best[kept] / p[kept]))


@pytest.mark.parametrize("concentration", [0.05, 0.5, 20])
def test_kl_where_answers_repeat(concentration):
    """Few likely answers, some, or many alike: within 1% of the exact KL."""
    rng = np.random.default_rng(2)
    p, scores = rng.dirichlet(np.full(40, concentration)), rng.normal(size=40)
    drawn, counts = rng.choice(40, size=(4000, 64), p=p), counts_to(64)
    found = kl_of_best(p[drawn], scores[drawn], counts, rank_weights(64, counts))
    exact = [exact_kl(p, scores, n) for n in counts]
    assert found.mean(axis=0) == pytest.approx(exact, rel=0.01, abs=1e-3)
    assert np.all(found >= -1e-9)
    assert np.all(found <= kl_bound(counts) + 1e-9)


def test_answers_that_score_the_same_are_one_to_the_choice():
    """As all that did not stop: which of them is taken does not depend on n, so they cost what one would."""
    rng = np.random.default_rng(5)
    p, scores = rng.dirichlet(np.ones(40)), rng.normal(size=40)
    scores[:15] = -1.0
    merged = np.array([p[:15].sum(), *p[15:]]), np.array([-1.0, *scores[15:]])
    drawn, counts = rng.choice(40, size=(4000, 64), p=p), counts_to(64)
    found = kl_of_best(p[drawn], scores[drawn], counts, rank_weights(64, counts))
    assert found.mean(axis=0) == pytest.approx([exact_kl(*merged, n) for n in counts], rel=0.01, abs=2e-3)


def test_kl_at_the_edges():
    weights, scores = rank_weights(9, [1, 5, 9]), np.random.default_rng(3).normal(size=(2, 9))
    rare = kl_of_best(np.full((2, 9), 1e-9), scores, [1, 5, 9], weights)
    assert rare == pytest.approx(np.tile(kl_bound([1, 5, 9]), (2, 1)), abs=1e-6)
    certain = kl_of_best(np.ones((2, 9)), np.ones((2, 9)), [1, 5, 9], weights)
    assert certain == pytest.approx(np.zeros((2, 3)), abs=1e-6)
