"""Causal grouped-query attention, over a packed batch or over a cache. Dimension letters: `model.layers`."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from model.config import ModelConfig, ShardingRules
from model.layers import Norm, parameter, rope_frequencies, rotate, weight_init, wide
from model.sharding import constrain


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far; a token's slot is its position.

    A slot past a row's current position may hold anything: the causal mask hides it until it is overwritten.
    So prompts of different lengths share a batch, padded on the right.
    """

    keys: Float[Array, "L B S K H"]
    values: Float[Array, "L B S K H"]


def init_cache(config: ModelConfig, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """An empty cache for `batch` sequences of at most `length` tokens."""
    shape = (config.layers, batch, length, config.key_value_heads, config.head_dim)
    return KVCache(keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype))


SHARED = -(2**31)
"""The segment that every other of its row sees: a prompt that several answers follow. No number that padding has."""


def attention_mask(
    query_positions: Int[Array, "B T"],
    key_positions: Int[Array, "B S"],
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    window: Int[Array, ""] | int | None,
) -> Bool[Array, "B T S"]:
    """Who sees whom: the same document or what is `SHARED`, not the future, and at most `window` tokens back (None: any
    number)."""
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    seen = (query_segments[:, :, None] == key_segments[:, None, :]) | (key_segments[:, None, :] == SHARED)
    mask = seen & (distance >= 0)
    return mask if window is None else mask & (distance < window)


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """softmax(q k / sqrt(H)) v (Vaswani et al. 2017, equation 1), softmax in at least float32."""
    batch, length, _, head_dim = query.shape
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    # Heads first, and the queries that share a key head end to end: each product is one plain matrix product, which
    # a CPU does almost twice as fast as a strided one. Token before head, so that a mesh can split the tokens.
    grouped = query.reshape(batch, length, key.shape[1], -1, head_dim).swapaxes(1, 2)
    rows = grouped.reshape(batch, key.shape[1], -1, head_dim)
    scores = jnp.einsum("BKRH,BKSH->BKRS", rows, key, preferred_element_type=wide(query.dtype)) * head_dim**-0.5
    visible = jnp.repeat(mask, grouped.shape[3], axis=1)[:, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(scores.dtype).min), axis=-1).astype(query.dtype)
    out = jnp.einsum("BKRS,BKSH->BKRH", weights, value)
    return out.reshape(grouped.shape).swapaxes(1, 2).reshape(query.shape)


class Attention(nn.Module):
    """Projections, positions and the product; reads and extends the cache when there is one."""

    config: ModelConfig
    rules: ShardingRules
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        layer: Int[Array, ""],
        cache: KVCache | None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        c = self.config
        query = self._project(x, "query", "heads", c.heads)
        key = self._project(x, "key", "kv_heads", c.key_value_heads)
        value = self._project(x, "value", "kv_heads", c.key_value_heads)
        if c.qk_norm:
            query, key = Norm(c, "head_dim", name="query_norm")(query), Norm(c, "head_dim", name="key_norm")(key)
        if c.positions == "rope":
            frequencies = rope_frequencies(c)
            query, key = rotate(query, positions, frequencies), rotate(key, positions, frequencies)
        # Of a split sequence every device keeps its queries and gathers what they may see.
        key, value = (constrain(x, self.rules, "batch", None, "kv_heads", "head_dim") for x in (key, value))
        key_positions, key_segments = (constrain(x, self.rules, "batch", None) for x in (positions, segments))
        if cache is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            cache = KVCache(
                keys=self._place(cache.keys.at[layer, rows, positions].set(key)),
                values=self._place(cache.values.at[layer, rows, positions].set(value)),
            )
            key, value = cache.keys[layer], cache.values[layer]
            key_positions = jnp.broadcast_to(jnp.arange(key.shape[1]), key.shape[:2])
            key_segments = jnp.broadcast_to(segments[:, :1], key.shape[:2])
        window = None
        if c.attention_window is not None:
            window = jnp.asarray([c.window(index) for index in range(c.layers)])[layer]
        mask = attention_mask(positions, key_positions, segments, key_segments, window)
        out = attend(query, key, value, mask)
        shape, axes = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")
        kernel = parameter(self, "output", shape, axes, weight_init(c, "residual"), self.dtype)
        out = jnp.einsum("BTNH,NHD->BTD", out, kernel)
        if c.attention_bias:
            out = out + parameter(self, "output_bias", (c.width,), ("embed",), nn.initializers.zeros, self.dtype)
        return out, cache

    def _place(self, cached: Float[Array, "L B S K H"]) -> Float[Array, "L B S K H"]:
        return constrain(cached, self.rules, "layers", "batch", None, "kv_heads", "head_dim")

    def _project(self, x: Float[Array, "B T D"], name: str, axis: str, heads: int) -> Float[Array, "B T N H"]:
        c, axes = self.config, ("embed", axis, "head_dim")
        kernel = parameter(self, name, (c.width, heads, c.head_dim), axes, weight_init(c, "hidden"), self.dtype)
        x = jnp.einsum("BTD,DNH->BTNH", x, kernel)
        if c.attention_bias:
            bias_shape = (heads, c.head_dim)
            x = x + parameter(self, f"{name}_bias", bias_shape, axes[1:], nn.initializers.zeros, self.dtype)
        return constrain(x, self.rules, "batch", "sequence", axis, "head_dim")
