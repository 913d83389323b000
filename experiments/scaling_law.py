"""The law of Hoffmann et al. 2022 (section 3.3): L(N, D) = E + A / N^alpha + B / D^beta, fitted, with intervals.

N are parameters, D tokens, L nats per token. As there, and as in Besiroglu et al. 2024, the Huber loss of the residual
in log L is least. Letters: M points, R rounds of the bootstrap.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize, nnls

Array = np.ndarray
HUBER_DELTA = 1e-3
FLOPS_PER_WEIGHT = 6
"""Of one token's training: C = 6 N D."""
EXPONENTS = np.geomspace(0.05, 2, 14)
"""Of which all pairs are tried as starts."""
STARTS, RESTARTS = 12, 1
"""Of a fit, and of each round of the bootstrap beside the fit's own result."""
FEWEST_POINTS = 6  # one more than parameters
FEWEST_VALUES = 3  # of N and of D: two cannot tell a factor from an exponent
GONE = 1e-9  # a term that least squares leaves out starts as this share of the loss


class Points(NamedTuple):
    """Runs: parameters, tokens, and the loss that they came to."""

    N: Float[Array, "M"]
    D: Float[Array, "M"]
    loss: Float[Array, "M"]

    def take(self, which: Any) -> "Points":
        """Some of them, by index or mask."""
        return Points(*(column[which] for column in self))

    def without_worst(self, count: int) -> "Points":
        """All but so many of the highest losses."""
        return self.take(np.sort(np.argsort(-self.loss, kind="stable")[count:]))


class Law(NamedTuple):
    """E + A / N^alpha + B / D^beta."""

    E: Any
    A: Any
    B: Any
    alpha: Any
    beta: Any

    def loss(self, N: Any, D: Any) -> Any:
        """Nats per token of N parameters after D tokens."""
        return self.E + self.A * np.power(N, -self.alpha) + self.B * np.power(D, -self.beta)

    @property
    def exponent(self) -> Any:
        """a: the best N for a budget C grows as C^a, the best D as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, C: Any) -> tuple[Any, Any]:
        """The N and D of the least loss with 6 N D = C (Hoffmann et al. 2022, equation 4)."""
        turn = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        N = turn * (C / FLOPS_PER_WEIGHT) ** self.exponent
        return N, C / FLOPS_PER_WEIGHT / N

    def frontier(self, C: Any) -> Any:
        """The least loss of a budget."""
        return self.loss(*self.optimum(C))


HOFFMANN = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""Hoffmann et al. 2022, section D.3."""
EPOCH = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Besiroglu et al. 2024, on the same runs."""


class _Logs(NamedTuple):
    """The points in logarithms; N and D around their means, so that factors and exponents hardly depend."""

    n: Float[Array, "M"]
    d: Float[Array, "M"]
    loss: Float[Array, "M"]
    middle: tuple[float, float]

    @classmethod
    def of(cls, points: Points) -> "_Logs":
        n, d, loss = map(np.log, points)
        return cls(n - n.mean(), d - d.mean(), loss, (n.mean(), d.mean()))

    def law(self, theta: Float[Array, "5"]) -> Law:
        e, a, b, alpha, beta = theta
        factors = np.exp([e, a + alpha * self.middle[0], b + beta * self.middle[1]])
        return Law(*map(float, (*factors, alpha, beta)))

    def theta(self, law: Law) -> Float[Array, "5"]:
        a = np.log(law.A) - law.alpha * self.middle[0]
        b = np.log(law.B) - law.beta * self.middle[1]
        return np.array([np.log(law.E), a, b, law.alpha, law.beta])


def huber(residuals: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Half the square, and from `HUBER_DELTA` on straight."""
    clipped = np.clip(residuals, -HUBER_DELTA, HUBER_DELTA)
    return clipped * (residuals - clipped / 2)


def objective(law: Law, points: Points) -> float:
    """What the fit makes least: the sum of the Huber losses of log L."""
    return float(huber(np.log(law.loss(points.N, points.D)) - np.log(points.loss)).sum())


