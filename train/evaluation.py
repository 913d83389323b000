"""Loss on the held-out split, in nats per token and bits per byte."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from train.batches import Batch, Batches
from train.step import place


class Evaluation(NamedTuple):
    """What a held-out text costs the model."""

    loss: float
    """Nats per token, document ends counted."""
    bits_per_byte: float
    """All nats of the text, document ends included, over its bytes and ln 2: comparable between tokenizers."""


def evaluate(
    loss_of: Callable[[Any, Batch], Any],
    params: Any,
    batches: Batches,
    sharding: NamedSharding,
    byte_lengths: Int[np.ndarray, "V"],
    limit: int | None = None,
) -> Evaluation:
    """Evaluate on the first `limit` batches, or all.

    Args:
        loss_of: compiled (params, batch) -> summed nats.
        byte_lengths: bytes of text that each token stands for.
    """
    nats, tokens, size = 0.0, 0.0, 0
    for index in range(min(len(batches), limit or len(batches))):
        batch = batches[index]
        nats += float(loss_of(params, place(batch, sharding)))
        tokens += float(np.sum(batch.weights))
        size += text_bytes(batch, byte_lengths)
    return Evaluation(nats / tokens, bits_per_byte(nats, size))


def text_bytes(batch: Batch, byte_lengths: Int[np.ndarray, "V"]) -> int:
    """Bytes of text that a batch's real targets stand for."""
    return int(np.sum(byte_lengths[np.asarray(batch.targets)] * (np.asarray(batch.weights) > 0)))


def bits_per_byte(nats: float, size: int) -> float:
    """Nats over `size` bytes, as bits per byte."""
    return nats / math.log(2) / max(size, 1)
