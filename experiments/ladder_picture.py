"""The pictures of a ladder's report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.law_report import law_of
from experiments.scaling_law import EPOCH, HOFFMANN

ORANGE, GREY = "#d9782d", "#8a8a8a"
OTHERS = {"Hoffmann et al. 2022": (HOFFMANN, "--"), "Besiroglu et al. 2024": (EPOCH, ":")}


def losses(found: Mapping[str, Any], target: Path) -> None:
    """Every size's losses over compute with the law's frontier; beside it, sizes at the same compute."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    told = found["laws"]["flops"]
    sizes = list(dict.fromkeys(row["size"] for row in found["runs"]))
    colors = dict(zip(sizes, colormaps["viridis"](np.linspace(0, 0.85, len(sizes))), strict=True))
    chains = dict.fromkeys((row["size"], row["seed"]) for row in found["runs"])
    for size, seed in chains:
        mine = [row for row in found["runs"] if (row["size"], row["seed"]) == (size, seed)]
        rows = sorted(mine, key=lambda row: row["flops"])
        left.plot(
            [row["flops"] for row in rows],
            [row["loss"] for row in rows],
            color=colors[size],
            marker="o",
            markersize=4,
            linewidth=1,
            label=size if seed == next(of for name, of in chains if name == size) else None,
        )
    C = [row["C"] for row in told["frontier"]]
    value, low, high = zip(*(row["loss"] for row in told["frontier"]), strict=True)
    left.plot(C, value, color=ORANGE, label="the law's best for a budget")
    left.fill_between(C, low, high, color=ORANGE, alpha=0.2, linewidth=0)
    if (held := found["held_out"]) is not None:
        left.scatter(held["flops"], held["predicted"], marker="x", color="black", zorder=3, label="foretold, held out")
    if found["floor"] is not None:
        left.axhline(found["floor"], color=GREY, linestyle="--", linewidth=1, label="the truth itself")
    left.set_xlabel("training FLOPs")
    left.set_ylabel("held-out loss, nats per token")
    for number, one in enumerate(found["isoflop"]):
        shade = colormaps["plasma"](0.85 * number / max(1, len(found["isoflop"]) - 1))
        right.plot(one["N"], one["loss"], color=shade, marker="o", markersize=4, linewidth=1, label=f"{one['C']:.1e}")
        right.scatter(one["law_N"], law_of(told).frontier(one["C"]), color=shade, marker="*", s=90, zorder=3)
    right.set_xlabel("N: training FLOPs per token / 6 (stars: the law's best)")
    right.set_ylabel("loss at the same FLOPs")
    for axes in (left, right):
        _tidy(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def best_use(found: Mapping[str, Any], target: Path) -> None:
    """The best N and D over compute with intervals, and the slopes that the published laws have."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    told = found["laws"]["flops"]
    C = np.array([row["C"] for row in told["frontier"]])
    middle = len(C) // 2
    for axes, letter, what in zip(figure.subplots(1, 2), "ND", ("parameters, FLOPs / 6", "tokens"), strict=True):
        value, low, high = np.array([row[letter] for row in told["frontier"]]).T
        axes.plot(C, value, color=ORANGE, label="this ladder")
        axes.fill_between(C, low, high, color=ORANGE, alpha=0.2, linewidth=0)
        for name, (law, dashes) in OTHERS.items():
            exponent = law.exponent if letter == "N" else 1 - law.exponent
            line = value[middle] * (C / C[middle]) ** exponent
            axes.plot(C, line, color=GREY, linestyle=dashes, label=f"slope of {name}: {exponent:.2f}")
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel(f"best {letter}: {what}")
        axes.set_yscale("log")
        _tidy(axes)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def _tidy(axes: Any) -> None:
    axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
