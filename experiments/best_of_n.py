"""What the best of n answers is worth, and how far it is from one answer, for every n from one set of draws.

Letters: P prompts, N answers drawn to each, M values of n.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Draws = Float[np.ndarray, "P N"]
Weights = Float[np.ndarray, "M N"]


def best_of_n_kl(n: int) -> float:
    """KL of the best of n draws from one draw, for a score without ties: log n - (n - 1) / n (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n


def counts_to(draws: int) -> list[int]:
    """Values of n up to `draws`, as even on a logarithmic scale as whole numbers allow: 1, 2, 3, 4, 6, 8, 12, ..."""
    steps = {part << k for part in (2, 3) for k in range(draws.bit_length())}
    return sorted({1, draws} | {step for step in steps if step < draws})


def rank_weights(draws: int, counts: Sequence[int]) -> Weights:
    """The probability that the best of n of the N draws, every subset as likely, is the one of rank r from below.

    C(r - 1, n - 1) / C(N, n): means under these weights are unbiased for the best of n (Nakano et al. 2021).
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, draws + 1)))])  # of factorials
    ranks, n = np.arange(1, draws + 1), np.asarray(counts)[:, None]
    below = np.maximum(ranks - n, 0)  # where there are too few below, the weight is 0 whatever stands here
    chosen = logs[ranks - 1] - logs[n - 1] - logs[below]
    every = logs[draws] - logs[n] - logs[draws - n]
    return np.where(ranks >= n, np.exp(chosen - every), 0.0)


def of_best(values: Draws, scores: Draws, weights: Weights) -> Float[np.ndarray, "P M"]:
    """The expected value of the answer that scores highest among n; where several score as high, any of them."""
    order = np.argsort(scores, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1) @ weights.T


def kl_bound(counts: Sequence[int]) -> Float[np.ndarray, "M"]:
    """KL, in nats, of the best of n from one draw, were no answer ever drawn twice."""
    return np.array([best_of_n_kl(n) for n in counts])


def kl_within(share: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "..."]:
    """KL, in nats, of the maximum of n uniform numbers from one of them, both known to lie in [1 - share, 1]."""
    share = np.clip(share, 1e-9, 1 - 1e-9)
    log_start = np.log1p(-share)
    mass = -np.expm1(n * log_start)  # of the maximum
    return np.log(n * share / mass) - (n - 1) / n - (n - 1) * np.exp(n * log_start) * log_start / mass


def _of_all_alike(probabilities: Float[np.ndarray, "M"], scores: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
    """Of each answer drawn, how probable are all that score the same: if they differ, as often as they were drawn."""
    alike = [probabilities[scores == own] for own in scores]
    return np.array([own[0] if np.all(own == own[0]) else len(own) / len(scores) for own in alike])


def kl_of_best(
    probabilities: Draws, scores: Draws, counts: Sequence[int], weights: Weights
) -> Float[np.ndarray, "P M"]:
    """KL, in nats, of the best of n from one draw, where an answer may be drawn more than once.

    `kl_bound` is only an upper bound then (Beirami et al. 2024, arXiv 2401.01879). Spread each answer y over the
    interval of quantiles that its score takes up, [F(y) - p(y), F(y)]. The maximum of n quantiles has the bound as its
    KL, and by the chain rule that is the KL of the answers and the expected one within an answer's interval, which is
    `kl_within` of p(y) / F(y): no power of an estimate, as the answer's own KL would be.

    Args:
        probabilities: p(y) of each answer drawn.
        scores: equal for the same answer. Different ones that score the same (as those that did not stop) count as
            one: which of them is taken does not depend on n.
    """
    probabilities = np.stack([_of_all_alike(*row) for row in zip(probabilities, scores, strict=True)])
    ordered = np.sort(scores, axis=1)
    reached = np.stack([np.searchsorted(*row, side="right") for row in zip(ordered, scores, strict=True)])
    share = probabilities / np.maximum(reached / scores.shape[1], probabilities)
    within = [kl_within(share, n) for n in counts]
    lost = [of_best(x, scores, w[None])[:, 0] for x, w in zip(within, weights, strict=True)]
    return kl_bound(counts) - np.stack(lost, axis=1)
