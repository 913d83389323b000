"""From logits to the distribution that is shown, and from that to a token. Computed here and nowhere else."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from model.config import SamplingConfig
from model.layers import wide


def distribution(logits: Float[Array, "*B V"], sampling: SamplingConfig) -> Float[Array, "*B V"]:
    """The probabilities that the next token is drawn from.

    Temperature divides the logits first; then top-k, top-p and min-p each strike out unlikely tokens, and what
    is left is scaled to sum to one. Among equals, top-k and top-p keep the lower ids.
    """
    logits = logits.astype(wide(logits.dtype))
    if sampling.temperature == 0:
        return jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    # From the largest down, so that even a minute temperature divides without overflow.
    logits = logits - logits.max(-1, keepdims=True)
    probabilities = jax.nn.softmax(logits / max(sampling.temperature, 1e-6), axis=-1)
    ranked_ids = jnp.argsort(-probabilities, axis=-1)
    ranked = jnp.take_along_axis(probabilities, ranked_ids, axis=-1)
    keep = jnp.ones_like(ranked, dtype=bool)
    if sampling.top_k is not None:
        keep &= jnp.arange(ranked.shape[-1]) < sampling.top_k
    if sampling.top_p is not None and sampling.top_p < 1:
        # A token stays while those before it have not reached top_p, so the likeliest always does.
        keep &= jnp.cumsum(ranked, axis=-1) - ranked < sampling.top_p
    if sampling.min_p is not None:
        keep &= ranked >= sampling.min_p * ranked[..., :1]
    kept = jnp.where(keep, ranked, 0.0)
    kept = kept / kept.sum(-1, keepdims=True)
    return jnp.put_along_axis(jnp.zeros_like(kept), ranked_ids, kept, axis=-1, inplace=False)


def draw(key: PRNGKeyArray, probabilities: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """One token from each distribution."""
    return draw_log(key, jnp.log(probabilities))


def draw_log(key: PRNGKeyArray, log_probs: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """The same of their logarithms: the token of `jax.random.categorical`, whose argmax, two reductions in one, is slow
    on a CPU."""
    noisy = log_probs + jax.random.gumbel(key, log_probs.shape, log_probs.dtype)
    highest = noisy == noisy.max(axis=-1, keepdims=True)
    return jnp.min(jnp.where(highest, jnp.arange(noisy.shape[-1]), noisy.shape[-1] - 1), axis=-1)


def entropy(probabilities: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """-sum p log p, in nats."""
    return jax.scipy.special.entr(probabilities).sum(-1)
