"""A transformer with a scalar head: the reward model, and the critic that starts from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from model.transformer import Transformer

AnyArray = Array | np.ndarray


class Scorer(NamedTuple):
    """Parameters: the trunk's, and K heads on its last hidden state."""

    trunk: Any
    kernel: Float[Array, "D K"]
    bias: Float[Array, "K"]


def init_scorer(key: PRNGKeyArray, trunk: Any, width: int, heads: int = 1) -> Scorer:
    """Heads drawn from N(0, 1/(d + 1)) on a given trunk (Stiennon et al. 2020; Huang et al. 2024, detail 2)."""
    kernel = jax.random.normal(key, (width, heads)) * (width + 1) ** -0.5
    return Scorer(trunk, kernel, jnp.zeros(heads))


def score_tokens(model: Transformer, params: Scorer, tokens: Int[AnyArray, "B T"]) -> Float[Array, "B T K"]:
    """What each head makes of each row up to each of its tokens."""
    hidden, _ = model.apply({"params": params.trunk}, jnp.asarray(tokens), method="hidden")
    return hidden.astype(params.kernel.dtype) @ params.kernel + params.bias


def score(
    model: Transformer, params: Scorer, tokens: Int[AnyArray, "B T"], lengths: Int[AnyArray, "B"]
) -> Float[Array, "B K"]:
    """What each head makes of each row of `lengths` real tokens: read at the last of them."""
    hidden, _ = model.apply({"params": params.trunk}, jnp.asarray(tokens), method="hidden")
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return last.astype(params.kernel.dtype) @ params.kernel + params.bias


def normalized(params: Scorer, scores: Float[np.ndarray, "N K"]) -> Scorer:
    """The same scorer on the scale where `scores`, its own of reference answers, have mean 0 and std 1 by head."""
    mean, std = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-6)
    return params._replace(kernel=params.kernel / std, bias=(params.bias - mean) / std)
