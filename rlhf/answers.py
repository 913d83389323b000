"""Answers in rows that a model reads at once: each after its prompt, and several after the same where they share it.

Letters: N answers, B rows of T tokens, R the most tokens of an answer.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from model.attention import SHARED
from model.transformer import Transformer

AnyArray = Array | np.ndarray


class Answers(NamedTuple):
    """Where answers stand. Those to one prompt share it, and none sees another: their positions all go on from the
    prompt's."""

    tokens: Int[AnyArray, "B T"]
    positions: Int[AnyArray, "B T"]
    segments: Int[AnyArray, "B T"]
    """`SHARED` for a prompt before several answers."""
    rows: Int[AnyArray, "N"]
    before: Int[AnyArray, "N"]
    """Where in its row each answer's prompt has its last token."""
    places: Int[AnyArray, "N R"]
    """Where in its row each token of an answer stands."""
    inside: Bool[AnyArray, "N R"]
    """Which of these are tokens, the rest being padding."""

    def read(self, model: Transformer, params: Any) -> Float[Array, "B T D"]:
        """The model's last hidden states."""
        read = (jnp.asarray(each) for each in (self.tokens, self.positions, self.segments))
        return model.apply({"params": params}, *read, method="hidden")[0]

    def drawn_from(self, per_token: Float[Array, "B T D"]) -> Float[Array, "N R D"]:
        """What stands at the token before each token of an answer: from it, that token is drawn."""
        places = jnp.asarray(self.places)
        seen = jnp.concatenate([jnp.asarray(self.before)[:, None], places[:, :-1]], axis=1)
        return per_token[jnp.asarray(self.rows)[:, None], seen]


def one_a_row(
    tokens: Int[AnyArray, "B T"], starts: Int[AnyArray, "B"], lengths: Int[AnyArray, "B"], room: int
) -> Answers:
    """Rows of one answer each, whose tokens are those from `starts` to before `lengths`, at most `room`."""
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    places = jnp.asarray(starts)[:, None] + jnp.arange(room)
    inside = places < jnp.asarray(lengths)[:, None]
    places = jnp.minimum(places, length - 1)
    return Answers(tokens, positions, jnp.zeros_like(positions), jnp.arange(rows), starts - 1, places, inside)


def sharing_prompts(
    prompts: Int[AnyArray, "B P"], lengths: Int[AnyArray, "B"], answers: Int[AnyArray, "N R"], ends: Int[AnyArray, "N"]
) -> Answers:
    """Rows of N/B answers each, behind their one prompt.

    Args:
        prompts: padded on the right; `lengths` are the real ones.
        answers: those to one prompt one after the other, padded on the right; `ends` are their lengths.
    """
    (rows, width), (count, room), each = prompts.shape, answers.shape, len(answers) // len(prompts)
    number, within = jnp.divmod(jnp.arange(count), each)
    inside = jnp.arange(room) < jnp.asarray(ends)[:, None]
    after = jnp.repeat(jnp.asarray(lengths), each)
    own = jnp.where(inside, 1 + within[:, None], -1), after[:, None] + jnp.arange(room), jnp.asarray(answers)
    real = jnp.arange(width) < jnp.asarray(lengths)[:, None]
    shared = jnp.where(real, SHARED, -1), jnp.broadcast_to(jnp.arange(width), prompts.shape), jnp.asarray(prompts)
    segments, positions, tokens = (
        jnp.concatenate([prompt, answer.reshape(rows, -1)], axis=1) for prompt, answer in zip(shared, own, strict=True)
    )
    places = width + room * within[:, None] + jnp.arange(room)
    return Answers(tokens, positions, segments, number, after - 1, places, inside)
