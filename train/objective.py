"""Next-token loss. Dimension letters: `model.layers`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.layers import wide
from model.sharding import as_rows
from model.transformer import Transformer, logits
from train.batches import Batch


def next_token_loss(model: Transformer, params: Any, batch: Batch, vocab_chunk: int | None = None) -> Float[Array, ""]:
    """Summed cross-entropy of a batch's real targets, in nats; divide by `batch.weights.sum()` for the mean."""
    variables = {"params": params}
    hidden, _ = model.apply(variables, batch.tokens, batch.positions, batch.segments, method="hidden")
    unembedding = model.apply(variables, method="unembedding")
    return jnp.sum(cross_entropy(hidden, unembedding, jnp.asarray(batch.targets), vocab_chunk) * batch.weights)


def cross_entropy(
    hidden: Float[Array, "*B D"],
    unembedding: Float[Array, "D V"],
    targets: Int[Array, "*B"],
    vocab_chunk: int | None = None,
) -> Float[Array, "*B"]:
    """-log softmax(hidden @ unembedding)[target], in nats and at least float32.

    Args:
        vocab_chunk: with a number, at most that many columns of the logits exist at once, forward and
            backward, where they are computed a second time. The value is the same.
    """
    if vocab_chunk is None or vocab_chunk >= unembedding.shape[1]:
        scores = logits(as_rows(hidden), unembedding)
        target_score = jnp.take_along_axis(scores, targets.reshape(*scores.shape[:-1], 1), axis=-1)[..., 0]
        return (jax.nn.logsumexp(scores, axis=-1) - target_score).reshape(targets.shape)
    vocabulary = unembedding.shape[1]
    chunks = -(-vocabulary // vocab_chunk)
    size = -(-vocabulary // chunks)
    padded = jnp.pad(unembedding, ((0, 0), (0, chunks * size - vocabulary)))
    # Every chunks-th column makes a chunk, so that devices which split the vocabulary have a part of each.
    columns = padded.reshape(-1, size, chunks).transpose(2, 0, 1)

    @jax.checkpoint
    def add_chunk(
        carry: tuple[Array, Array], chunk: tuple[Array, Array]
    ) -> tuple[tuple[Float[Array, "*B"], Float[Array, "*B"]], None]:
        log_normalizer, target_score = carry
        first, kernel = chunk
        ids = first + chunks * jnp.arange(size)
        scores = jnp.where(ids < vocabulary, logits(hidden, kernel), -jnp.inf)
        log_normalizer = jnp.logaddexp(log_normalizer, jax.nn.logsumexp(scores, axis=-1))
        here = jnp.take_along_axis(scores, (targets // chunks)[..., None], axis=-1)[..., 0]
        return (log_normalizer, jnp.where(targets % chunks == first, here, target_score)), None

    start = jnp.zeros(targets.shape, wide(hidden.dtype))
    chunked = jnp.arange(chunks), columns
    (log_normalizer, target_score), _ = jax.lax.scan(add_chunk, (start - jnp.inf, start), chunked)
    return log_normalizer - target_score
