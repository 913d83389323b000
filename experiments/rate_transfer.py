"""Learning-rate transfer: whether the rate that is best for a narrow model is best for wide ones too.

Yang et al. 2022 (Tensor Programs V), figure 1. Each cell is an ordinary run that `narrador run` does or goes on with:

FOLDER/runs/completep-w128-lr0.006-s0/    a width, a learning rate and a seed under a parametrization
FOLDER/transfer.json, report.md, report.html, pictures/
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from experiments import config
from experiments.config import Experiment
from experiments.resized import parametrized, resized
from experiments.workers import Ended, run_commands
from model.errors import UserError
from train.run_directory import RunDirectory

FACTOR = 2.0  # between neighbouring learning rates


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    parametrization: str
    width: int
    learning_rate: float
    seed: int
    experiment: Experiment
    run: RunDirectory

    @property
    def loss(self) -> float | None:
        """Its held-out loss at the end; None while it has none."""
        result = self.run.stage("pretrain").result
        return None if result is None else result["validation_loss"]

    @property
    def command(self) -> tuple[str, ...]:
        """What does the run, or goes on with it."""
        return ("run", str(self.run.path), "--stages", "pretrain")


def rates_around(center: float, below: int, above: int) -> list[float]:
    """Learning rates a factor of two apart."""
    return [center * FACTOR**power for power in range(-below, above + 1)]


def plan(
    folder: Path,
    experiment: Experiment,
    parametrizations: Sequence[str],
    widths: Sequence[int],
    rates: Sequence[float],
    seeds: int,
) -> list[Cell]:
    """All cells of the grid, the widest first: so no worker is left alone with a long one.

    Args:
        experiment: what each trains; the smallest of the widths, at its own depth, is CompleteP's base.
        widths: from the smallest.
    """
    base = resized(experiment.model, widths[0])
    cells = []
    for width in sorted(widths, reverse=True):
        for parametrization in parametrizations:
            model = parametrized(resized(experiment.model, width), parametrization, base)
            for rate in rates:
                for seed in range(seeds):
                    train = replace(experiment.train, learning_rate=rate, seed=experiment.train.seed + seed)
                    cell = replace(experiment, model=model, train=train, stages=("pretrain",))
                    run = RunDirectory(folder / "runs" / f"{parametrization}-w{width}-lr{rate:g}-s{seed}")
                    cells.append(Cell(parametrization, width, rate, seed, cell, run))
    return cells


def claim(cells: Sequence[Cell]) -> None:
    """Take every cell's folder, before anything is trained.

    Raises:
        UserError: one holds a run of another config, as of other steps.
    """
    for cell in cells:
        with cell.run.lock():
            config.claim(cell.run, cell.experiment)


def train(cells: Sequence[Cell], workers: int | None, advance: Callable[[], None]) -> list[Ended]:
    """Do the runs that are not complete, `workers` at a time; those that diverge have no loss, and the others go on.

    Raises:
        KeyboardInterrupt: it was told to stop; what is done is kept.
        UserError: a run failed, and not because its training diverged.
    """
    waiting = [cell for cell in cells if cell.loss is None]
    done = run_commands([cell.command for cell in waiting], workers, ended=lambda child: advance())
    for child in done:
        if child.code and not any("not finite" in line for line in child.said):
            raise UserError(f"'narrador {' '.join(child.command)}' failed (code {child.code}); the others are kept.")
    lost = {cell.command for cell in waiting if cell.loss is None} - {child.command for child in done if child.code}
    if lost:  # somebody stopped it, and it alone
        raise UserError(
            f"'narrador {' '.join(min(lost))}' was stopped before its end; the same command goes on with it."
        )
    return done


def findings(name: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """The curves, and how far the best learning rate moves.

    Raises:
        UserError: no learning rate came to a loss at some width.
    """
    told: dict[str, Any] = {}
    for parametrization in dict.fromkeys(cell.parametrization for cell in cells):
        own = [cell for cell in cells if cell.parametrization == parametrization]
        curves = [_curve([cell for cell in own if cell.width == width]) for width in sorted({c.width for c in own})]
        first, last = (curve["best"]["learning_rate"] for curve in (curves[0], curves[-1]))
        moved = math.log(last / first, FACTOR)
        warnings = [
            f"width {curve['width']}: the best learning rate is the grid's {end}; it may lie beyond."
            for curve in curves
            for end, place in (("lowest", 0), ("highest", -1))
            if curve["best"]["learning_rate"] == curve["points"][place]["learning_rate"]
        ]
        told[parametrization] = {"curves": curves, "moved": moved, "warnings": warnings}
    results = [cell.run.stage("pretrain").result or {} for cell in cells]
    return {
        "name": name,
        "widths": sorted({cell.width for cell in cells}),
        "steps": cells[0].experiment.train.steps,
        "seeds": len({cell.seed for cell in cells}),
        "factor": FACTOR,
        "parametrizations": told,
        "floor_loss": next((result["floor_loss"] for result in results if "floor_loss" in result), None),
        "runs": len(cells),
        "diverged": [str(cell.run.path) for cell in cells if cell.loss is None],
        "run_seconds": sum(result.get("seconds", 0.0) for result in results),
    }


def _curve(cells: Sequence[Cell]) -> dict[str, Any]:
    """Of one width: the mean loss over seeds by learning rate, none where one diverged; and the least."""
    points: list[dict[str, Any]] = []
    for rate in sorted({cell.learning_rate for cell in cells}):
        losses = [cell.loss for cell in cells if cell.learning_rate == rate]
        known = [loss for loss in losses if loss is not None]
        points.append({"learning_rate": rate, "loss": mean(known) if len(known) == len(losses) else None})
    trained = [point for point in points if point["loss"] is not None]
    width = cells[0].width
    if not trained:
        raise UserError(f"no learning rate came to a loss at width {width}; try lower --learning-rates.")
    return {"width": width, "points": points, "best": min(trained, key=lambda point: point["loss"])}
