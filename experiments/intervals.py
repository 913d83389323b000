"""A number with the interval that a bootstrap gives it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def estimate(value: float, samples: Float[np.ndarray, "R"]) -> Estimate:
    """A value and the middle 95% of its bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975], method="nearest")  # to interpolate with infinity gives NaN
    return Estimate(float(value), float(low), float(high))
