"""`narrador neighbours WORD`: the tokens whose embeddings lie nearest to a word's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Tokens by the cosine of the angle between their embedding and the word's."""

    word: Annotated[str, tyro.conf.Positional]
    """One token of the vocabulary; with a leading space it is tried first, as words inside a text are."""
    run: str | None = None
    """DIR or DIR:STAGE of a run. None: the latest under runs/."""
    top: int = 10
    """How many neighbours to show."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, compare, show."""
    arguments = tyro.cli(Arguments, prog="narrador neighbours", args=list(argv))
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top} must be at least 1.")
    from experiments.machine import prepare_jax

    prepare_jax()
    import numpy as np

    from train.trained import open_trained

    trained = open_trained(arguments.run)
    tokenizer = trained.tokenizer
    spellings = [tokenizer.encode(spelling) for spelling in (f" {arguments.word}", arguments.word)]
    token = next((ids[0] for ids in spellings if len(ids) == 1), None)
    if token is None:
        parts = ", ".join(repr(tokenizer.token_text(part)) for part in spellings[-1])
        raise UserError(f"{arguments.word!r} is not one token but {len(spellings[-1])} ({parts}); ask for one of them.")
    embedding = np.asarray(trained.params["embedding"])
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosines = unit @ unit[token]
    ids = [int(other) for other in np.argsort(-cosines, kind="stable") if other != token][: arguments.top]
    found = [{"id": i, "text": tokenizer.token_text(i), "cosine": float(cosines[i])} for i in ids]
    if arguments.json:
        print(json.dumps({"word": tokenizer.token_text(token), "neighbours": found}, ensure_ascii=False))
        return
    for row in found:
        print(f"{row['cosine']:7.3f}  {row['text']!r}")
