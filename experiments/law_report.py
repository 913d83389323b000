"""What a fitted law comes to, in numbers, lines and a report with a picture."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.intervals import Estimate, estimate
from experiments.machine import command, versions
from experiments.pages import code, table, write_page
from experiments.scaling_law import (
    FLOPS_PER_WEIGHT,
    Law,
    Points,
    fit_with_bootstrap,
    objective,
)
from train.run_directory import write_atomically

HEADINGS = ("", "value", "95% interval")
DECADE_POINTS = 8


def tell(points: Points, rounds: int, seed: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Fit a law and its intervals, and say what it holds for the budgets that the points span.

    Args:
        rounds: of the bootstrap.
        advance: called after each.

    Returns:
        E, A, B, alpha, beta and `exponent`, each with its `_interval`; points, rounds, objective; `frontier`: for
        budgets C the best N and D, their ratio and the loss, as [value, low, high].
    """
    law, drawn = fit_with_bootstrap(points, rounds, seed, advance)
    numbers = {
        name: estimate(value, samples) for (name, value), samples in zip(law._asdict().items(), drawn, strict=True)
    }
    numbers["exponent"] = estimate(law.exponent, drawn.exponent)
    flat: dict[str, Any] = {}
    for name, number in numbers.items():
        flat |= {name: number.value, f"{name}_interval": [number.low, number.high]}
    budgets = FLOPS_PER_WEIGHT * points.N * points.D
    return {
        **flat,
        "points": len(points.N),
        "rounds": rounds,
        "objective": objective(law, points),
        "frontier": [_best(law, drawn, C) for C in _spread(budgets.min(), budgets.max())],
    }


def _spread(low: float, high: float) -> Sequence[float]:
    return np.geomspace(low, high, 2 + round(DECADE_POINTS * np.log10(high / low))).tolist()


def _best(law: Law, drawn: Law, C: float) -> dict[str, Any]:
    """The best that a budget of C FLOPs can do, as the law has it."""
    (N, D), (Ns, Ds) = law.optimum(C), drawn.optimum(C)
    found = {
        "N": estimate(N, Ns),
        "D": estimate(D, Ds),
        "tokens_per_parameter": estimate(D / N, Ds / Ns),
        "loss": estimate(law.frontier(C), drawn.frontier(C)),
    }
    return {"C": C, **{name: list(number) for name, number in found.items()}}


def law_of(told: Mapping[str, Any]) -> Law:
    """The law that `tell` has found."""
    return Law(*(told[name] for name in Law._fields))


def cells(told: Mapping[str, Any]) -> list[list[str]]:
    """The parameters as lines of a table."""
    rows = [(name, Estimate(told[name], *told[f"{name}_interval"])) for name in (*Law._fields, "exponent")]
    return [[name, f"{number.value:.4g}", f"{number.low:.4g} to {number.high:.4g}"] for name, number in rows]


def remarks(told: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know."""
    dropped = f", the {told['dropped']} highest losses left out" if told.get("dropped") else ""
    return [
        f"L(N, D) = E + A / N^alpha + B / D^beta on {told['points']} points{dropped}: nats per token after D tokens "
        "of a model of N parameters.",
        f"The Huber loss (delta 1e-3) of log L is least, {told['objective']:.4g} in sum; intervals by bootstrap, "
        f"{told['rounds']} rounds of points drawn with replacement.",
        "exponent: the best N for a budget of C FLOPs grows as C^exponent, the best D as C^(1 - exponent).",
    ]


FRONTIER = ("FLOPs", "N", "D", "D / N", "loss", "its interval")


def frontier_cells(told: Mapping[str, Any], every: int = 1) -> list[list[str]]:
    """Budgets and the best use of each as lines of a table."""
    return [
        [
            *(f"{number:.3g}" for number in (row["C"], row["N"][0], row["D"][0], row["tokens_per_parameter"][0])),
            f"{row['loss'][0]:.4f}",
            f"{row['loss'][1]:.4f} to {row['loss'][2]:.4f}",
        ]
        for row in told["frontier"][::every]
    ]


def write_report(folder: Path, title: str, points: Points, told: Mapping[str, Any]) -> Path:
    """Write fit.json, report.md, report.html and their picture; returns the Markdown's path."""
    from experiments.law_picture import loss_over_compute

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    loss_over_compute(points, told, folder / "pictures" / "law.png")
    text = "\n\n".join(
        [
            f"# {title}",
            "\n".join(f"- {line}" for line in remarks(told)),
            table(HEADINGS, cells(told)),
            "![loss over compute](pictures/law.png)",
            "## The best use of a budget",
            table(FRONTIER, frontier_cells(told, DECADE_POINTS // 2)),
            "## How it was made\n\n" + code(" ".join(command(sys.argv[1:]))),
        ]
    )
    write_atomically(folder / "fit.json", json.dumps({**told, **versions()}, indent=1) + "\n")
    return write_page(folder, title, text)
