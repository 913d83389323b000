"""The small layers: norms, positions and the feed-forward network.

Dimension letters, here and everywhere: B batch, T tokens (queries), S tokens seen (keys), D width,
N query heads, K key-value heads, G query heads per key-value head, H head dimension, F feed-forward,
V vocabulary, L layers, E experts, k experts of a token; half is H / 2.
"""

from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal, ones, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from model.config import ModelConfig
from model.parametrization import Kind, init_std
from model.sharding import Axes, as_rows

Initializer = Callable[..., Array]


def wide(dtype: DTypeLike) -> jnp.dtype:
    """At least float32: where statistics, softmax and losses are computed."""
    return jnp.promote_types(dtype, jnp.float32)


def parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: Axes, init: Initializer, dtype: DTypeLike
) -> Array:
    """Declare a float32 parameter once, with shape, logical axes and initializer, and cast it for computing."""
    return jnp.asarray(module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32), dtype)


def look_up(table: Float[Array, "V D"], ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of a table. Gradients add up in at least float32: in bfloat16 those that many places share stop growing."""

    def add_up(gradient: Array) -> Array:
        wider = wide(table.dtype)
        return jnp.zeros(table.shape, wider).at[ids].add(gradient.astype(wider)).astype(table.dtype)

    return jax.custom_gradient(lambda table: (table[ids], add_up))(table)


def add_bias(x: Float[Array, "..."], bias: Float[Array, "..."]) -> Float[Array, "..."]:
    """A bias added to all places. Its gradient, the sum over them, adds up in the bias' own precision."""
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


def weight_init(config: ModelConfig, kind: Kind) -> Initializer:
    """Normal, as GPT-2 does; how wide, the parametrization says."""
    return normal(init_std(config, kind))


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, with a learned scale (and bias, for LayerNorm)."""

    config: ModelConfig
    axis: str = "embed"
    """The last axis' logical name."""

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        dtype, shape = x.dtype, x.shape[-1:]
        x = x.astype(wide(dtype))
        scale = parameter(self, "scale", shape, (self.axis,), ones, x.dtype)
        if self.config.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.config.norm_epsilon) * scale
        if self.config.norm == "layernorm":
            x = x + parameter(self, "bias", shape, (self.axis,), zeros, x.dtype)
        return x.astype(dtype)


def feed_forward_weights(
    module: nn.Module, config: ModelConfig, dtype: DTypeLike, experts: int | None = None
) -> dict[str, Array]:
    """Declare the matrices and biases of a feed-forward network, or the matrices of `experts` of them, stacked."""
    c, bias = config, config.mlp_bias
    stack: tuple[int, ...] = () if experts is None else (experts,)
    axes: Axes = (*("expert" for _ in stack), "embed", "mlp")
    shape, down_axes = (*stack, c.width, c.hidden_width), (*axes[:-2], "mlp", "embed")
    weights = {"up": parameter(module, "up", shape, axes, weight_init(c, "hidden"), dtype)}
    if bias:
        weights["up_bias"] = parameter(module, "up_bias", shape[-1:], ("mlp",), zeros, wide(dtype))
    if c.activation == "swiglu":
        weights["gate"] = parameter(module, "gate", shape, axes, weight_init(c, "hidden"), dtype)
    down_shape, down_init = (*stack, c.hidden_width, c.width), weight_init(c, "residual")
    weights["down"] = parameter(module, "down", down_shape, down_axes, down_init, dtype)
    if bias:
        weights["down_bias"] = parameter(module, "down_bias", (c.width,), ("embed",), zeros, wide(dtype))
    return weights


def feed_forward(
    x: Float[Array, "*B D"],
    weights: dict[str, Array],
    activation: str,
    product: Callable[[Array, Array], Array] = jnp.matmul,
) -> Float[Array, "*B D"]:
    """Two matrices around a non-linearity; SwiGLU adds a third that gates (Shazeer 2020).

    Args:
        product: multiplies rows with a matrix, or each row with its own expert's of stacked ones.
    """
    hidden = product(x, weights["up"])
    if "up_bias" in weights:
        hidden = add_bias(hidden, weights["up_bias"])
    if activation == "swiglu":
        hidden = hidden * nn.silu(product(x, weights["gate"]))
    elif activation == "gelu":
        hidden = nn.gelu(hidden, approximate=True)
    else:
        hidden = nn.relu(hidden)
    x = product(hidden, weights["down"])
    return add_bias(x, weights["down_bias"]) if "down_bias" in weights else x


class FeedForward(nn.Module):
    """One feed-forward network, which every token passes."""

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        weights = feed_forward_weights(self, self.config, self.dtype)
        return feed_forward(as_rows(x), weights, self.config.activation).reshape(x.shape)


def sinusoids(positions: Int[Array, "B T"], width: int) -> Float[Array, "B T D"]:
    """Vaswani et al. 2017, section 3.5: sines on even dimensions, cosines on odd ones."""
    frequencies = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angles = positions[..., None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, width)


def rope_frequencies(config: ModelConfig) -> Float[Array, "half"]:
    """Rotary frequencies (Su et al. 2021), with Llama 3.1's scaling where `rope_scaling` is not 1.

    Llama 3.1 keeps wavelengths under 8192/4 positions, divides the frequency of those over 8192 by the
    factor, and interpolates between (its reference code, `apply_scaling`).
    """
    frequencies = config.rope_theta ** (-jnp.arange(0, config.head_dim, 2) / config.head_dim)
    if config.rope_scaling == 1.0:
        return frequencies
    original_context, low, high = 8192, 1.0, 4.0
    turns = original_context * frequencies / (2 * jnp.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1 - kept) / config.rope_scaling)


Rotation: TypeAlias = tuple[Float[Array, "B T 1 half"], Float[Array, "B T 1 half"]]


def rotation(config: ModelConfig, positions: Int[Array, "B T"]) -> Rotation:
    """Cosines and sines of position x frequency, alike for all layers and heads."""
    # Many tokens take them from a table, or XLA works them out again in every head of every unrolled layer.
    many = positions.size * (1 if config.scan else config.layers) >= config.context_length
    known = jnp.arange(config.context_length) if many else positions
    angles = known[..., None, None] * rope_frequencies(config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos[positions], sin[positions]) if many else (cos, sin)


def rotate(x: Float[Array, "B T N H"], turns: Rotation) -> Float[Array, "B T N H"]:
    """Turn dimension pairs by position x frequency (Su et al. 2021, equation 34).

    The paper pairs neighbours; here dimension i goes with i + H/2, as in GPT-NeoX and Hugging Face's Llama: the same
    up to the order of the dimensions.
    """
    cos, sin = turns
    first, second = jnp.split(x.astype(wide(x.dtype)), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
