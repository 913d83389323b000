"""`narrador scale ladder plan|run|status|fit|report`: runs of several sizes and budgets, and the law of their loss."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.config import Experiment, find_experiment
from experiments.seeds import check_seed
from experiments.terminal import print_table
from model.errors import UserError, unknown

STARTED = time.time()
Folder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Plan:
    """Plan a ladder: measure each size, choose budgets of tokens, and say what every run takes."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    dir: Path | None = None
    """The ladder's folder. None: ladders/NAME."""
    sizes: tuple[str, ...] = ()
    """WIDTH or WIDTHxLAYERS of each size; heads stay as wide as the experiment's. None given: 0.5, 1, 1.5 and 2.5
    times its width."""
    tokens: tuple[float, ...] = ()
    """Budgets of tokens. None given: `budgets` of them, each twice the one before, as many as the next options buy."""
    budgets: int = 4
    """How many budgets of tokens."""
    budget: float | None = None
    """Training FLOPs of the whole ladder."""
    minutes: float = 20.0
    """Without `budget`: how long the whole ladder is to take on this machine."""
    seeds: int = 2
    """Runs of each size on each budget: more than one tell the noise between seeds, and average it out."""
    workers: int | None = None
    """Processes that train at once. None: one for each core, and one on an accelerator."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Run:
    """Do the runs that are not done yet. Ctrl-C stops it; the same command goes on."""

    folder: Folder
    """The ladder's folder."""
    workers: int | None = None
    """Processes that train at once. None: as planned."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Status:
    """Which runs are planned, running, stopped or done, and how long the rest takes."""

    folder: Folder
    """The ladder's folder."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Fit:
    """Fit the law to the runs that are done, hold the largest out, and say what to doubt; `report` writes it down."""

    folder: Folder
    """The ladder's folder."""
    bootstrap: int = 500
    """Rounds that each 95% interval comes from."""
    seed: int = 0
    """Seeds what the rounds draw."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


VERBS: dict[str, Any] = {"run": Run, "status": Status, "fit": Fit, "report": Fit}
USAGE = """usage: narrador scale ladder plan NAME|FILE [--dir DIR] [options] [overrides]
       narrador scale ladder run|status|fit|report DIR"""


def main(argv: Sequence[str]) -> int:
    """Parse, do, show."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "\n\n'narrador scale ladder VERB --help' tells what each takes.")
        return 0
    verb, rest = argv[0], list(argv[1:])
    if verb in ("chain", "measure"):  # what the others start for each worker
        return _child(verb, *rest)
    if verb == "plan":
        return _plan(rest)
    if verb not in VERBS:
        raise unknown("verb of narrador scale ladder", verb, ["plan", *VERBS])
    arguments = tyro.cli(VERBS[verb], prog=f"narrador scale ladder {verb}", args=rest)
    from experiments.ladder import load

    ladder = load(arguments.folder)
    if verb == "run":
        return _run(ladder, arguments)
    if verb == "status":
        return _status(ladder, arguments)
    return _fit(ladder, arguments, report=verb == "report")


