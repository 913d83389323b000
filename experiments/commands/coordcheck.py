"""`narrador scale coordcheck`: what a few steps change in wider and deeper models, under both parametrizations."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.terminal import print_table
from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Root-mean-square change of each activation after some steps of AdamW, against width, and depth if asked for."""

    name: Annotated[str, tyro.conf.Positional] = "narrator-tiny"
    """A preset, depth-N, a YAML file or a run directory; its data is trained on."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths to measure; the smallest is CompleteP's base. Heads keep their dimensions."""
    depths: tuple[int, ...] = ()
    """Numbers of layers to measure too, at the smallest width; the fewest are CompleteP's base. None: only widths."""
    seeds: int = 4
    """Initial weights and orders of the data that the slopes' intervals come from."""
    steps: int = 5
    """Steps of AdamW before the change is taken."""
    learning_rate: float = 0.002
    """Of all steps, without warm-up; so small that they stay smooth."""
    out: Path | None = None
    """Folder for report.md, report.html, their picture and coordcheck.json. None: only the table."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, measure, show."""
    arguments = tyro.cli(Arguments, prog="narrador scale coordcheck", args=list(argv))
    from experiments.config import find_experiment
    from experiments.machine import prepare_jax
    from experiments.resized import PARAMETRIZATIONS, check_sizes, parametrized, resized

    if arguments.seeds < 2:
        raise UserError(f"--seeds {arguments.seeds} must be at least 2: the intervals come from them.")
    if arguments.steps < 2:
        raise UserError(f"--steps {arguments.steps} must be at least 2: from a head of zeros the first moves it alone.")
    if not 0 < arguments.learning_rate < float("inf"):
        raise UserError(f"--learning-rate {arguments.learning_rate} must be a positive number.")
    name, experiment = find_experiment(arguments.name)
    experiment.check()
    widths = check_sizes("widths", arguments.widths)
    depths = check_sizes("depths", arguments.depths) if arguments.depths else []
    for width in widths:
        parametrized(resized(experiment.model, width), "completep", experiment.model)
    prepare_jax()
    from experiments.coordinate_check import Check, findings
    from experiments.coordinate_report import headings, remarks, rows, write_report
    from train.progress import bar

    check = Check(experiment, arguments.learning_rate, arguments.steps)
    with bar("measuring", len(PARAMETRIZATIONS) * (len(widths) + len(depths)) * arguments.seeds) as advance:
        found = findings(name, check, widths, depths, arguments.seeds, advance)
    report = write_report(arguments.out, found) if arguments.out else None
    if arguments.json:
        print(json.dumps(found))
        return
    print_table(["slope over", *headings(found)], rows(found), left=True)
    print("\n" + "\n".join(remarks(found)))
    if report:
        print(f"Report: {report}")
