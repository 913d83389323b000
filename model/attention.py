"""Causal grouped-query attention, over a packed batch or over a cache. Dimension letters: `model.layers`."""

from functools import reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from model.config import ModelConfig, ShardingRules
from model.layers import Norm, Rotation, add_bias, parameter, rotate, weight_init, wide
from model.sharding import constrain


class Prompts(NamedTuple):
    """Keys and values of prompts, only read from here on. Each stands before B/G rows, one after the other."""

    keys: Float[Array, "L G K H P"]
    """As a product with queries takes them: transposed once, and not for every token."""
    values: Float[Array, "L G K P H"]
    lengths: Int[Array, "B"]
    """Of the prompt before each row; slots past it may hold anything."""


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far; a token's slot is its position, or how far it is past its prompt.

    A slot past a row's current position may hold anything: the causal mask hides it until it is overwritten.
    So prompts of different lengths share a batch, padded on the right.
    """

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]
    prompts: Prompts | None = None


CACHE_AXES = ("layers", "batch", "kv_heads", None, "head_dim")


def init_cache(
    config: ModelConfig, batch: int, length: int, dtype: DTypeLike, prompts: Prompts | None = None
) -> KVCache:
    """An empty cache for `batch` sequences of at most `length` tokens, not counting `prompts`."""
    shape = (config.layers, batch, config.key_value_heads, length, config.head_dim)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), prompts)


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


class Seen(NamedTuple):
    """Some of the tokens that queries may see. Of fewer rows than queries each serves several, one after the other."""

    key: Float[Array, "G K H S"]
    value: Float[Array, "G K S H"]
    mask: Bool[Array, "B T S"]


def attend(query: Float[Array, "B T N H"], *seen: Seen) -> Float[Array, "B T N H"]:
    """softmax(q k / sqrt(H)) v (Vaswani et al. 2017, equation 1) over all that is seen, softmax in at least float32."""
    batch, length, _, head_dim = query.shape
    heads = seen[0].key.shape[1]
    # Heads first, and the queries that share a key head end to end: each product is one plain matrix product, which
    # a CPU does almost twice as fast as a strided one. Token before head, so that a mesh can split the tokens.
    grouped = query.reshape(batch, length, heads, -1, head_dim).swapaxes(1, 2)
    rows = grouped.reshape(batch, heads, -1, head_dim)
    scores = [_scores(rows, part) for part in seen]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
    ends = np.cumsum([part.key.shape[3] for part in seen])[:-1]
    each = zip(jnp.split(weights, ends, axis=-1), seen, strict=True)
    out = reduce(jnp.add, (_product(own, part.value, query.dtype) for own, part in each))
    return out.reshape(grouped.shape).swapaxes(1, 2).reshape(query.shape)


def _scores(rows: Float[Array, "B K R H"], seen: Seen) -> Float[Array, "B K R S"]:
    scores = _product(rows, seen.key, wide(rows.dtype)) * rows.shape[-1] ** -0.5
    visible = jnp.repeat(seen.mask, rows.shape[2] // seen.mask.shape[1], axis=1)[:, None]
    return jnp.where(visible, scores, jnp.finfo(scores.dtype).min)


def _product(a: Float[Array, "B K R X"], b: Float[Array, "G K X Y"], dtype: DTypeLike) -> Float[Array, "B K R Y"]:
    """a b, where every matrix of b serves B/G rows of a."""
    if len(a) == len(b):
        return jnp.matmul(a, b, preferred_element_type=dtype)
    apart = a.reshape(len(b), -1, *a.shape[1:]).swapaxes(1, 2)
    rows = apart.reshape(*b.shape[:2], -1, a.shape[3])
    out = jnp.matmul(rows, b, preferred_element_type=dtype)
    return out.reshape(*apart.shape[:-1], -1).swapaxes(1, 2).reshape(*a.shape[:3], -1)


def pick(x: Shaped[Array, "B T *rest"], wanted: Int[Array, "B W"] | None) -> Shaped[Array, "B W *rest"]:
    """What stands at some places of each row; all of it unless told."""
    return x if wanted is None else x[jnp.arange(len(x))[:, None], wanted]


class Attention(nn.Module):
    """Projections, positions and the product; reads and extends the cache when there is one.

    Of the places `wanted` alone it asks what they see, if told.
    """

    config: ModelConfig
    rules: ShardingRules
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        turns: Rotation | None,
        layer: Int[Array, ""],
        cache: KVCache | None,
        wanted: Int[Array, "B W"] | None = None,
    ) -> tuple[Float[Array, "B W D"], KVCache | None]:
        c = self.config
        picked = jax.tree.map(lambda each: pick(each, wanted), (x, turns, positions, segments))
        asking, own_turns, own_positions, own_segments = picked
        query = self._project(asking, "query", "heads", c.heads)
        key = self._project(x, "key", "kv_heads", c.key_value_heads)
        value = self._project(x, "value", "kv_heads", c.key_value_heads)
        if c.qk_norm:
            query, key = Norm(c, "head_dim", name="query_norm")(query), Norm(c, "head_dim", name="key_norm")(key)
        if turns is not None:
            query, key = rotate(query, own_turns), rotate(key, turns)
        # Of a split sequence every device keeps its queries and gathers what they may see.
        key, value = (constrain(x, self.rules, "batch", None, "kv_heads", "head_dim") for x in (key, value))
        key_positions, key_segments = (constrain(x, self.rules, "batch", None) for x in (positions, segments))
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
        window = None
        if c.attention_window is not None:
            window = jnp.asarray([c.window(index) for index in range(c.layers)])[layer]
        if cache is None:
            mask = attention_mask(own_positions, key_positions, own_segments, key_segments, window)
            out = attend(query, Seen(key.swapaxes(2, 3), value, mask))
        else:
            cache = self._extended(cache, layer, positions, key, value)
            out = attend(query, *_cached(cache, layer, own_positions, window))
        shape, axes = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")
        kernel = parameter(self, "output", shape, axes, weight_init(c, "residual"), self.dtype)
        out = jnp.einsum("BTNH,NHD->BTD", out, kernel)
        if c.attention_bias:
            out = add_bias(out, parameter(self, "output_bias", (c.width,), ("embed",), zeros, wide(self.dtype)))
        return out, cache

    def _extended(
        self,
        cache: KVCache,
        layer: Int[Array, ""],
        positions: Int[Array, "B T"],
        key: Float[Array, "B K T H"],
        value: Float[Array, "B K T H"],
    ) -> KVCache:
        slots = positions if cache.prompts is None else positions - cache.prompts.lengths[:, None]
        rows, heads = jnp.arange(key.shape[0])[:, None, None], jnp.arange(key.shape[1])[:, None]
        place = layer, rows, heads, slots[:, None]
        keys = constrain(cache.keys.at[place].set(key), self.rules, *CACHE_AXES)
        values = constrain(cache.values.at[place].set(value), self.rules, *CACHE_AXES)
        return cache._replace(keys=keys, values=values)

    def _project(self, x: Float[Array, "B T D"], name: str, axis: str, heads: int) -> Float[Array, "B T N H"]:
        c, axes = self.config, ("embed", axis, "head_dim")
        kernel = parameter(self, name, (c.width, heads, c.head_dim), axes, weight_init(c, "hidden"), self.dtype)
        x = jnp.einsum("BTD,DNH->BTNH", x, kernel)
        if c.attention_bias:
            x = add_bias(x, parameter(self, f"{name}_bias", (heads, c.head_dim), axes[1:], zeros, wide(self.dtype)))
        return constrain(x, self.rules, "batch", "sequence", axis, "head_dim")


def _cached(
    cache: KVCache, layer: Int[Array, ""], positions: Int[Array, "B T"], window: Int[Array, ""] | None
) -> list[Seen]:
    """What a layer's cache holds for tokens at some positions."""

    def seen(part: KVCache | Prompts, starts: Int[Array, "B"], real: Int[Array, "B"]) -> Seen:
        slots = jnp.arange(part.values.shape[3])
        segments = jnp.where(slots < real[:, None], 0, -1)
        mask = attention_mask(positions, starts[:, None] + slots, jnp.zeros_like(positions), segments, window)
        keys = part.keys[layer].swapaxes(2, 3) if isinstance(part, KVCache) else part.keys[layer]
        return Seen(keys, part.values[layer], mask)

    nowhere, everything = (jnp.full_like(positions[:, 0], end) for end in (0, cache.keys.shape[3]))
    if cache.prompts is None:
        return [seen(cache, nowhere, everything)]
    lengths = cache.prompts.lengths
    return [seen(cache.prompts, nowhere, lengths), seen(cache, lengths, everything)]
