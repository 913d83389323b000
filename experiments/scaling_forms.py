"""The functional forms of Gao, Schulman and Hilton 2022 (arXiv 2210.10760), fitted, judged and with intervals.

With d the square root of the KL, in nats, from the policy that optimization began with, the gold reward gained is

    d (alpha - beta d)      for the best of n
    d (alpha - beta log d)  for reinforcement learning

Both are linear in alpha and beta, so that least squares has a closed form. Intervals are of 95%, by bootstrap over
prompts. Letters: P prompts, M points of a curve, R rounds of the bootstrap.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.intervals import Estimate, estimate

Array = np.ndarray
BEYOND = 2 / 3
"""Of the largest d; points farther out are held out when a form is judged."""
FEWEST_FITTED, FEWEST_HELD_OUT = 3, 2
LINE, CONSTANT = "line", "constant"


class Curve(NamedTuple):
    """What optimizing harder and harder came to on each prompt, less what the policy before it came to."""

    strength: Int[Array, "M"]
    """n, or iterations."""
    kl: Float[Array, "*B M"]
    proxy: Float[Array, "*B M"]
    gold: Float[Array, "*B M"]

    @property
    def d(self) -> Float[Array, "*B M"]:
        """The square root of the KL. An estimate below 0 counts as 0."""
        return np.sqrt(np.maximum(self.kl, 0))

    @property
    def told(self) -> tuple[Float[Array, "*B M"], ...]:
        """d, proxy and gold."""
        return self.d, self.proxy, self.gold

    def averaged(self, weights: Float[Array, "*R P"]) -> "Curve":
        """Means over prompts under weights that add up to 1."""
        return Curve(self.strength, *(weights @ x for x in (self.kl, self.proxy, self.gold)))

    def mean(self) -> "Curve":
        """The plain mean over prompts."""
        return self.averaged(np.full(len(self.kl), 1 / len(self.kl)))

    def resampled(self, rounds: int, seed: int) -> "Curve":
        """Means over as many prompts drawn with replacement, `rounds` times."""
        prompts = len(self.kl)
        drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=rounds)
        return self.averaged(drawn / prompts)


class Form(NamedTuple):
    """d (alpha - beta bend(d))."""

    name: str
    formula: str
    bend: Callable[[Array], Array]
    summit: Callable[[Array], Array]
    """Where it is highest, from alpha / beta, for beta above 0."""

    def basis(self, d: Float[Array, "*B M"]) -> Float[Array, "*B M 2"]:
        """What alpha and beta are multiplied with."""
        return np.stack([d, -d * self.bend(d)], axis=-1)

    def peak(self, coefficients: Float[Array, "*B 2"]) -> Float[Array, "*B"]:
        """The d at which the form is highest; infinity where it never turns down."""
        alpha, beta = np.moveaxis(coefficients, -1, 0)
        turning = beta > 0
        summit = self.summit(alpha / np.where(turning, beta, 1.0))
        return np.where(turning, np.maximum(summit, 0), np.inf)


BEST_OF_N = Form("best_of_n", "d (alpha - beta d)", lambda d: d, lambda ratio: ratio / 2)
PPO = Form(
    "ppo",
    "d (alpha - beta log d)",
    lambda d: np.log(np.maximum(d, 1e-12)),  # d log d is 0 at 0
    lambda ratio: np.exp(np.minimum(ratio - 1, 100)),
)
FORMS = {form.name: form for form in (BEST_OF_N, PPO)}


class Fit(NamedTuple):
    """A form on all points of a curve."""

    alpha: Estimate
    beta: Estimate
    peak: Estimate
    """The d at which the fitted form is highest; infinite where it never turns down."""
    turns: float
    """The share of bootstrap rounds in which that is nearer than the farthest point of the curve."""


class Judgement(NamedTuple):
    """A form fitted to the near points of a curve, and held against the far ones and against others so fitted."""

    beyond: float
    """Points at a larger d were held out."""
    fitted: int
    held_out: int
    rmse_fit: float
    rmse: float
    """Root of the mean squared error on the points held out, in units of the gold reward."""
    rmse_others: dict[str, float]
    """The same of the other form, of a straight line, and of staying where the near points end."""
    better: dict[str, float]
    """The share of bootstrap rounds in which the form's error was the smaller one."""


class Point(NamedTuple):
    """One point of a curve, averaged over prompts."""

    strength: int
    kl: float
    d: Estimate
    proxy: Estimate
    gold: Estimate


