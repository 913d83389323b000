"""`narrador probs TEXT`: what a trained model expects after a text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """The likeliest next tokens after a text, with their probabilities."""

    text: Annotated[str, tyro.conf.Positional]
    """What the model reads first; '' is the start of a document."""
    run: str | None = None
    """DIR or DIR:STAGE of a run. None: the latest under runs/."""
    top: int = 10
    """How many tokens to show."""
    temperature: float = 1.0
    """Divides the logits; 0 puts everything on the likeliest."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, ask, show."""
    arguments = tyro.cli(Arguments, prog="narrador probs", args=list(argv))
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top} must be at least 1.")
    from experiments.machine import prepare_jax

    prepare_jax()
    from experiments.expectation import expectation
    from train.trained import open_trained

    table = expectation(open_trained(arguments.run), arguments.text, arguments.temperature, arguments.top)
    if arguments.json:
        print(json.dumps(table, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False)
    largest = max(row["probability"] for row in table["tokens"])
    known = "true_probability" in table["tokens"][0]
    for row in table["tokens"]:
        bar = "█" * max(1, round(30 * row["probability"] / largest)) if row["probability"] > 0 else ""
        name = Text(repr(row["text"])[1:-1].replace(" ", "·"))  # not markup, whatever brackets it holds
        truth = f"[yellow]{row['true_probability']:7.2%}[/yellow]" if known else ""
        grid.add_row(name, f"{row['probability']:7.2%}", truth, f"[cyan]{bar}[/cyan]")
    rest = max(0.0, 1 - sum(row["true_probability"] for row in table["tokens"])) if known else 0.0
    grid.add_row("[dim]the rest[/dim]", f"{table['rest']:7.2%}", f"[yellow]{rest:7.2%}[/yellow]" if known else "", "")
    if known:
        grid.add_row("", "[dim]  model[/dim]", "[yellow]  truth[/yellow]", "")
    console = Console(highlight=False)
    console.print(grid)
    console.print(f"entropy {table['entropy']:.3f} nats at temperature {table['temperature']:g}")
