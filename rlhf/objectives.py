"""What alignment minimizes. Pure functions of arrays; every one returns its loss and what is worth watching."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Rows = Float[Array | np.ndarray, "B"]
Scalar = Float[Array, ""]


class Preferred(NamedTuple):
    """A loss on choices, and the share of them that the model agrees with (a tie counts half)."""

    loss: Scalar
    accuracy: Scalar


def bradley_terry(
    chosen: Rows, rejected: Rows, margin: Rows | float = 0.0, smoothing: float = 0.0, weights: Rows | None = None
) -> Preferred:
    """-log sigma(r_chosen - r_rejected - margin), with labels smoothed towards a half; a weighted mean over pairs.

    Bradley & Terry 1952; Ouyang et al. 2022, equation 1; the margin as in Touvron et al. 2023, section 3.2.2.
    """
    weights = jnp.ones_like(chosen) if weights is None else weights
    difference = chosen - rejected - margin
    losses = -(1 - smoothing) * jax.nn.log_sigmoid(difference) - smoothing * jax.nn.log_sigmoid(-difference)
    total = jnp.maximum(jnp.sum(weights), 1e-9)
    agreement = (jnp.sign(chosen - rejected) + 1) / 2
    return Preferred(jnp.sum(losses * weights) / total, jnp.sum(agreement * weights) / total)
