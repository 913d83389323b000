"""The four families, small enough to test, with weights in which every bias and norm counts."""

import functools
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.presets import gpt2, gpt3, llama, vaswani2017
from model.transformer import Transformer

VOCABULARY = 61
CONTEXT = 8
ROWS = 4

FAMILIES: dict[str, ModelConfig] = {
    name: replace(config, vocab_size=VOCABULARY, context_length=CONTEXT)
    for name, config in {
        "vaswani2017": vaswani2017(layers=2, width=16, heads=2),
        "gpt2": gpt2(layers=2, width=16, heads=2),
        "gpt3": replace(gpt3(layers=2, width=16, heads=2), attention_window=3),
        "llama": llama(layers=2, width=16, heads=4, kv_heads=2, mlp_width=24),
    }.items()
}


@functools.cache
def model_and_parameters(config: ModelConfig, seed: int = 0, dtype: Any = jnp.float32) -> tuple[Transformer, Any]:
    """A model and random parameters: weights N(0, 0.2), norm scales around one, biases around zero."""
    model = Transformer(config, dtype=dtype)
    return model, random_parameters(parameter_shapes(model), seed)


def parameter_shapes(model: Transformer) -> Any:
    """The parameter tree as shapes; no array is made."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens))["params"]


def random_parameters(shapes: Any, seed: int = 0, std: float = 0.2) -> Any:
    """Random arrays for a tree of shapes."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        center = 1.0 if path[-1].key == "scale" else 0.0
        return (center + std * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def random_tokens(*shape: int, seed: int = 0) -> np.ndarray:
    """Random ids."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape, np.int32)


def full_pass(model: Transformer, params: Any, tokens: Any, positions: Any = None, segments: Any = None) -> np.ndarray:
    """Logits of whole rows, without a cache. Always on one shape, so that each model is compiled once."""
    rows, length = np.shape(tokens)
    positions = np.tile(np.arange(length), (rows, 1)) if positions is None else positions
    segments = np.zeros((rows, length)) if segments is None else segments
    padded = np.zeros((3, ROWS, CONTEXT), np.int32)
    padded[:, :rows, :length] = tokens, positions, segments
    padded[2, :, length:] = padded[2, rows:] = -1
    return np.asarray(_apply(model, params, *padded))[:rows, :length]


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Transformer, params: Any, tokens: Any, positions: Any, segments: Any) -> jax.Array:
    return model.apply({"params": params}, tokens, positions, segments)[0]
