"""The feed-forward layer as a mixture of experts. Dimension letters: `model.layers`.

No token is dropped and no expert has a capacity: devices that share the experts gather each other's tokens, sort them
by expert, multiply each expert's run of rows with its matrices and hand every device its own tokens' sums back.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from model.config import ModelConfig, ShardingRules
from model.layers import feed_forward, feed_forward_weights, parameter, weight_init, wide
from model.sharding import devices_along

ROUTER_LOGITS = "router_logits"
"""What a mixture records of each token in the collection "intermediates", where that is asked for."""


class MixtureOfExperts(nn.Module):
    """A router and as many feed-forward networks as there are experts, of which each token meets a few."""

    config: ModelConfig
    rules: ShardingRules
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        experts = c.experts or 1
        # In float32, as all that decides: rounding would send tokens elsewhere (Fedus et al. 2021, section 2.4).
        init = weight_init(c, "hidden")
        kernel = parameter(self, "router", (c.width, experts), ("embed", None), init, wide(self.dtype))
        logits = jnp.matmul(x.astype(kernel.dtype), kernel, precision=jax.lax.Precision.HIGHEST)
        self.sow("intermediates", ROUTER_LOGITS, logits)
        shares, chosen = route(logits, c.experts_per_token)
        weights = feed_forward_weights(self, c, self.dtype, experts)
        if jax.sharding.get_abstract_mesh().empty:
            return mix(x, shares, chosen, weights, activation=c.activation)
        return mix_on_mesh(x, shares, chosen, weights, activation=c.activation, rules=self.rules)


def route(logits: Float[Array, "*B E"], count: int) -> tuple[Float[Array, "*B k"], Int[Array, "*B k"]]:
    """The `count` likeliest experts of each token, and their shares of it, which sum to one.

    Jiang et al. 2024, section 2.1: the softmax over the chosen is the softmax over all, renormalised.
    """
    probabilities, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)
    return probabilities / probabilities.sum(-1, keepdims=True), chosen


def mix(
    x: Float[Array, "B T D"],
    shares: Float[Array, "B T k"],
    chosen: Int[Array, "B T k"],
    weights: dict[str, Array],
    *,
    activation: str,
    first: Int[Array, ""] | int = 0,
) -> Float[Array, "B T D"]:
    """What the experts from number `first` on, as many as `weights` holds, add to the tokens that chose them."""
    held, per_token = weights["up"].shape[0], chosen.shape[-1]
    expert = chosen.reshape(-1) - first
    expert = jnp.where((expert >= 0) & (expert < held), expert, held)  # the others' go last
    order = jnp.argsort(expert)
    sizes = jnp.sum(expert[:, None] == jnp.arange(held), axis=0, dtype=jnp.int32)
    # `ragged_dot` promises nothing about rows past the last group, forward or backward.
    ours = (jnp.arange(order.size) < sizes.sum())[:, None]

    def product(rows: Array, kernels: Array) -> Array:
        return jnp.where(ours, jax.lax.ragged_dot(rows, kernels, sizes), 0)

    rows = jnp.where(ours, x.reshape(-1, x.shape[-1])[order // per_token], 0)
    out = feed_forward(rows, weights, activation, product)[jnp.argsort(order)]
    out = jnp.einsum("BTkD,BTk->BTD", out.reshape(*chosen.shape, -1), shares, preferred_element_type=shares.dtype)
    return out.astype(x.dtype)


def mix_on_mesh(
    x: Float[Array, "B T D"],
    shares: Float[Array, "B T k"],
    chosen: Int[Array, "B T k"],
    weights: dict[str, Array],
    *,
    activation: str,
    rules: ShardingRules,
) -> Float[Array, "B T D"]:
    """`mix` over all experts, on the mesh in context: each device computes with the experts that the rules give it.

    Rows or tokens that do not divide over their mesh axes (one prompt, one new token) are computed on all of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = ("batch", "sequence", "expert", "embed", "mlp")
    batch, sequence, expert, embed, hidden = (getattr(rules, name) for name in names)
    batch, sequence = (
        axes if size % devices_along(mesh, axes) == 0 else ()
        for axes, size in zip((batch, sequence), x.shape[:2], strict=True)
    )
    # Weights split like the tokens that need all of them are gathered inside: backward scatters their gradients again.
    token_axes = {*batch, *sequence}
    embed = embed if set(embed) <= token_axes else ()
    kernel_axes = {*expert, *embed, *hidden}
    shared = set(expert) <= set(batch)  # devices with other experts have other tokens

    def local(x: Array, shares: Array, chosen: Array, weights: dict[str, Array]) -> Array:
        # Said here and not where they meet, so that backward sums what is smallest: a token, a part of a weight.
        x, shares, chosen = (_varying(array, kernel_axes - token_axes) for array in (x, shares, chosen))
        weights = {
            name: _gather(_varying(kernel, token_axes - kernel_axes), embed, 2 if name == "down" else 1)
            for name, kernel in weights.items()
        }
        if shared:
            x, shares, chosen = (_gather(array, expert, 0) for array in (x, shares, chosen))
        first = jax.lax.axis_index(expert) * weights["up"].shape[0]
        out = mix(x, shares, chosen, weights, activation=activation, first=first)
        if shared:
            return jax.lax.psum(jax.lax.psum_scatter(out, expert, scatter_dimension=0, tiled=True), hidden)
        return jax.lax.psum(out, (*expert, *hidden))

    tokens = PartitionSpec(batch, sequence)
    kernels = {
        name: PartitionSpec(expert, *((hidden, embed) if name == "down" else (embed, hidden))) for name in weights
    }
    on_mesh = jax.shard_map(local, in_specs=(tokens, tokens, tokens, kernels), out_specs=tokens)
    return on_mesh(x, shares, chosen, weights)


def _varying(array: Array, axes: set[str]) -> Array:
    """Mark an array as one that may differ along `axes` too; backward sums its gradient over them here."""
    return jax.lax.pcast(array, tuple(axes), to="varying")


def _gather(array: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(array, axes, axis=dimension, tiled=True) if axes else array
