"""`narrador sample`: let a trained model continue a text."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from experiments.seeds import check_seed
from model.config import SamplingConfig
from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Continue a prompt, one token at a time."""

    run: str | None = None
    """DIR or DIR:STAGE of a run. None: the latest under runs/."""
    prompt: str = ""
    """What to continue; empty: the start of a document."""
    tokens: int = 200
    """Most tokens to write; the end of the document ends it earlier."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    seed: int = 0
    """The same seed writes the same text."""
    json: bool = False
    """Print one JSON object on the last line of stdout instead of streaming."""


def main(argv: Sequence[str]) -> None:
    """Parse, and print tokens as they come."""
    arguments = tyro.cli(Arguments, prog="narrador sample", args=list(argv))
    if arguments.tokens < 1:
        raise UserError(f"--tokens {arguments.tokens} must be at least 1.")
    check_seed(arguments.seed)
    from experiments.machine import prepare_jax

    prepare_jax()
    import jax

    from model.decode import stream
    from train.trained import open_trained

    trained = open_trained(arguments.run)
    end = trained.tokenizer.document_end
    prompt = [end, *trained.tokenizer.encode(arguments.prompt)]
    drawn = stream(
        trained.model,
        trained.params,
        prompt,
        arguments.sampling,
        jax.random.key(arguments.seed),
        arguments.tokens,
        stop={end},
    )
    ids: list[int] = []

    def visible() -> Iterator[int]:
        for token, _ in drawn:
            ids.append(token)
            if token != end:
                yield token

    pieces = trained.tokenizer.decode_stream(visible())
    if arguments.json:
        text = "".join(pieces)
        print(json.dumps({"prompt": arguments.prompt, "text": text, "tokens": ids}, ensure_ascii=False))
        return
    sys.stdout.write(arguments.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
