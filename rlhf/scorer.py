"""A transformer with a scalar head: the reward model, and the critic that starts from it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from model.transformer import Transformer
from train.checkpoint import Checkpoints
from train.run_directory import RunDirectory
from train.trained import abstract_params

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


def load_scorer(run: RunDirectory, model: Transformer) -> Scorer:
    """The reward model that a run has learned.

    Raises:
        UserError: it has none yet, or its checkpoint cannot be read.
    """
    trunk, config = abstract_params(model), model.config
    make = partial(init_scorer, width=config.width, heads=run.config()["reward"]["heads"])
    shapes = jax.eval_shape(make, jax.random.key(0), trunk)
    place = jax.tree.leaves(trunk)[0].sharding.mesh
    whole = jax.sharding.NamedSharding(place, jax.sharding.PartitionSpec())
    heads = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes._replace(trunk=None))
    checkpoints = Checkpoints(run.stage("reward").checkpoints)
    try:
        return checkpoints.restore_params(heads._replace(trunk=trunk))[0]
    finally:
        checkpoints.close()
