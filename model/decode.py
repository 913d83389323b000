"""Reading a prompt into the cache, then one token at a time: sample, append, repeat."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from model.attention import KVCache, init_cache
from model.config import SamplingConfig
from model.sampling import distribution, draw
from model.transformer import Transformer, logits


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def prefill(
    model: Transformer, params: Any, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B V"], KVCache]:
    """Read prompts, padded on the right, into the cache; logits after the last real token of each."""
    hidden, cache = model.apply({"params": params}, tokens, cache=cache, wanted=lengths[:, None] - 1, method="hidden")
    return logits(hidden[:, 0], model.apply({"params": params}, method="unembedding")), cache


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def decode_step(
    model: Transformer, params: Any, token: Int[Array, "B"], position: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B V"], KVCache]:
    """Append one token to each sequence at its own position; logits after it."""
    out, cache = model.apply({"params": params}, token[:, None], positions=position[:, None], cache=cache)
    return out[:, 0], cache


@partial(jax.jit, static_argnames="sampling")
def choose(
    key: PRNGKeyArray, index: Int[ArrayLike, ""], logits: Float[Array, "B V"], sampling: SamplingConfig
) -> tuple[Int[Array, "B"], Float[Array, "B V"]]:
    """The token of each sequence that comes `index`-th, and the distribution it was drawn from."""
    probabilities = distribution(logits, sampling)
    return draw(jax.random.fold_in(key, index), probabilities), probabilities


def read(
    model: Transformer, params: Any, tokens: Sequence[int], room: int = 0
) -> tuple[Float[Array, "1 V"], KVCache, int]:
    """Prefill one prompt.

    A prompt longer than the context keeps its last tokens. Shapes are `rounded`.

    Args:
        room: how many tokens are to follow; the cache is made long enough for as many as the context allows.

    Returns:
        Logits of the next token, the cache, and the position that token will take.
    """
    if not tokens:
        raise ValueError("a prompt holds at least one token, such as the document end")
    context = model.config.context_length
    tokens = list(tokens)[-context:]
    padded = np.zeros((1, min(rounded(len(tokens)), context)), np.int32)
    padded[0, : len(tokens)] = tokens
    cache_length = min(rounded(len(tokens) + room), context)
    cache = init_cache(model.config, 1, cache_length, model.dtype)
    out, cache = prefill(model, params, jnp.asarray(padded), jnp.asarray([len(tokens)]), cache)
    return out, cache, len(tokens)


def stream(
    model: Transformer,
    params: Any,
    prompt: Sequence[int],
    sampling: SamplingConfig,
    key: PRNGKeyArray,
    max_tokens: int,
    stop: Collection[int] = (),
) -> Iterator[tuple[int, Float[np.ndarray, "V"]]]:
    """Continue `prompt`, yielding each token with the distribution it was drawn from.

    Ends after `max_tokens` or after yielding a token of `stop`. When the context is full, the older half is
    forgotten and the rest read again.
    """
    tokens = list(prompt)
    out, cache, position = read(model, params, tokens, room=max_tokens)
    for index in range(max_tokens):
        chosen, probabilities = choose(key, index, out, sampling)
        token = int(np.asarray(chosen)[0])  # a slice on the device is a program of its own
        yield token, np.asarray(probabilities)[0]
        if token in stop or index + 1 == max_tokens:
            return
        tokens.append(token)
        if position < model.config.context_length:
            out, cache = decode_step(model, params, chosen, np.array([position]), cache)
            position += 1
        else:
            kept = tokens[-max(1, model.config.context_length // 2) :]
            out, cache, position = read(model, params, kept, room=max_tokens - index)


def rounded(length: int) -> int:
    """The least power of two, or one and a half times one, that is no smaller: so programs have few shapes."""
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power
