"""The same sweep three ways: many trials in one program, in parallel processes, and one after the other.

Each way is what `narrador sweep` does, from the start of its processes to the last trial's result. The text is
prepared and the programs are compiled before, in sweeps of one step; each process traces its own, and loads them.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.config import Experiment
from experiments.sweep import Sweep
from experiments.workers import usable_cores
from model.errors import UserError
from train.progress import say
from train.run_directory import RunDirectory

DECAYS = (0.0, 0.03, 0.1, 0.3)
Way = Literal["sequential", "processes", "vectorised"]
WAYS: tuple[Way, ...] = get_args(Way)


def bench_sweep(experiment: Experiment, trials: int, together: int | None, folder: Path) -> dict[str, Any]:
    """Seconds of a learning-rate × weight-decay grid each way, and how far their losses are from one another.

    Args:
        together: trials in one program. None: as many as memory allows, 16 a device at most.
        folder: an empty one, for the runs.

    Returns:
        `ratio` is sequential over the way that `narrador sweep` takes on this machine's devices.
        `loss_difference_*` is the largest of a trial's held-out loss from the same trial's alone, relative.
    """
    rate, rates = experiment.train.learning_rate, max(2, -(-trials // len(DECAYS)))
    grid = (
        f"train.learning_rate=log:{rate / 8}:{rate}:{rates}",
        f"train.weight_decay=choice:{','.join(map(str, DECAYS))}",
    )
    sweep = Sweep(experiment, grid, trials, "grid", workers=together).checked()
    backend = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    once = replace(sweep, experiment=replace(experiment, train=replace(experiment.train, steps=1)))
    warm = {
        "sequential": _seconds(replace(once, trials=1), "sequential", folder / "warm-sequential"),
        "vectorised": _seconds(once, "vectorised", folder / "warm-vectorised"),
    }
    seconds = {way: _seconds(sweep, way, folder / way) for way in WAYS}
    losses = {way: _losses(folder / way) for way in WAYS}
    used: Way = "processes" if backend == "cpu" else "vectorised"
    return {
        "trials": trials,
        "steps": experiment.train.steps,
        "backend": backend,
        "together": _together(folder / "vectorised"),
        "processes": min(len(usable_cores()), trials),
        "prepare_seconds": sum(warm.values()),
        **{f"{way}_seconds": seconds[way] for way in WAYS},
        "way": used,
        "ratio": seconds["sequential"] / seconds[used],
        "vectorised_ratio": seconds["sequential"] / seconds["vectorised"],
        "processes_ratio": seconds["sequential"] / seconds["processes"],
        **{f"loss_difference_{way}": _furthest(losses["sequential"], losses[way]) for way in WAYS[1:]},
    }


def _seconds(sweep: Sweep, way: Way, directory: Path) -> float:
    """Wall time of the sweep's workers."""
    from experiments.study import Study
    from experiments.trials import work_in_processes

    directory.mkdir(parents=True)
    sweep = replace(sweep, execution=way)
    study = Study(sweep, directory)
    sweep.save(directory)
    workers = min(len(usable_cores()), study.count) if way == "processes" else 1
    start = time.perf_counter()
    done = work_in_processes(study, workers, f"{sweep.experiment.train.steps} steps, {way}")
    seconds = time.perf_counter() - start
    if any(child.code for child in done) or study.left():
        raise UserError(f"the sweep did not come to its end {way}: {study.left()} trials are left.")
    say(f"{study.count} trials {way}: {seconds:.1f} s")
    return seconds


def _losses(directory: Path) -> dict[tuple[float, float], float]:
    """The held-out loss of each cell that did not diverge."""
    found = {}
    for path in sorted((directory / "trials").iterdir()):
        run = RunDirectory(path)
        train, result = run.config()["train"], run.stage("pretrain").result
        if result is not None:
            found[train["learning_rate"], train["weight_decay"]] = result["validation_loss"]
    return found


def _furthest(alone: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """The largest relative difference of two sets of losses.

    Raises:
        UserError: they are of different trials.
    """
    if alone.keys() != other.keys():
        raise UserError(f"trials that came to their end differ: {json.dumps(sorted(alone.keys() ^ other.keys()))}.")
    return max(abs(other[cell] - loss) / loss for cell, loss in alone.items())


def _together(directory: Path) -> int:
    """The most trials that one program had."""
    sessions = [session for path in (directory / "trials").iterdir() for session in RunDirectory(path).sessions()]
    return max(session.get("together", 1) for session in sessions)
