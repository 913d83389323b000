"""The picture of a study of over-optimisation: proxy and gold reward over the root of the KL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.proxies import LEAST
from experiments.scaling_forms import BEST_OF_N, FORMS, PPO

TITLES = {BEST_OF_N.name: "best of n", PPO.name: "PPO"}
TICKS = [-20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50]
MEAN_COLOR, LEAST_COLOR = "#d9782d", "#3a8f5c"


def proxy_and_gold(found: Mapping[str, Any], target: Path) -> None:
    """One panel for best-of-n and one for PPO; a color for each reward model.

    Args:
        found: as `experiments.proxy_curves.findings` tells it.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(TITLES))
    colors = _colors(found["curves"])
    for axes, (method, title) in zip(panels, TITLES.items(), strict=True):
        for curve in found["curves"]:
            if curve["method"] == method:
                _draw(axes, curve, colors[curve["name"]])
        axes.set_title(title)
        # PPO goes ten times as far as best-of-n, and where gold falls it falls far.
        axes.set_xscale("asinh", linear_width=2)
        axes.set_yscale("asinh", linear_width=1)
        axes.set_xlim(left=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(TICKS))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        axes.set_xlabel("d: root of the KL from the fine-tuned model, in nats")
        axes.axhline(0, color="#8a8a8a", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("gain in gold reward (solid, forms dotted)\nand in the proxy, on gold's scale (dashed)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(target, dpi=110)


def _draw(axes: Any, curve: Mapping[str, Any], color: Any) -> None:
    points = sorted(curve["points"], key=lambda point: point["d"]["value"])
    d = np.array([point["d"]["value"] for point in points])
    proxy, gold = ([point[name]["value"] for point in points] for name in ("proxy", "gold"))
    low, high = ([point["gold"][end] for point in points] for end in ("low", "high"))
    axes.plot(d, gold, color=color, linewidth=1.8, marker="o", markersize=3, label=curve["name"])
    axes.fill_between(d, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(d, proxy, color=color, linewidth=1, linestyle="--")
    whole = np.linspace(0, d.max(), 200)
    coefficients = [curve["fit"][name]["value"] for name in ("alpha", "beta")]
    axes.plot(whole, FORMS[curve["method"]].basis(whole) @ coefficients, color=color, linewidth=0.9, linestyle=":")


def _colors(curves: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The more choices, the darker; the ensemble's two rules stand out."""
    sizes = sorted({curve["choices"] for curve in curves if curve["heads"] == 1})
    shades = dict(zip(sizes, colormaps["Blues"](np.linspace(0.45, 0.95, len(sizes))), strict=True))
    return {
        curve["name"]: shades[curve["choices"]]
        if curve["heads"] == 1
        else (LEAST_COLOR if curve["rule"] == LEAST else MEAN_COLOR)
        for curve in curves
    }
