"""`narrador scale fit FILE.csv`: a law of the loss fitted to a table of runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.terminal import print_table
from model.errors import UserError


@dataclass(frozen=True)
class Fit:
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to a table of runs, with intervals (Hoffmann et al. 2022)."""

    file: Annotated[Path, tyro.conf.Positional]
    """A CSV file with a line of headings."""
    columns: str | None = None
    """Which column holds what: N=…,D=…,loss=… (parameters, tokens, nats per token), or C=… (training FLOPs) in place
    of D, which is C / 6N then. None: columns of these names."""
    drop_worst: int = 0
    """Leave out so many of the highest losses."""
    bootstrap: int = 500
    """Rounds that the 95% intervals come from."""
    seed: int = 0
    """Seeds what the rounds draw."""
    out: Path | None = None
    """Folder for report.md, report.html, their picture and fit.json. None: only the table."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, fit, show."""
    arguments = tyro.cli(Fit, prog="narrador scale fit", args=list(argv))
    if arguments.bootstrap < 2:
        raise UserError(f"--bootstrap {arguments.bootstrap} must be at least 2.")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed} must be 0 or a positive number.")
    from experiments.law_points import read_points
    from experiments.law_report import HEADINGS, cells, remarks, tell, write_report
    from train.progress import bar

    points = read_points(arguments.file, arguments.columns, arguments.drop_worst)
    with bar("bootstrap", arguments.bootstrap) as advance:
        told = tell(points, arguments.bootstrap, arguments.seed, advance)
    told |= {"dropped": arguments.drop_worst, "file": str(arguments.file)}
    report = write_report(arguments.out, f"A law of {arguments.file.stem}", points, told) if arguments.out else None
    if arguments.json:
        print(json.dumps(told))
        return
    print_table(HEADINGS, cells(told), left=True)
    print("\n" + "\n".join(remarks(told)))
    if report:
        print(f"Report: {report}")
