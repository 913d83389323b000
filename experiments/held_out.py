"""Held-out prompts of the narrator's world: what policies answer, what that is worth, and how far they have gone.

Letters: P prompts, N answers to each, U answers that differ, S tokens of a prompt with its answer, K heads.
"""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments.alignment import draw_answers, over_batches
from model.chat import Message
from model.decode import rounded
from model.transformer import Transformer, logits
from rlhf.answers import Answers, AnyArray, sharing_prompts
from rlhf.learner import of_answers
from rlhf.prompts import encode_prompts, pad, stop_tokens
from rlhf.rollout import Rollout, generate, response_texts, to_texts
from train.narration.checker import check
from train.narration.passage import Passage
from train.narration.questions import Question, draw_prompt, prompt_text
from train.narration.raters import gold_reward
from train.trained import Trained

TOGETHER = 32  # prompts of similar length that a policy answers at a time
ScoresOf = Callable[[Answers, Float[Array, "B"]], Float[Array, "B K"]]
"""From answers, one a row, and their log-likelihood under the model that policies begin as, to every head's scores."""


class Asked(NamedTuple):
    """Prompts of the narrator's world, and what is true of each."""

    known: list[tuple[Passage, Question]]
    rows: list[list[int]]
    """As the model reads them."""


class Drawn(NamedTuple):
    """A model's answers. One that was drawn more than once stands here once."""

    tokens: Int[np.ndarray, "U S"]
    """The prompt, the answer, padding."""
    starts: Int[np.ndarray, "U"]
    """Where the answer begins."""
    lengths: Int[np.ndarray, "U"]
    stopped: Bool[np.ndarray, "U"]
    log_probs: Float[np.ndarray, "U"]
    """Of the whole answer, nats."""
    gold: Float[np.ndarray, "U"]
    which: Int[np.ndarray, "P N"]
    """Which of the U each draw is."""
    seconds: Float[np.ndarray, ""]

    def in_rows(self, each: int) -> Int[np.ndarray, "B E"]:
        """Which answers of the U share a row behind their prompt, at most `each`; the last one fills it up."""
        rows = []
        for own in map(np.unique, self.which):
            for start in range(0, len(own), each):
                part = own[start : start + each]
                rows.append(np.pad(part, (0, each - len(part)), mode="edge"))
        return np.array(rows)

    def behind_prompts(self, rows: Int[np.ndarray, "B E"], room: int) -> Answers:
        """Answers of at most `room` tokens, those of each row behind their prompt."""
        first, own = rows[:, 0], rows.ravel()
        starts = self.starts[own]
        said = np.take_along_axis(self.tokens[own], starts[:, None] + np.arange(room), axis=1)
        return sharing_prompts(self.tokens[first, :-room], self.starts[first], said, self.lengths[own] - starts)


class Measured(NamedTuple):
    """A policy, by one answer to each prompt."""

    kl: Float[np.ndarray, "P"]
    """From the model that it began as, nats."""
    scores: Float[np.ndarray, "P K"]
    gold: Float[np.ndarray, "P"]
    stopped: Bool[np.ndarray, "P"]
    """Whether the answer ended by itself."""


