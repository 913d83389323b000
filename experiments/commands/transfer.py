"""`narrador scale transfer`: whether the best learning rate stays where it is in wider models."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.terminal import print_table
from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Held-out loss by learning rate at several widths, under the standard parametrization and under CompleteP.

    Each is an ordinary run in its own process; those that are complete are not repeated.
    """

    name: Annotated[str, tyro.conf.Positional] = "narrator-tiny"
    """A preset, depth-N, a YAML file or a run directory: what is trained."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Widths to train; the smallest is CompleteP's base. Heads keep their dimensions."""
    learning_rate: float | None = None
    """The middle of the grid. None: the experiment's."""
    below: int = 2
    """Learning rates under it, each half of the next."""
    above: int = 2
    """Learning rates over it, each twice the one before."""
    parametrizations: tuple[Literal["standard", "completep"], ...] = ("standard", "completep")
    """Those to compare."""
    seeds: int = 1
    """Runs of each cell, whose mean loss counts."""
    steps: int = 200
    """Updates of each run."""
    workers: int | None = None
    """Runs at a time. None: one for each core."""
    out: Path = Path("runs/transfer")
    """Folder of the runs, transfer.json, report.md, report.html and their picture."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, train, show."""
    arguments = tyro.cli(Arguments, prog="narrador scale transfer", args=list(argv))
    from experiments.config import find_experiment
    from experiments.machine import command, versions
    from experiments.rate_transfer import claim, findings, plan, rates_around, train
    from experiments.resized import check_sizes
    from train.progress import bar, say

    limits = {"below": (arguments.below, 0), "above": (arguments.above, 0), "seeds": (arguments.seeds, 1)}
    for option, (number, least) in {
        **limits,
        "workers": (1 if arguments.workers is None else arguments.workers, 1),
    }.items():
        if number < least:
            raise UserError(f"--{option} {number} must be at least {least}.")
    name, experiment = find_experiment(arguments.name)
    center = arguments.learning_rate or experiment.train.learning_rate
    settings = replace(
        experiment.train,
        optimizer="adamw",
        learning_rate=center,
        steps=arguments.steps,
        eval_every=arguments.steps,
        checkpoint_every=arguments.steps,
        sample_every=arguments.steps,
        checkpoints_kept=1,
    )
    experiment = replace(experiment, train=settings)
    experiment.check()
    rates = rates_around(center, arguments.below, arguments.above)
    chosen = list(dict.fromkeys(arguments.parametrizations))
    cells = plan(arguments.out, experiment, chosen, check_sizes("widths", arguments.widths), rates, arguments.seeds)
    claim(cells)
    waiting = sum(cell.loss is None for cell in cells)
    if len(cells) > waiting:
        say(f"{len(cells) - waiting} of {len(cells)} runs are complete.")
    if waiting:
        try:
            with bar("training", len(cells), done=len(cells) - waiting) as advance:
                train(cells, arguments.workers, advance)
        except KeyboardInterrupt:
            say(f"what is done is kept. Go on with:\n  {' '.join(command(sys.argv[1:]))}")
            raise
    found = {**findings(name, cells), "command": command(sys.argv[1:]), **versions()}
    from experiments.transfer_report import headings, remarks, rows, write_report

    report = write_report(arguments.out, found)
    if arguments.json:
        print(json.dumps(found))
        return
    print_table(headings(found), rows(found))
    print("\n" + "\n".join(remarks(found)))
    print(f"Report: {report}")
