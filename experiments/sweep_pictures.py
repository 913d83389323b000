"""Pictures of a sweep. Rows are those of `experiments.sweep_report.findings`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import colormaps

from experiments.pictures import BLUE, GREY, ORANGE, Rows, _save, _tidy

COLUMNS = 3  # panels in a line
APART = 0.05  # of an axis's length: labels that stand closer would touch


def sensitivity(rows: Rows, log: Mapping[str, bool], best: int, target: Path, floor: float | None = None) -> None:
    """The held-out loss over each parameter; pruned trials hollow, and those without a loss as crosses on top.

    Args:
        log: of each parameter, whether its axis is logarithmic.
        best: the number of the best trial.
        floor: the least possible loss, where it is known.
    """
    columns = min(COLUMNS, len(log))
    lines = -(-len(log) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.7 * columns, 3.3 * lines), layout="constrained", squeeze=False
    )
    complete = [row for row in rows if row["outcome"] == "complete"]
    top = max(row["value"] for row in rows if row["value"] is not None)
    for axes in grid.flat[len(log) :]:
        axes.set_visible(False)
    for axes, path in zip(grid.flat, log, strict=False):
        _tidy(axes, path, "held-out loss" if axes is grid.flat[0] else "")
        place = _places(rows, path)
        kinds: tuple[tuple[str, Any, dict[str, Any]], ...] = (
            ("complete", complete, {"color": BLUE}),
            ("pruned", [row for row in rows if row["outcome"] == "pruned"], {"facecolors": "none", "edgecolors": BLUE}),
            (
                "no loss",
                [row for row in rows if row["outcome"] in ("diverged", "refused")],
                {"color": GREY, "marker": "x"},
            ),
            ("best", [row for row in complete if row["number"] == best], {"color": ORANGE, "zorder": 3}),
        )
        for label, shown, style in kinds:
            points = [(place(row), top if row["value"] is None else row["value"]) for row in shown]
            if points:
                axes.scatter(*zip(*points, strict=True), s=22, label=label, **style)
        _scale(axes.xaxis, axes.set_xscale, rows, path, log[path])
        if floor is not None:
            axes.axhline(floor, color=GREY, linestyle="--", linewidth=1, label="floor")
    grid.flat[0].legend(frameon=False, fontsize="small")
    _save(figure, target)


def parallel(rows: Rows, log: Mapping[str, bool], target: Path) -> None:
    """Parallel coordinates: an axis for each parameter and one for the loss, a line for each complete trial."""
    complete = sorted((row for row in rows if row["outcome"] == "complete"), key=lambda row: -row["value"])
    axes_of = [*log, "held-out loss"]
    figure, axes = plt.subplots(figsize=(2.4 * len(axes_of) + 1, 4), layout="constrained")
    ranges = {}
    for path in log:
        place = _places(rows, path)
        values = [math.log(place(row)) if log[path] else place(row) for row in complete]
        ranges[path] = dict(zip([row["number"] for row in complete], values, strict=True))
    ranges["held-out loss"] = {row["number"]: row["value"] for row in complete}
    for rank, row in enumerate(complete):
        heights = [_share(ranges[name], row["number"]) for name in axes_of]
        color = colormaps["viridis"](rank / max(len(complete) - 1, 1) * 0.95)
        last = rank == len(complete) - 1
        axes.plot(heights, color=ORANGE if last else color, linewidth=2.4 if last else 1, alpha=1 if last else 0.7)
    for index, name in enumerate(axes_of):
        axes.axvline(index, color=GREY, linewidth=1)
        for height, row in _marks(complete, ranges[name]):
            value = row["value"] if name == "held-out loss" else row["params"][name]
            axes.text(index + 0.03, height, f"{value:.4g}" if isinstance(value, float) else str(value), fontsize=8)
    axes.set_xticks(range(len(axes_of)), axes_of)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(axes_of) - 0.6)
    axes.spines[:].set_visible(False)
    _save(figure, target)


def _marks(rows: Rows, values: Mapping[int, float]) -> list[tuple[float, Any]]:
    """Heights to label from below, as many as do not touch, with a row that has the value."""
    kept: list[tuple[float, Any]] = []
    for height, row in sorted(((_share(values, row["number"]), row) for row in rows), key=lambda pair: pair[0]):
        if not kept or height - kept[-1][0] > APART:
            kept.append((height, row))
    return kept


def _share(values: Mapping[int, float], number: int) -> float:
    low, high = min(values.values()), max(values.values())
    return (values[number] - low) / (high - low) if high > low else 0.5


def _places(rows: Rows, path: str) -> Any:
    """Where a row's value stands on its axis: itself, or its place among the choices if it is no number."""
    values = [row["params"][path] for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return lambda row: row["params"][path]
    words = sorted({str(value) for value in values})
    return lambda row: words.index(str(row["params"][path]))


def _scale(axis: Any, set_scale: Any, rows: Rows, path: str, log: bool) -> None:
    """A logarithmic axis, or the names of choices on it."""
    if log:
        set_scale("log")
    elif any(not isinstance(row["params"][path], int | float) or isinstance(row["params"][path], bool) for row in rows):
        words = sorted({str(row["params"][path]) for row in rows})
        axis.set_ticks(range(len(words)), words)
