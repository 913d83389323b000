"""Answers drawn from a policy, many at once and in one compiled program; and their log-probabilities under any model.

Letters: B episodes, P longest prompt, R longest response, S = P + R, V vocabulary.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from model.attention import KVCache, Prompts, init_cache
from model.decode import decode_step, prefill
from model.layers import wide
from model.sampling import draw_log
from model.tokenizer import Tokenizer
from model.transformer import Transformer, logits
from rlhf.answers import Answers, AnyArray, one_a_row, sharing_prompts


class Rollout(NamedTuple):
    """Each row is a prompt, its response right after it, and padding. Lengths tell them apart, never a token's id."""

    tokens: Int[AnyArray, "B S"]
    prompt_lengths: Int[AnyArray, "B"]
    response_lengths: Int[Array, "B"]
    """The token that stops a response counts as one of it."""
    temperature: Float[AnyArray, "B"]
    log_probs: Float[Array, "B R"]
    """Of each token of the response, under the distribution that it was drawn from; 0 on padding."""

    @property
    def mask(self) -> Bool[Array, "B R"]:
        """Which places of the response hold real tokens."""
        return jnp.arange(self.log_probs.shape[1]) < self.response_lengths[:, None]

    @property
    def lengths(self) -> Int[AnyArray, "B"]:
        """Real tokens of each row."""
        return self.prompt_lengths + self.response_lengths

    def stopped(self, stop: tuple[int, ...]) -> Bool[Array, "B"]:
        """Which responses ended as they should, with the first token of `stop`; another one cuts them."""
        last = jnp.take_along_axis(jnp.asarray(self.tokens), self.lengths[:, None] - 1, axis=1)[:, 0]
        return jnp.isin(last, jnp.asarray(stop[:1]))

    def responses(self) -> Int[Array, "B R"]:
        """The response tokens, padding included."""
        places = self.prompt_lengths[:, None] + np.arange(self.log_probs.shape[1])
        return jnp.take_along_axis(jnp.asarray(self.tokens), places, axis=1)

    def answers(self, each: int = 1) -> Answers:
        """The responses where a model reads them: `each` in a row behind their prompt, which must be the same."""
        if each == 1:
            return one_a_row(self.tokens, self.prompt_lengths, self.lengths, self.log_probs.shape[1])
        prompts = jnp.asarray(self.tokens)[::each, : -self.log_probs.shape[1]]
        return sharing_prompts(prompts, self.prompt_lengths[::each], self.responses(), self.response_lengths)