class Told(NamedTuple):
    """All there is to say about a curve."""

    points: list[Point]
    fit: Fit
    held_out: Judgement | None
    fall: Estimate
    """Gold at the last point less that at the best one."""


def least_squares(basis: Float[Array, "*B M C"], y: Float[Array, "*B M"]) -> Float[Array, "*B C"]:
    """The coefficients of the basis that come nearest to y."""
    turned = np.swapaxes(basis, -1, -2)
    return (np.linalg.pinv(turned @ basis, hermitian=True) @ (turned @ y[..., None]))[..., 0]


def tell(curve: Curve, form: Form, rounds: int, seed: int) -> Told:
    """A curve's points, its form fitted to all of them, and how that form foretells those far out.

    Args:
        curve: by prompt.
    """
    mean, samples = curve.mean(), curve.resampled(rounds, seed)
    points = [
        Point(
            int(mean.strength[m]),
            float(mean.kl[m]),
            *(estimate(x[m], drawn[:, m]) for x, drawn in zip(mean.told, samples.told, strict=True)),
        )
        for m in range(len(mean.strength))
    ]
    return Told(points, fit(mean, samples, form), judge(mean, samples, form), fall(curve, rounds, seed))


def fall(curve: Curve, rounds: int, seed: int) -> Estimate:
    """Gold at the last point less that at the best one.

    A prompt's best point is the one that is best on the other half of the prompts, so that noise is not taken for it.

    Args:
        curve: by prompt.
    """
    half = np.arange(len(curve.gold)) % 2
    best = np.array([np.argmax(curve.gold[half != this].mean(axis=0)) for this in (0, 1)])[half]
    lost = curve.gold[:, -1] - np.take_along_axis(curve.gold, best[:, None], axis=1)[:, 0]
    drawn = np.random.default_rng(seed).choice(lost, size=(rounds, len(lost))).mean(axis=1)
    return estimate(lost.mean(), drawn)


def fit(mean: Curve, samples: Curve, form: Form) -> Fit:
    """A form on all points, with intervals.

    Args:
        mean: a curve averaged over prompts.
        samples: the same for every round of the bootstrap.
    """
    found = least_squares(form.basis(mean.d), mean.gold)
    drawn = least_squares(form.basis(samples.d), samples.gold)
    peaks = form.peak(drawn)
    return Fit(
        estimate(found[0], drawn[:, 0]),
        estimate(found[1], drawn[:, 1]),
        estimate(float(form.peak(found)), peaks),
        float(np.mean(peaks < samples.d.max(axis=-1))),
    )


def judge(mean: Curve, samples: Curve, form: Form) -> Judgement | None:
    """How a form fitted to the points near the start foretells those far out; None where there are too few points.

    Args:
        mean, samples: as `fit`.
    """
    limit = BEYOND * mean.d.max()
    near = mean.d <= limit
    if near.sum() < FEWEST_FITTED or (~near).sum() < FEWEST_HELD_OUT:
        return None
    errors, resampled = foretold(mean, near), foretold(samples, near)
    others = [name for name in errors if name != form.name]
    gap = form.basis(mean.d[near]) @ least_squares(form.basis(mean.d[near]), mean.gold[near]) - mean.gold[near]
    return Judgement(
        beyond=float(limit),
        fitted=int(near.sum()),
        held_out=int((~near).sum()),
        rmse_fit=float(np.sqrt(np.mean(gap**2))),
        rmse=float(errors[form.name]),
        rmse_others={name: float(errors[name]) for name in others},
        better={name: float(np.mean(resampled[form.name] < resampled[name])) for name in others},
    )


def foretold(curve: Curve, near: Bool[Array, "M"]) -> Mapping[str, Float[Array, "*B"]]:
    """The error on the far points, by name, of each form, of a straight line, and of staying where the near ones end.

    Args:
        curve: averaged over prompts.
    """
    d, gold = curve.d, curve.gold
    bases = {**{name: form.basis(d) for name, form in FORMS.items()}, LINE: np.stack([np.ones_like(d), d], axis=-1)}
    told = {
        name: np.einsum("...mc,...c->...m", basis, least_squares(basis[..., near, :], gold[..., near]))
        for name, basis in bases.items()
    }
    last = np.argmax(np.where(near, d, -1), axis=-1)
    told[CONSTANT] = np.broadcast_to(np.take_along_axis(gold, last[..., None], axis=-1), gold.shape)
    return {name: np.sqrt(np.mean((x - gold)[..., ~near] ** 2, axis=-1)) for name, x in told.items()}
