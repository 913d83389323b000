"""Pictures of a law of the loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.law_report import law_of
from experiments.scaling_law import FLOPS_PER_WEIGHT, Points

ORANGE = "#d9782d"


def loss_over_compute(points: Points, told: Mapping[str, Any], target: Path) -> None:
    """Runs over their FLOPs with the law's frontier and its interval; beside it, how far each is from the law."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    budgets = FLOPS_PER_WEIGHT * points.N * points.D
    colors = {"c": points.N, "norm": LogNorm(points.N.min(), points.N.max()), "cmap": colormaps["viridis"]}
    dots = left.scatter(budgets, points.loss, s=14, **colors)
    figure.colorbar(dots, ax=left, label="parameters")
    C = [row["C"] for row in told["frontier"]]
    value, low, high = zip(*(row["loss"] for row in told["frontier"]), strict=True)
    left.plot(C, value, color=ORANGE, label="the law's best for a budget")
    left.fill_between(C, low, high, color=ORANGE, alpha=0.2, linewidth=0)
    left.set_xscale("log")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.set_xlabel("training FLOPs, 6 N D")
    left.set_ylabel("loss, nats per token")
    left.legend(frameon=False)
    gap = 100 * (points.loss / law_of(told).loss(points.N, points.D) - 1)
    right.scatter(points.D, gap, s=14, **colors)
    right.axhline(0, color=ORANGE, linewidth=1)
    right.set_xscale("log")
    right.set_ylim(*(np.array([-1.1, 1.1]) * max(np.quantile(np.abs(gap), 0.99), 1e-3)))
    right.set_xlabel("tokens")
    right.set_ylabel("loss over the law's, %")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(target, dpi=110)
