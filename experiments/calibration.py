"""A model held against the world whose truth is known: how far its probabilities are from the true ones, and where."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.truth import TokenListener
from model.tokenizer import Tokenizer
from train.narration.cast import TEAM_OF
from train.narration.words import split_words
from train.progress import bar
from train.trained import Trained

BATCH = 20


class Calibration(NamedTuple):
    """Nats are per token. KL is KL(truth || model), whose mean is what the model's loss exceeds the floor by."""

    documents: int
    kl: float
    kl_by_position: list[float]
    """Mean over the documents that are so long; position 0 predicts the first token."""
    names_repeated: int
    """Names of players in the text that were said before in the same document."""
    model_guesses: float
    """Share of these where the model's likeliest token is the name's first."""
    truth_guesses: float
    """The same of one who knows the language."""


def calibrate(trained: Trained, documents: Sequence[bytes], limit: int = 200) -> Calibration:
    """Compare a model with the truth at every token of the first `limit` documents of the narrator's world."""
    model, tokenizer = trained.model, trained.tokenizer
    texts = [documents[index].decode() for index in range(min(limit, len(documents)))]
    rows = [[tokenizer.document_end, *tokenizer.encode(text), tokenizer.document_end] for text in texts]
    rows = [row[: model.config.context_length + 1] for row in rows]
    length = max(map(len, rows)) - 1
    distances: list[list[float]] = [[] for _ in range(length)]
    repeated: list[tuple[bool, bool]] = []
    log_probabilities = jax.jit(partial(_log_probabilities, model))
    with bar("the model against the truth", len(rows)) as advance:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            tokens = np.full((BATCH, length), tokenizer.padding, np.int32)
            for index, row in enumerate(part):
                tokens[index, : len(row) - 1] = row[:-1]
            found = np.asarray(log_probabilities(trained.params, tokens), np.float64)
            for row, log_q in zip(part, found, strict=False):
                said = _names_said_before(tokenizer, row)
                listener = TokenListener.at_start(tokenizer)
                for position, token in enumerate(row[1:]):
                    truth = listener.expect()
                    ids, p = np.array(list(truth)), np.array(list(truth.values()))
                    distances[position].append(float(np.sum(p * (np.log(p) - log_q[position, ids]))))
                    if position in said:
                        repeated.append((int(log_q[position].argmax()) == token, int(ids[p.argmax()]) == token))
                    listener = listener.hear(token)
            advance(len(part))
    guesses = np.mean(repeated, axis=0) if repeated else (float("nan"), float("nan"))
    return Calibration(
        documents=len(rows),
        kl=float(np.mean([distance for column in distances for distance in column])),
        kl_by_position=[float(np.mean(column)) for column in distances],
        names_repeated=len(repeated),
        model_guesses=float(guesses[0]),
        truth_guesses=float(guesses[1]),
    )


def _log_probabilities(model: Any, params: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    return jax.nn.log_softmax(model.apply({"params": params}, tokens)[0])


def _names_said_before(tokenizer: Tokenizer, row: Sequence[int]) -> set[int]:
    """Positions whose target begins a player's name that the document has said before."""
    found, seen, position = set(), set(), 0
    for word in split_words(tokenizer.decode(row[1:-1])):
        name = word.strip()
        if name in TEAM_OF and name in seen:
            found.add(position)
        seen.add(name)
        position += len(tokenizer.encode(word))
    return found
