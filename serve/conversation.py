"""A conversation with a trained model: its history, the answer as it comes, and the table behind each token of it.

Nothing in here knows of a terminal or of HTTP.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from model.chat import Message
from model.config import SamplingConfig
from model.decode import stream
from train.trained import Trained


class Chosen(NamedTuple):
    """A token of an answer, with the likeliest tokens of the distribution it was drawn from."""

    text: str
    probability: float
    likeliest: tuple[tuple[str, float], ...]


@dataclass
class Conversation:
    """What was said so far, and how the next answer is drawn."""

    trained: Trained
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_tokens: int = 128
    seed: int = 0
    shown: int = 5
    """Tokens kept of each distribution."""
    history: list[Message] = field(default_factory=list)
    reasons: list[Chosen] = field(default_factory=list)
    """The tokens of the last answer, the one that ended it included."""
    asked: list[Message] = field(default_factory=list)
    """The history up to the last question, whatever came of it."""

    def say(self, text: str) -> Iterator[str]:
        """Ask; pieces of the answer as they come.

        What has come is in the history, also where the listener stops listening before the end; a question to which
        nothing came is not.
        """
        self.history.append(Message("user", text))
        self.reasons, self.asked = [], [*self.history]
        pieces: list[str] = []
        try:
            for piece in self._pieces():
                pieces.append(piece)
                yield piece
        finally:
            if answer := "".join(pieces).strip():
                self.history.append(Message("assistant", answer))
            else:
                self.history.pop()

    def begin_anew(self) -> None:
        """Forget what was said; the instruction stays."""
        self.history = [message for message in self.history if message.role == "system"]
        self.reasons, self.asked = [], []

    def instruct(self, text: str) -> None:
        """Begin anew under a system message; an empty one is none."""
        self.history = [Message("system", text)] if text else []
        self.reasons, self.asked = [], []

    def with_model(self, trained: Trained) -> "Conversation":
        """The same conversation up to the last question, to be answered by another model."""
        return replace(self, trained=trained, history=self.asked[:-1], reasons=[], asked=[])

    @property
    def question(self) -> str | None:
        """The last thing asked."""
        return self.asked[-1].content if self.asked else None

    def _pieces(self) -> Iterator[str]:
        trained, tokenizer = self.trained, self.trained.tokenizer
        if trained.stage == "pretrain":  # it knows no turns: it goes on with the text
            prompt = tokenizer.encode(f"{self.question}\n")
            ends = {tokenizer.document_end}
        else:
            prompt = trained.template.encode(tokenizer, self.history, answer=True).tokens
            ends = {tokenizer.document_end, trained.template.stop_token(tokenizer)}
        key = jax.random.fold_in(jax.random.key(self.seed), len(self.history))
        drawn = stream(
            trained.model, trained.params, [tokenizer.document_end, *prompt], self.sampling, key, self.max_tokens, ends
        )

        def kept() -> Iterator[int]:
            for token, probabilities in drawn:
                self.reasons.append(self._reason(token, probabilities))
                if token not in ends:
                    yield token

        return tokenizer.decode_stream(kept())

    def _reason(self, token: int, probabilities: Any) -> Chosen:
        tokenizer = self.trained.tokenizer
        best = np.argsort(-probabilities, kind="stable")[: self.shown]
        likeliest = tuple((tokenizer.token_text(int(index)), float(probabilities[index])) for index in best)
        return Chosen(tokenizer.token_text(token), float(probabilities[token]), likeliest)
