"""Answers in rows that a model reads at once: each after its prompt, and several after the same where they share it.

Letters: N answers, B rows of T tokens, R the most tokens of an answer, W wanted places of a row, U after the first.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from model.attention import SHARED, pick
from model.transformer import Transformer

AnyArray = Array | np.ndarray


class Answers(NamedTuple):
    """Where answers stand. Those to one prompt share it, and none sees another: their positions all go on from the
    prompt's."""

    tokens: Int[AnyArray, "B T"]
    positions: Int[AnyArray, "B T"]
    segments: Int[AnyArray, "B T"]
    """`SHARED` for a prompt before several answers."""
    wanted: Int[AnyArray, "B W"]
    """Places of each row where something is read off: the prompt's last token, then the answers' tokens."""
    rows: Int[AnyArray, "N"]
    places: Int[AnyArray, "N R"]
    """Which of its row's wanted places each token of an answer has; the first is the prompt's."""
    inside: Bool[AnyArray, "N R"]
    """Which of these are tokens, the rest being padding."""

    def read(self, model: Transformer, params: Any) -> Float[Array, "B W D"]:
        """The model's last hidden states at the wanted places."""
        read = {name: jnp.asarray(getattr(self, name)) for name in ("tokens", "positions", "segments", "wanted")}
        return model.apply({"params": params}, **read, method="hidden")[0]

    def drawn_from(self, per_token: Float[Array, "B W D"]) -> Float[Array, "N R D"]:
        """What stands at the token before each token of an answer: from it, that token is drawn."""
        seen = jnp.pad(jnp.asarray(self.places)[:, :-1], ((0, 0), (1, 0)))
        return per_token[jnp.asarray(self.rows)[:, None], seen]

    def said(self) -> tuple[Int[Array, "B U"], Int[Array, "B U"]]:
        """The tokens at the wanted places after the prompt's, and the wanted place from which each was drawn."""
        one_before = jnp.zeros_like(self.wanted) + jnp.arange(-1, self.wanted.shape[1] - 1)
        before = one_before.at[self.rows, self.places[:, 0]].set(0)
        return pick(jnp.asarray(self.tokens), jnp.asarray(self.wanted))[:, 1:], before[:, 1:]

    def of_answers(self, per_said: Float[Array, "B U"]) -> Float[Array, "N R"]:
        """What stands at each token of an answer; 0 on padding."""
        return jnp.where(self.inside, per_said[self.rows[:, None], self.places - 1], 0)


def one_a_row(
    tokens: Int[AnyArray, "B T"], starts: Int[AnyArray, "B"], lengths: Int[AnyArray, "B"], room: int
) -> Answers:
    """Rows of one answer each, whose tokens are those from `starts` to before `lengths`, at most `room`."""
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    wanted = jnp.asarray(starts)[:, None] + jnp.arange(-1, room)
    inside = wanted[:, 1:] < jnp.asarray(lengths)[:, None]
    places = jnp.broadcast_to(jnp.arange(1, room + 1), inside.shape)
    wanted = jnp.minimum(wanted, length - 1)
    return Answers(tokens, positions, jnp.zeros_like(positions), wanted, jnp.arange(rows), places, inside)


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
    behind = jnp.broadcast_to(jnp.arange(width, tokens.shape[1]), (rows, tokens.shape[1] - width))
    wanted = jnp.concatenate([jnp.asarray(lengths)[:, None] - 1, behind], axis=1)
    places = 1 + room * within[:, None] + jnp.arange(room)
    return Answers(tokens, positions, segments, wanted, number, places, inside)