def _plan(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            print(USAGE + "\n\n'narrador scale ladder plan NAME --help' lists options and overrides.")
            return 0
        raise UserError(f"say of which experiment.\n{USAGE}")
    name, experiment = find_experiment(argv[0])
    arguments = tyro.cli(Plan, prog=f"narrador scale ladder plan {argv[0]}", args=argv[1:], default=Plan(experiment))
    _check(arguments)
    arguments.experiment.check()
    from experiments.machine import command, prepare_jax

    folder = arguments.dir or Path("ladders") / name
    prepare_jax(arguments.experiment.train.cpu_devices)
    from experiments.ladder_plan import plan
    from experiments.ladder_report import PLANNED, plan_remarks, planned

    ladder = plan(
        arguments.experiment,
        folder,
        arguments.sizes,
        arguments.tokens,
        arguments.budgets,
        arguments.budget,
        arguments.minutes,
        arguments.seeds,
        arguments.workers or _workers(),
        command(["scale", "ladder", "plan", *argv]),
    )
    if arguments.json:
        cells = [
            {"run": cell.name, "flops": ladder.flops(cell), "seconds": ladder.seconds(cell)} for cell in ladder.cells
        ]
        print(json.dumps({"dir": str(folder), "seconds": ladder.wall_seconds(), "cells": cells}))
        return 0
    print_table(PLANNED, planned(ladder))
    print("\n" + "\n".join(plan_remarks(ladder)))
    print(f"Go on with: narrador scale ladder run {folder}")
    return 0


def _check(arguments: Plan) -> None:
    for option in ("budgets", "budget", "minutes", "seeds", "workers"):
        value = getattr(arguments, option)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{option} {value} must be a positive number.")
    for tokens in arguments.tokens:
        if not 0 < tokens < float("inf"):
            raise UserError(f"--tokens {tokens} must be a positive number.")


def _workers() -> int:
    """One for each core; on an accelerator one, which would only be shared."""
    from experiments.workers import usable_cores

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory is the children's
    import jax

    return len(usable_cores()) if jax.default_backend() == "cpu" else 1


def _run(ladder: Any, arguments: Run) -> int:
    from experiments.ladder_run import run_ladder, states

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} must be at least 1.")
    start = time.perf_counter()
    try:
        ended = run_ladder(ladder, arguments.folder, arguments.workers or ladder.workers)
    except KeyboardInterrupt:
        print(f"stopped; go on with: narrador scale ladder run {arguments.folder}")
        return 130
    done = sum(state == "done" for _, state, _, _ in states(ladder, arguments.folder))
    failed = [child for child in ended if child.code]
    told = {"runs": len(ladder.cells), "done": done, "seconds": round(time.perf_counter() - start, 1)}
    if arguments.json:
        print(json.dumps({"dir": str(arguments.folder), **told}))
    else:
        print(f"{done} of {len(ladder.cells)} runs are done; {told['seconds']:.0f} seconds.")
        print(f"Go on with: narrador scale ladder {'run' if done < len(ladder.cells) else 'report'} {arguments.folder}")
    return 1 if failed else 0


def _status(ladder: Any, arguments: Status) -> int:
    from experiments.ladder_report import STATUS, status
    from experiments.ladder_run import seconds_left, states

    if arguments.json:
        found = [
            {"run": cell.name, "state": state, "step": step, "steps": cell.steps, "loss": loss}
            for cell, state, step, loss in states(ladder, arguments.folder)
        ]
        print(json.dumps({"runs": found, "seconds_left": seconds_left(ladder, arguments.folder)}))
        return 0
    rows, line = status(ladder, arguments.folder)
    print_table(STATUS, rows)
    print("\n" + line)
    return 0


def _fit(ladder: Any, arguments: Fit, report: bool) -> int:
    from experiments.ladder_fit import COUNTS, findings
    from experiments.ladder_report import conclusions, write_report
    from experiments.law_report import HEADINGS, cells
    from train.progress import bar

    if arguments.bootstrap < 2:
        raise UserError(f"--bootstrap {arguments.bootstrap} must be at least 2.")
    check_seed(arguments.seed)
    with bar("bootstrap", (len(COUNTS) + 1) * arguments.bootstrap) as advance:
        found = findings(ladder, arguments.folder, arguments.bootstrap, arguments.seed, advance)
    path = write_report(ladder, arguments.folder, found) if report else None
    if arguments.json:
        print(json.dumps(found))
        return 0
    for count, told in found["laws"].items():
        print(f"N as {COUNTS[count]}:")
        print_table(HEADINGS, cells(told))
        print()
    print("\n".join(conclusions(found)))
    for warning in found["warnings"]:
        print(f"Warning: {warning}")
    if path:
        print(f"Report: {path}")
    return 0


def _child(verb: str, folder: str, size: str, seed: str = "0") -> int:
    """One worker's part: the runs of a chain, or the measurement of a size."""
    from experiments.ladder import load
    from experiments.machine import prepare_jax

    ladder, path = load(Path(folder)), Path(folder)
    prepare_jax(ladder.experiment.train.cpu_devices)
    if verb == "measure":
        from experiments.ladder_plan import measure

        measure(ladder, path, ladder.size(size), STARTED)
        return 0
    from experiments.ladder_run import work_on_chain
    from train.loop import Interrupted

    try:
        work_on_chain(ladder, path, ladder.chain(size, int(seed)))
    except Interrupted:
        return 130
    return 0
