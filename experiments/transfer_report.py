"""What a study of learning-rate transfer found, for people: table, remarks, picture and page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import parametrization_pictures
from experiments.pages import code, table, write_page
from experiments.resized import TITLES
from train.run_directory import write_atomically


def headings(found: Mapping[str, Any]) -> list[str]:
    """The table's columns: one for each width under each parametrization."""
    pairs = [(name, curve) for name, told in found["parametrizations"].items() for curve in told["curves"]]
    return ["learning rate", *(f"{TITLES[name]}, width {curve['width']}" for name, curve in pairs)]


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Held-out losses by learning rate; the least of each column with a star."""
    curves = [curve for told in found["parametrizations"].values() for curve in told["curves"]]
    rates = sorted({point["learning_rate"] for curve in curves for point in curve["points"]})
    return [[f"{rate:g}", *(_cell(curve, rate) for curve in curves)] for rate in rates]


def _cell(curve: Mapping[str, Any], rate: float) -> str:
    point = next((point for point in curve["points"] if point["learning_rate"] == rate), None)
    if point is None:
        return ""
    loss = "diverged" if point["loss"] is None else f"{point['loss']:.4f}"
    return f"{loss} ★" if point == curve["best"] else loss


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know, and what came out."""
    widths = " ".join(map(str, found["widths"]))
    lines = [
        f"{found['name']} at widths {widths}, {found['steps']} steps of AdamW, {found['seeds']} seed(s): held-out loss "
        f"in nats per token; {found['runs']} runs, {found['run_seconds']:,.0f} s of training in all.",
    ]
    for name, told in found["parametrizations"].items():
        best = ", ".join(f"{curve['best']['learning_rate']:g} at {curve['width']}" for curve in told["curves"])
        lines.append(
            f"{TITLES[name]}: the best learning rate is {best}; from the narrowest to the widest it moves by "
            f"{told['moved']:+.0f} step(s) of a factor of {found['factor']:g}."
        )
        lines += [f"{TITLES[name]}, {warning}" for warning in told["warnings"]]
    if found["diverged"]:
        lines.append(f"Diverged: {', '.join(found['diverged'])}.")
    return lines


def write_report(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write transfer.json, report.md, report.html and their picture; returns the Markdown's path."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    parametrization_pictures.learning_rates(found, folder / "pictures" / "transfer.png")
    title = f"Learning-rate transfer of {found['name']}"
    text = "\n\n".join(
        [
            f"# {title}",
            "\n".join(f"- {line}" for line in remarks(found)),
            "![held-out loss over learning rate, by width](pictures/transfer.png)",
            table(headings(found), rows(found)),
            "## How it was made\n\n" + code(" ".join(found["command"])),
        ]
    )
    write_atomically(folder / "transfer.json", json.dumps(found, indent=1) + "\n")
    return write_page(folder, title, text)
