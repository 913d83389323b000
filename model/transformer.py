"""The whole model: tokens in, logits out. Dimension letters: `model.layers`."""

from dataclasses import replace
from functools import cache
from operator import itemgetter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from model.attention import Attention, KVCache, pick
from model.config import ModelConfig, ShardingRules
from model.layers import FeedForward, Norm, Rotation, look_up, parameter, rotation, sinusoids, weight_init, wide
from model.moe import MixtureOfExperts
from model.parametrization import embedding_scale, logit_scale, residual_scale
from model.sharding import constrain, logical_axes

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """One layer: attention and feed-forward, each around the residual stream."""

    config: ModelConfig
    rules: ShardingRules
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "B T D"], KVCache | None],
        layer: Int[Array, ""],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        turns: Rotation | None,
        wanted: Int[Array, "B W"] | None = None,
    ) -> tuple[tuple[Float[Array, "B W D"], KVCache | None], None]:
        x, cache = carry
        attention = Attention(self.config, self.rules, self.dtype, name="attention")
        if self.config.experts is None:
            feed_forward: nn.Module = FeedForward(self.config, self.dtype, name="mlp")
        else:
            feed_forward = MixtureOfExperts(self.config, self.rules, self.dtype, name="mlp")
        attention_norm = Norm(self.config, name="attention_norm")
        mlp_norm = Norm(self.config, name="mlp_norm")

        # Korthikanti et al. 2022, section 4.2.2: what a sublayer reads is gathered over the devices that share heads,
        # and what it adds is reduced into pieces of the residual stream. Without a name for the whole sum the compiler
        # would cut the sublayer itself like the residual stream.
        def inside(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return constrain(x, self.rules, "batch", "sequence", None)

        def between(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return constrain(x, self.rules, "batch", "residual", None)

        scale = residual_scale(self.config)

        if self.config.norm_position == "pre":
            out, cache = attention(inside(attention_norm(x)), positions, segments, turns, layer, cache, wanted)
            x = pick(x, wanted) + scale * between(inside(out))
            x = x + scale * between(inside(feed_forward(inside(mlp_norm(x)))))
        else:
            out, cache = attention(inside(x), positions, segments, turns, layer, cache, wanted)
            x = attention_norm(pick(x, wanted) + between(inside(out)))
            x = mlp_norm(x + between(inside(feed_forward(inside(x)))))
        return (between(x), cache), None


class Transformer(nn.Module):
    """A decoder-only transformer of any of the families that `ModelConfig` spans."""

    config: ModelConfig
    rules: ShardingRules = ShardingRules()
    dtype: DTypeLike = jnp.float32  # what products are computed in; parameters are float32

    def setup(self) -> None:
        c = self.config
        shape, axes = (c.vocabulary, c.width), ("vocab", "embed")
        embedding = parameter(self, "embedding", shape, axes, weight_init(c, "embedding"), self.dtype)
        self.embedding = constrain(embedding, self.rules, "vocab", None)
        if c.positions == "learned":
            init, places = weight_init(c, "embedding"), (c.context_length, c.width)
            self.position_embedding = parameter(self, "position_embedding", places, (None, "embed"), init, self.dtype)
        self.block = Block
        if c.remat != "none":
            self.block = nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[c.remat])
        # One layout for every way of running: parameters stacked over layers, looped over or unrolled.
        self.layers = nn.scan(
            self.block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
            unroll=1 if c.scan else c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.rules, self.dtype)
        if c.norm_position == "pre":
            self.final_norm = Norm(c)
        if not c.tied_head:
            self.head = parameter(self, "head", shape[::-1], axes[::-1], weight_init(c, "head"), self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T V"], KVCache | None]:
        """Logits of the token after each one, and the extended cache.

        Args:
            tokens: ids.
            positions: place of each token in its document; 0, 1, 2, ... unless told.
            segments: which document of the row each token belongs to; one unless told. Ignored with a cache,
                whose rows hold one document each.
            cache: what was seen before, written at `positions`.
        """
        hidden, cache = self.hidden(tokens, positions, segments, cache)
        return logits(hidden, self.unembedding()), cache

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        cache: KVCache | None = None,
        wanted: Int[Array, "B W"] | None = None,
    ) -> tuple[Float[Array, "B W D"], KVCache | None]:
        """The last hidden state, ready for `unembedding`: for losses that never hold all logits.

        Args:
            wanted: places of each row that alone are asked for: layers that are not looped over save the last one's
                work on the others.
        """
        c = self.config
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segments is None:
            segments = jnp.zeros_like(tokens)
        x = constrain(look_up(self.embedding, tokens), self.rules, "batch", "sequence", None)
        if c.positions == "sinusoidal":
            # Vaswani et al. 2017, section 3.4: the embedding is scaled up to the size of the sinusoids.
            x = x * embedding_scale(c) + sinusoids(positions, c.width).astype(self.dtype)
        elif c.positions == "learned":
            x = x + look_up(self.position_embedding, positions)
        x = constrain(x, self.rules, "batch", "residual", None)
        turns = rotation(c, positions) if c.positions == "rope" else None
        numbers, after = jnp.arange(c.layers), (positions, segments, turns)
        if wanted is None or c.scan:
            (x, cache), _ = self.layers((x, cache), numbers, *after)
            x = pick(x, wanted)
        else:
            block = jax.jit(self.block(c, self.rules, self.dtype, parent=None).apply)  # traced for two layers
            for layer in range(c.layers):
                own = {"params": jax.tree.map(itemgetter(layer), self.layers.variables["params"])}
                places = wanted if layer == c.layers - 1 else None
                (x, cache), _ = block(own, (x, cache), numbers[layer], *after, places)
        x = self.final_norm(x) if c.norm_position == "pre" else x
        return constrain(x, self.rules, "batch", "sequence", None), cache

    def unembedding(self) -> Float[Array, "D V"]:
        """The output projection: the head, or the transposed embedding where they are tied, at its scale."""
        return logit_scale(self.config) * (self.embedding.T if self.config.tied_head else self.head)


@jax.custom_gradient
def logits(hidden: Float[Array, "*B D"], unembedding: Float[Array, "D V"]) -> Any:
    """Scores [*B, V] of every next token, accumulated in at least float32, as is what gradients are made of."""
    wider, places = wide(hidden.dtype), tuple(range(hidden.ndim - 1))

    def gradients(out: Array) -> tuple[Array, Array]:
        out = out.astype(hidden.dtype)  # of float32 a GPU's products would take twice the time
        of_hidden = jnp.matmul(out, unembedding.T, preferred_element_type=wider)
        of_unembedding = jnp.tensordot(hidden, out, (places, places), preferred_element_type=wider)
        return of_hidden.astype(hidden.dtype), of_unembedding.astype(unembedding.dtype)

    return jnp.matmul(hidden, unembedding, preferred_element_type=wider), gradients


@cache
def named_shapes(config: ModelConfig) -> tuple[Any, Any]:
    """The logical axes of a model's parameters and their shapes, without making them: two trees alike."""
    model = Transformer(replace(config, remat="none"))  # which traces faster
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return logical_axes(boxed), nn.unbox(boxed)


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, from shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(named_shapes(config)[1]))
