"""Pictures of what a parametrization does when a model grows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.resized import TITLES

COLORS = colormaps["viridis"]


def coordinate_check(found: Mapping[str, Any], target: Path) -> None:
    """Root-mean-square change of each activation over size: a panel for each check, the seeds as dots.

    Args:
        found: as `experiments.coordinate_check.findings` tells it.
    """
    checks = found["checks"]
    rows = len(checks) // len(TITLES)
    figure = Figure(figsize=(10.5, 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, len(TITLES), sharey="row", squeeze=False)
    for check, axes in zip(checks, grid.flat, strict=True):
        activations, sizes = check["activations"], check["sizes"]
        for place, (name, fitted) in enumerate(activations.items()):
            rms = np.array(fitted["rms"])
            color = "black" if name == "logits" else COLORS(0.95 * place / len(activations))
            axes.plot(sizes, np.exp(np.log(rms).mean(0)), color=color, label=f"{name}, {fitted['slope']:+.2f}")
            axes.plot(sizes, rms.T, color=color, linestyle="", marker=".", markersize=3, alpha=0.6)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, map(str, sizes))
        axes.set_xlabel(check["along"])
        axes.legend(
            frameon=False, fontsize=7, title="slope of", title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
        )
        _tidy(axes, check["parametrization"])
    for axes in grid[:, 0]:
        axes.set_ylabel("change, root mean square")
    figure.savefig(target, dpi=110)


def learning_rates(found: Mapping[str, Any], target: Path) -> None:
    """Held-out loss over learning rate, a curve for each width with its least one marked, by parametrization.

    Args:
        found: as `experiments.rate_transfer.findings` tells it.
    """
    told = found["parametrizations"]
    figure = Figure(figsize=(1 + 4.5 * len(told), 3.8), layout="constrained")
    grid = figure.subplots(1, len(told), sharey=True, squeeze=False)
    for (parametrization, curves), axes in zip(told.items(), grid.flat, strict=True):
        for place, curve in enumerate(curves["curves"]):
            points = [(row["learning_rate"], row["loss"]) for row in curve["points"] if row["loss"] is not None]
            color = COLORS(0.85 * place / len(curves["curves"]))
            axes.plot(*zip(*points, strict=True), color=color, marker=".", label=f"width {curve['width']}")
            least = min(points, key=lambda point: point[1])
            axes.plot(*least, color=color, marker="*", markersize=13, linestyle="")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        if found["floor_loss"] is not None:
            axes.axhline(found["floor_loss"], color="#8a8a8a", linestyle="--", linewidth=1, label="the truth itself")
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes, parametrization)
    grid[0, 0].set_ylabel("held-out loss, nats per token")
    figure.savefig(target, dpi=110)


def _tidy(axes: Any, parametrization: str) -> None:
    axes.set_title(TITLES[parametrization], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