@partial(jax.jit, static_argnames=("model", "max_tokens", "stop", "answers"))
def generate(
    model: Transformer,
    params: Any,
    key: PRNGKeyArray,
    prompts: Int[AnyArray, "B P"],
    lengths: Int[AnyArray, "B"],
    temperature: Float[AnyArray, "B"],
    max_tokens: int,
    stop: tuple[int, ...],
    answers: int = 1,
) -> Rollout:
    """Draw responses to each prompt.

    Args:
        prompts: padded on the right to one width; `lengths` are the real ones.
        temperature: above 0, of each prompt; it divides the logits, also in `log_probs`.
        max_tokens: R, where a response ends that has not stopped by then.
        stop: tokens that end a response.
        answers: to each prompt, which is read once for all of them; they come one after the other.
    """
    cache = init_cache(model.config, len(prompts), prompts.shape[1], model.dtype)
    scores, cache = prefill(model, params, jnp.asarray(prompts), jnp.asarray(lengths), cache)
    scores, prompts, lengths, temperature = (
        jnp.repeat(jnp.asarray(x), answers, axis=0) for x in (scores, prompts, lengths, temperature)
    )
    # Apart from the answers, what was read is read by every step and never written.
    before = Prompts(cache.keys.swapaxes(3, 4), cache.values, lengths)
    cache = init_cache(model.config, len(prompts), max_tokens, model.dtype, before)

    def choose(scores: Float[Array, "B V"], index: Int[Array, ""]) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
        tempered = _tempered(scores, temperature[:, None])
        token = draw_log(jax.random.fold_in(key, index), tempered)
        return token, _log_prob(tempered, token)

    def ends(token: Int[Array, "B"]) -> Bool[Array, "B"]:
        return jnp.isin(token, jnp.asarray(stop, token.dtype))

    token, log_prob = choose(scores, jnp.zeros((), jnp.int32))
    responses = jnp.zeros((len(prompts), max_tokens), prompts.dtype).at[:, 0].set(token)
    log_probs = jnp.zeros((len(prompts), max_tokens), log_prob.dtype).at[:, 0].set(log_prob)

    class Carry(NamedTuple):
        step: Array
        token: Array
        open: Array
        lengths: Array
        responses: Array
        log_probs: Array
        cache: KVCache

    def unfinished(carry: Carry) -> Bool[Array, ""]:
        return (carry.step < max_tokens) & jnp.any(carry.open)

    def append(carry: Carry) -> Carry:
        scores, cache = decode_step(model, params, carry.token, lengths + carry.step - 1, carry.cache)
        token, log_prob = choose(scores, carry.step)
        return Carry(
            carry.step + 1,
            token,
            carry.open & ~ends(token),
            carry.lengths + carry.open,
            carry.responses.at[:, carry.step].set(jnp.where(carry.open, token, 0)),
            carry.log_probs.at[:, carry.step].set(jnp.where(carry.open, log_prob, 0)),
            cache,
        )

    start = Carry(jnp.ones((), jnp.int32), token, ~ends(token), jnp.ones_like(lengths), responses, log_probs, cache)
    done = jax.lax.while_loop(unfinished, append, start)
    tokens = jnp.pad(prompts, ((0, 0), (0, max_tokens)))
    places = lengths[:, None] + jnp.arange(max_tokens)
    tokens = jnp.put_along_axis(tokens, places, done.responses, axis=1, inplace=False)
    return Rollout(tokens, lengths, done.lengths, temperature, done.log_probs)


def response_log_probs(
    model: Transformer, params: Any, rollout: Rollout, each: int = 1
) -> tuple[Float[Array, "B R"], Float[Array, "B R"]]:
    """Log-probabilities of the responses' tokens under a model, at the temperature that they were drawn at, and the
    entropy of the distribution at each (nats). What stands on padding means nothing.

    Args:
        each: so many responses in a row have the same prompt, which is read once for them.
    """
    answers = rollout.answers(each)
    before = answers.drawn_from(answers.read(model, params))
    scores = logits(before, model.apply({"params": params}, method="unembedding"))
    tempered = _tempered(scores, rollout.temperature[:, None, None])
    return _log_prob(tempered, rollout.responses()), -jnp.sum(jnp.exp(tempered) * tempered, axis=-1)


def response_texts(rollout: Rollout, tokenizer: Tokenizer, stop: tuple[int, ...]) -> list[str]:
    """The responses as text, without the token of `stop` that ended each."""
    responses, lengths = jax.device_get((rollout.responses(), rollout.response_lengths))
    return to_texts(responses, lengths, tokenizer, stop)


def to_texts(
    responses: Int[np.ndarray, "B R"], lengths: Int[np.ndarray, "B"], tokenizer: Tokenizer, stop: tuple[int, ...]
) -> list[str]:
    """The same of responses that the host has."""
    rows = zip(responses, lengths, strict=True)
    return [tokenizer.decode(token for token in row[:end].tolist() if token not in stop).strip() for row, end in rows]


def _tempered(scores: Float[Array, "*B V"], temperature: Float[AnyArray, "..."]) -> Float[Array, "*B V"]:
    return jax.nn.log_softmax(scores.astype(wide(scores.dtype)) / temperature)


def _log_prob(log_distribution: Float[Array, "*B V"], tokens: Int[Array, "*B"]) -> Float[Array, "*B"]:
    chosen = tokens[..., None] == jnp.arange(log_distribution.shape[-1])
    return jnp.sum(jnp.where(chosen, log_distribution, 0), axis=-1)  # whose gradient is no scatter