class HeldOut:
    """Prompts that policies are measured on, all drawn at temperature 1."""

    def __init__(self, trained: Trained, asked: Asked, max_tokens: int) -> None:
        """Prepare.

        Args:
            trained: the model that policies begin as.
            max_tokens: where an answer ends that has not stopped by then.
        """
        self.trained, self.asked, self.max_tokens = trained, asked, max_tokens
        self.ends = stop_tokens(trained.tokenizer, trained.template)
        self._tokens, self._lengths = pad(asked.rows)
        self._kl = jax.jit(partial(answer_kl, trained.model))

    def draw(self, answers: int, seed: int) -> Drawn:
        """So many answers of the model itself to each prompt."""
        start = time.perf_counter()
        rollout = draw_answers(self.trained, self.asked.rows, 1.0, self.max_tokens, seed, answers).rollout
        alike = np.column_stack([rollout.tokens, rollout.lengths])
        _, first, which = np.unique(alike, axis=0, return_index=True, return_inverse=True)
        different: Rollout = jax.tree.map(lambda field: np.asarray(field)[first], rollout)
        return Drawn(
            np.asarray(different.tokens),
            np.asarray(different.prompt_lengths),
            np.asarray(different.lengths),
            np.asarray(different.stopped(self.ends)),
            np.asarray(different.log_probs).sum(axis=1),
            self._gold(response_texts(different, self.trained.tokenizer, self.ends), first // answers),
            which.reshape(-1, answers),
            np.array(time.perf_counter() - start),
        )

    def measure(self, params: Any, key: PRNGKeyArray, scores_of: ScoresOf) -> Measured:
        """What a policy has come to."""

        lengths = self._lengths
        order = np.argsort(lengths, kind="stable")  # a batch is as wide as its longest prompt needs

        def of_batch(which: Int[np.ndarray, "B"]) -> tuple[Array, ...]:
            own, heat, places = jax.random.fold_in(key, int(which[0])), np.ones(len(which), np.float32), order[which]
            tokens = self._tokens[places, : rounded(int(lengths[places].max()))]
            asked = tokens, lengths[places], heat
            rollout = generate(self.trained.model, params, own, *asked, self.max_tokens, self.ends)
            kl, expected = self._kl(params, self.trained.params, rollout)
            scores, stopped = scores_of(rollout.answers(), expected), rollout.stopped(self.ends)
            return kl, scores, stopped, rollout.responses(), rollout.response_lengths

        found = over_batches(of_batch, len(order), most=TOGETHER)
        kl, scores, stopped, said, sizes = (field[np.argsort(order)] for field in found)
        texts = to_texts(said, sizes, self.trained.tokenizer, self.ends)
        return Measured(kl, scores, self._gold(texts, np.arange(len(order))), stopped)

    def _gold(self, texts: Sequence[str], places: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        """The gold rewards of answers to the prompts at `places`."""
        known = [self.asked.known[place] for place in places]
        judged = (check(passage, question, text) for (passage, question), text in zip(known, texts, strict=True))
        return np.array([gold_reward(verdict) for verdict in judged])


def ask(trained: Trained, label: str, count: int, max_tokens: int) -> Asked:
    """Draw prompts; the same ones for the same label.

    Raises:
        UserError: one leaves no room for an answer of `max_tokens`.
    """
    known = [draw_prompt(random.Random(f"{label} {index}")) for index in range(count)]
    prompts = [(Message("user", prompt_text(*prompt)),) for prompt in known]
    room = trained.model.config.context_length - max_tokens
    return Asked(known, encode_prompts(prompts, trained.tokenizer, trained.template, room))


def answer_kl(
    model: Transformer, params: Any, reference: Any, rollout: Rollout
) -> tuple[Float[AnyArray, "B"], Float[AnyArray, "B"]]:
    """KL(policy || reference) in nats: of the whole distribution of the next token, summed over an answer's tokens.

    On average the same as the log-ratio of the tokens drawn, never negative, and with less noise (Amini, Vieira and
    Cotterell 2025). Only for answers drawn at temperature 1. Beside it the answers' log-likelihood under the reference.
    """

    answers = rollout.answers()

    def log_probs(params: Any) -> Float[Array, "B R V"]:
        unembedding = model.apply({"params": params}, method="unembedding")
        return jax.nn.log_softmax(logits(answers.drawn_from(answers.read(model, params)), unembedding))

    ours, theirs = log_probs(params), log_probs(reference)
    said = jnp.take_along_axis(theirs, rollout.responses()[..., None], axis=-1)[..., 0]
    return of_answers(jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1), rollout), of_answers(said, rollout)
