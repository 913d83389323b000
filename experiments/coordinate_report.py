"""What a coordinate check found, for people: table, remarks, picture and page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import parametrization_pictures
from experiments.pages import code, table, write_page
from experiments.resized import TITLES
from train.run_directory import write_atomically


def headings(found: Mapping[str, Any]) -> list[str]:
    """The table's columns after the activation's name."""
    return [f"{check['along']}, {TITLES[check['parametrization']]}" for check in found["checks"]]


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Of each activation its slopes with their intervals; those that are not flat with an exclamation mark."""
    names = list(dict.fromkeys(name for check in found["checks"] for name in check["activations"]))
    return [
        [name, *(_cell(check["activations"].get(name), found["flat_within"]) for check in found["checks"])]
        for name in names
    ]


def _cell(fitted: Mapping[str, Any] | None, flat: float) -> str:
    if fitted is None:
        return ""
    low, high = fitted["slope_interval"]
    return f"{fitted['slope']:+.3f} [{low:+.3f}, {high:+.3f}]" + ("" if abs(fitted["slope"]) <= flat else " !")


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know, and what came out."""
    lines = [
        f"{found['name']} with a head of its own, {found['steps']} steps of AdamW at a learning rate of "
        f"{found['learning_rate']:g}, {found['seeds']} seeds; heads keep their dimensions.",
        "Slope of log root-mean-square change over log size: the mean over seeds, with its 95% interval "
        f"(Student's t). Flat, as a parametrization that transfers has it: within {found['flat_within']:g} of zero.",
    ]
    if any(check["along"] == "depth" for check in found["checks"]):
        lines.append("Over depth, attention, mlp and residual are those of the last block.")
    for check in found["checks"]:
        slopes = {name: fitted["slope"] for name, fitted in check["activations"].items()}
        steepest = max(slopes, key=lambda name: abs(slopes[name]))
        steep = [name for name, slope in slopes.items() if abs(slope) > found["flat_within"]]
        sizes = " ".join(map(str, check["sizes"]))
        verdict = f"not flat: {', '.join(steep)}" if steep else "every activation is flat"
        lines.append(
            f"{TITLES[check['parametrization']]} over {check['along']} {sizes}: {verdict}; "
            f"steepest is {steepest} with {slopes[steepest]:+.3f}."
        )
    return lines


def write_report(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write coordcheck.json, report.md, report.html and their picture; returns the Markdown's path."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    parametrization_pictures.coordinate_check(found, folder / "pictures" / "coordcheck.png")
    title = f"Coordinate check of {found['name']}"
    text = "\n\n".join(
        [
            f"# {title}",
            "\n".join(f"- {line}" for line in remarks(found)),
            "![root-mean-square change of each activation over size](pictures/coordcheck.png)",
            table(["", *headings(found)], rows(found)),
            "## How it was made\n\n" + code(" ".join(found["session"]["command"])),
        ]
    )
    write_atomically(folder / "coordcheck.json", json.dumps(found, indent=1) + "\n")
    return write_page(folder, title, text)
