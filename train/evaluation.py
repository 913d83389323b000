"""Loss on the held-out split, in nats per token and bits per byte."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from train.batches import Batch, Batches
from train.step import place


def evaluate(
    loss_of: Callable[[Any, Batch], Any],
    params: Any,
    held_out: Mapping[str, Batches],
    sharding: NamedSharding,
    byte_lengths: Int[np.ndarray, "V"],
    limit: int | None = None,
) -> dict[str, Any]:
    """Evaluate on all batches, or on about `limit`: the first ones of every source, by its share of them.

    Args:
        loss_of: compiled (params, batch) -> summed nats; of many runs an array, and so is then what comes back.
        held_out: batches by source.
        byte_lengths: bytes of text that each token stands for.

    Returns:
        `validation_loss`, nats per token, document ends counted, and `validation_bits_per_byte`, all nats over the
        bytes of the text and ln 2, comparable between tokenizers. Of several sources these are for all text together,
        and `validation_loss SOURCE` is the loss of each by itself.
    """
    total, costs = sum(map(len, held_out.values())), {}
    for source, batches in held_out.items():
        nats, tokens, size = np.zeros(()), 0.0, 0
        for index in range(min(len(batches), -(-(limit or total) * len(batches) // total))):
            batch = batches[index]
            nats = nats + np.asarray(loss_of(params, place(batch, sharding)), np.float64)
            tokens += float(np.sum(batch.weights))
            size += text_bytes(batch, byte_lengths)
        costs[source] = nats, tokens, size
    nats, tokens, size = (sum(column) for column in zip(*costs.values(), strict=True))
    row = {"validation_loss": nats / tokens, "validation_bits_per_byte": bits_per_byte(nats, size)}
    if len(costs) > 1:
        row |= {f"validation_loss {source}": nats / tokens for source, (nats, tokens, _) in costs.items()}
    return row


def text_bytes(batch: Batch, byte_lengths: Int[np.ndarray, "V"]) -> int:
    """Bytes of text that a batch's real targets stand for."""
    return int(np.sum(byte_lengths[np.asarray(batch.targets)] * (np.asarray(batch.weights) > 0)))


def bits_per_byte(nats: Any, size: int) -> Any:
    """Nats over `size` bytes, as bits per byte."""
    return nats / math.log(2) / max(size, 1)
