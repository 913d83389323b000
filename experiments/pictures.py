"""Pictures for reports, drawn without a screen. Each function writes one PNG."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREY = "#2f6db3", "#d9782d", "#8a8a8a"
FEW = 20  # points that a curve marks one by one
SPREAD = 4  # times the least value: where the largest is above it, an axis is logarithmic
Rows = Sequence[Mapping[str, Any]]


def loss_curve(rows: Rows, target: Path, floor: float | None = None, floored: str | None = None) -> None:
    """Training loss by step, the held-out loss where it was measured, and the least possible where it is known.

    Args:
        floored: the source that `floor` is of; where it is one of several, its own held-out loss is drawn too.
    """
    figure, axes = _axes("step", "loss (nats per token)")
    training = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    held_out, own = (
        [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        for name in ("validation_loss", f"validation_loss {floored}")
    )
    if training:
        axes.plot(*zip(*training, strict=True), color=BLUE, linewidth=1, alpha=0.8, label="training batches")
    axes.plot(*zip(*held_out, strict=True), color=ORANGE, marker="o", markersize=4, label="held-out text")
    for step, loss in held_out[-1:]:
        axes.annotate(f"{loss:.3f}", (step, loss), textcoords="offset points", xytext=(-4, 8), ha="right", color=ORANGE)
    if own:
        axes.plot(*zip(*own, strict=True), color=GREY, marker="o", markersize=4, label=f"held-out {floored}")
    if floor is not None:
        axes.axhline(floor, color=GREY, linestyle="--", linewidth=1, label=f"floor: the truth itself, {floor:.3f}")
        axes.set_yscale("log")  # or the last steps, where it comes near, could not be told apart
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)
    _save(figure, target)


def distance_to_truth(distances: Sequence[float], target: Path) -> None:
    """KL(truth || model) by position in the document."""
    figure, axes = _axes("token of the document", "KL(truth ‖ model), nats")
    axes.plot(range(1, len(distances) + 1), distances, color=BLUE, linewidth=1)
    axes.set_ylim(bottom=0)
    _save(figure, target)


def throughput(rows: Rows, target: Path) -> None:
    """Tokens a second by step."""
    figure, axes = _axes("step", "tokens per second")
    axes.plot([row["step"] for row in rows], [row["tokens_per_second"] for row in rows], color=BLUE, linewidth=1)
    axes.set_ylim(bottom=0)
    _save(figure, target)


def rewards(rows: Rows, target: Path) -> None:
    """The reward model's score less penalties by iteration, the gold reward where known, and the KL from the start."""
    figure, axes = _axes("iteration", "reward")
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["reward"] for row in rows], color=BLUE, linewidth=1, label="score less penalties")
    if "gold_reward" in rows[0]:
        axes.plot(steps, [row["gold_reward"] for row in rows], color=ORANGE, linewidth=1, label="gold")
    axes.legend(frameon=False, loc="upper left")
    right = axes.twinx()
    right.plot(steps, [row["kl"] for row in rows], color=GREY, linewidth=1, linestyle=":")
    right.set_ylabel("KL, nats an answer (dotted)")
    right.spines[["top"]].set_visible(False)
    _save(figure, target)


def curves_of_two(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], label: str, target: Path) -> None:
    """What two runs logged by step, in the same axes.

    Args:
        curves: of each run its name, and points (step, value); none where it logged nothing.
        label: what the values are.
    """
    figure, axes = _axes("step", label)
    for (name, points), color, width in zip(curves, (BLUE, ORANGE), (2.4, 1), strict=True):  # seen where both are one
        if points:
            x, y = zip(*points, strict=True)
            marker = "o" if len(points) < FEW else None
            axes.plot(x, y, color=color, linewidth=width, alpha=0.8, marker=marker, markersize=4, label=_literal(name))
    values = [value for _, points in curves for _, value in points]
    if 0 < SPREAD * min(values) < max(values):
        axes.set_yscale("log")  # or the last steps could not be told apart
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)
    _save(figure, target)


def device_scaling(found: Mapping[str, Any], target: Path) -> None:
    """Bytes that a device sends in a step, compiled and at least, by devices; its speed too where time means anything.

    Args:
        found: as `experiments.device_scaling.findings` tells it.
    """
    panels = ["bytes"] if found["simulated"] else ["bytes", "efficiency"]
    figure, all_axes = plt.subplots(1, len(panels), figsize=(3.5 + 3.5 * len(panels), 3.6), layout="constrained")
    for panel, axes in zip(panels, all_axes if len(panels) > 1 else [all_axes], strict=True):
        _tidy(axes, "devices", "MB that a device sends in a step" if panel == "bytes" else "efficiency")
        for mode, color in (("strong", BLUE), ("weak", ORANGE)):
            rows = [row for row in found["rows"] if row["mode"] == mode]
            devices = [row["devices"] for row in rows]
            if panel == "bytes":
                sent, least = (
                    [sum(row[key].values()) / 1e6 for row in rows] for key in ("collective_bytes", "least_bytes")
                )
                axes.plot(devices, sent, color=color, marker="o", markersize=4, label=mode)
                axes.plot(devices, least, color=color, linewidth=1, linestyle=":", label=f"{mode}, at least")
            else:
                axes.plot(
                    devices, [row["efficiency"] for row in rows], color=color, marker="o", markersize=4, label=mode
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(devices, map(str, devices))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    _save(figure, target)


def expectation_bars(table: Mapping[str, Any], target: Path) -> None:
    """The likeliest next tokens as horizontal bars, likeliest on top; the truth, where known, as a mark on each."""
    figure, axes = _axes("probability", "")
    tokens = list(reversed(table["tokens"]))
    labels = [_literal(repr(row["text"])) for row in tokens]
    places = range(len(tokens))
    bars = axes.barh(places, [100 * row["probability"] for row in tokens], color=BLUE)
    axes.set_yticks(places, labels, family="monospace")
    axes.bar_label(bars, fmt="%.1f%%", padding=3, color=GREY)
    if "true_probability" in tokens[0]:
        truth = [100 * row["true_probability"] for row in tokens]
        axes.scatter(truth, places, color=ORANGE, marker="|", s=160, zorder=3, label="truth")
        axes.legend(frameon=False, loc="lower right")
    axes.xaxis.set_major_formatter("{x:g}%")
    axes.margins(x=0.12)
    _save(figure, target)


def _literal(text: str) -> str:
    """Text as it is: a dollar sign would start mathematics."""
    return text.replace("$", r"\$")


def _axes(x: str, y: str) -> Any:
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    _tidy(axes, x, y)
    return figure, axes


def _tidy(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _save(figure: Any, target: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character that no font here has is drawn as a box
        figure.savefig(target, dpi=110)
    plt.close(figure)