def _objective(
    theta: Float[Array, "5"], logs: _Logs, weights: Float[Array, "M"] | float = 1.0
) -> tuple[float, Float[Array, "5"]]:
    """The objective and its gradient by log E, log A, log B (at the middle), alpha and beta."""
    e, a, b, alpha, beta = theta
    terms = np.stack([np.full_like(logs.n, e), a - alpha * logs.n, b - beta * logs.d])
    total = np.logaddexp.reduce(terms, axis=0)
    residuals = total - logs.loss
    # Of each term its share of the loss, times the slope of the Huber loss.
    by_term = np.exp(terms - total) * np.clip(residuals, -HUBER_DELTA, HUBER_DELTA) * weights
    gradient = np.array([*by_term.sum(axis=1), -by_term[1] @ logs.n, -by_term[2] @ logs.d])
    return float((weights * huber(residuals)).sum()), gradient


def starts(points: Points, count: int = STARTS) -> list[Law]:
    """The most promising laws to start from: exponents from a grid, the rest by least squares, which is linear then.

    (Variable projection; Golub and Pereyra 1973.)
    """
    found, logs = [], _Logs.of(points)
    scale = np.exp(-logs.loss)  # relative residuals, which are those of log L where they are small
    for alpha, beta in product(EXPONENTS, EXPONENTS):
        basis = np.stack([np.ones_like(logs.n), np.exp(-alpha * logs.n), np.exp(-beta * logs.d)], axis=1)
        factors, _ = nnls(basis * scale[:, None], np.ones_like(logs.n))
        theta = np.array([*np.log(np.maximum(factors, GONE / scale.mean())), alpha, beta])
        found.append((_objective(theta, logs)[0], theta))
    return [logs.law(theta) for _, theta in sorted(found, key=lambda pair: pair[0])[:count]]


def fit(points: Points, near: Sequence[Law], weights: Float[Array, "M"] | float = 1.0) -> Law:
    """The law with the least objective that BFGS finds from any of the given ones.

    Args:
        points: `enough` of them.
        weights: how much each counts.
    """
    logs = _Logs.of(points)
    settings: Any = {"args": (logs, weights), "jac": True, "method": "BFGS", "tol": 1e-8}
    ends = [minimize(_objective, logs.theta(law), **settings) for law in near]
    return logs.law(min((end for end in ends if np.isfinite(end.fun)), key=lambda end: end.fun).x)


def fit_with_bootstrap(
    points: Points, rounds: int, seed: int, advance: Callable[[], None] = lambda: None
) -> tuple[Law, Law]:
    """The law, and laws of resampled points, `rounds` of them in arrays: see `bootstrap`."""
    near = starts(points)
    law = fit(points, near)
    return law, bootstrap(points, [law, *near[:RESTARTS]], rounds, seed, advance)


def distinct(*columns: Float[Array, "M"]) -> int:
    """How many different rows there are."""
    return len(np.unique(np.round(np.log(np.stack(columns)), 9), axis=1).T)


def enough(points: Points) -> bool:
    """Whether a law can be told from the points."""
    fewest = min(distinct(points.N), distinct(points.D))
    return fewest >= FEWEST_VALUES and distinct(*points) >= FEWEST_POINTS


def bootstrap(
    points: Points, near: Sequence[Law], rounds: int, seed: int, advance: Callable[[], None] = lambda: None
) -> Law:
    """Laws of the points, each counting as much as chance says, `rounds` of them in arrays.

    The Bayesian bootstrap (Rubin 1981): weights from a flat Dirichlet distribution. Drawing points with replacement
    would often leave too few different ones for a law, and drawing anew until there are enough, intervals too narrow.

    Args:
        near: what each round starts from.
        advance: called after each round.
    """
    rng = np.random.default_rng(seed)
    count, found = len(points.N), []
    for _ in range(rounds):
        found.append(fit(points, near, count * rng.dirichlet(np.ones(count))))
        advance()
    return Law(*np.array(found).T)
