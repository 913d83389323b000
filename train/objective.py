"""Next-token loss, and what a mixture of experts adds to it in training. Dimension letters: `model.layers`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.layers import wide
from model.moe import ROUTER_LOGITS, route
from model.sharding import as_rows
from model.transformer import Transformer, logits
from train.batches import Batch


def next_token_loss(model: Transformer, params: Any, batch: Batch, vocab_chunk: int | None = None) -> Float[Array, ""]:
    """Summed cross-entropy of a batch's real targets, in nats; divide by `batch.weights.sum()` for the mean."""
    hidden, _ = model.apply({"params": params}, batch.tokens, batch.positions, batch.segments, method="hidden")
    return _nats(model, params, hidden, batch, vocab_chunk)


def training_loss(
    model: Transformer, params: Any, batch: Batch, vocab_chunk: int | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What training descends, summed like `next_token_loss`, and what it consists of, summed likewise.

    That is the next-token loss alone, called `loss`; with a mixture of experts also what `router_losses` finds, its
    two losses weighted as the config says.
    """
    c = model.config
    if c.experts is None:
        nats = next_token_loss(model, params, batch, vocab_chunk)
        return nats, {"loss": nats}
    inputs = (batch.tokens, batch.positions, batch.segments)
    (hidden, _), seen = model.apply({"params": params}, *inputs, method="hidden", mutable="intermediates")
    nats = _nats(model, params, hidden, batch, vocab_chunk)
    (router_logits,) = seen["intermediates"]["layers"]["mlp"][ROUTER_LOGITS]
    weights = jnp.asarray(batch.weights)
    means = router_losses(router_logits, weights, c.experts_per_token)
    found = {name: value * weights.sum() for name, value in means.items()}
    total = nats + c.router_balance * found["balance_loss"] + c.router_z * found["router_z_loss"]
    return total, {"loss": nats, **found}


def router_losses(
    router_logits: Float[Array, "L B T E"], weights: Float[Array, "B T"], experts_per_token: int
) -> dict[str, Array]:
    """How a mixture's routers treat the tokens that have a target; the losses are means over the layers.

    Returns:
        balance_loss: E times the sum over experts of f x P, where f is an expert's share of the choices and P its mean
            probability (Fedus et al. 2021, equations 4 to 6, with k choices a token): 1 where all is even.
        router_z_loss: mean of logsumexp(logits) squared (Zoph et al. 2022, equation 5).
        expert_load: f of every layer and expert.
    """
    share = weights / jnp.maximum(weights.sum(), 1)
    _, chosen = route(router_logits, experts_per_token)
    experts = router_logits.shape[-1]
    choices = jax.nn.one_hot(chosen, experts, dtype=router_logits.dtype).mean(-2)
    load = jnp.einsum("LBTE,BT->LE", choices, share)
    probability = jnp.einsum("LBTE,BT->LE", jax.nn.softmax(router_logits, axis=-1), share)
    z = jnp.einsum("LBT,BT->L", jnp.square(jax.nn.logsumexp(router_logits, axis=-1)), share)
    balance = experts * jnp.sum(load * probability, axis=-1).mean()
    return {"balance_loss": balance, "router_z_loss": z.mean(), "expert_load": load}


def _nats(
    model: Transformer, params: Any, hidden: Float[Array, "B T D"], batch: Batch, vocab_chunk: int | None
) -> Float[Array, ""]:
    unembedding = model.apply({"params": params}, method="unembedding")
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
    def add_chunk(carry: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        log_normalizer, target_score = carry
        first, kernel = chunk
        ids = first + chunks * jnp.arange(size)
        scores = jnp.where(ids < vocabulary, logits(hidden, kernel), -jnp.inf)
        log_normalizer = jnp.logaddexp(log_normalizer, jax.nn.logsumexp(scores, axis=-1))
        here = jnp.take_along_axis(scores, (targets // chunks)[..., None], axis=-1)[..., 0]
        return (log_normalizer, jnp.where(targets % chunks == first, here, target_score)), None

    start = jnp.zeros(targets.shape, wide(hidden.dtype))
    each = jnp.arange(chunks), columns
    (log_normalizer, target_score), _ = jax.lax.scan(add_chunk, (start - jnp.inf, start), each)
    return log_normalizer - target_score
