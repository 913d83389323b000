"""Training on more and more devices: how much faster, and what they send each other for it.

Strong scaling keeps the whole batch, weak scaling the rows of each device. Efficiency is tokens a second and device,
as a share of what the fewest devices reach.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from experiments import pictures
from experiments.benchmarks import seconds_of, training_step
from experiments.collectives import collective_bytes
from experiments.config import Experiment
from experiments.least_traffic import least_bytes
from experiments.machine import session
from experiments.pages import code, table, write_page
from model.config import MeshConfig
from model.errors import UserError
from model.sharding import make_mesh, nearest_multiples
from train.run_directory import write_atomically

MODES = ("strong", "weak")
HEADINGS = ("", "devices", "rows", "tokens/s", "efficiency", "sent, MB", "at least, MB", "times")


def powers_of_two() -> list[int]:
    """1, 2, 4, ... as far as there are devices."""
    return [1 << power for power in range(jax.device_count().bit_length())]


def check(devices: Sequence[int], rows: int) -> None:
    """Refuse counts of devices that are not there, or that do not divide the rows.

    Raises:
        UserError: names the count and what would do.
    """
    available, kind = jax.device_count(), jax.devices()[0].device_kind
    for count in devices:
        if count > available:
            raise UserError(f"--devices {count}: this machine has {available} ({kind}).")
        if rows % count:
            raise UserError(
                f"--rows {rows} cannot be shared out evenly over {count} devices; "
                f"{nearest_multiples(rows, math.lcm(*devices))} for {' '.join(map(str, devices))}."
            )


def findings(
    name: str,
    experiment: Experiment,
    axis: str,
    devices: Sequence[int],
    rows: int,
    repeats: int,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """Measure an experiment's training step, on random tokens, on each number of devices.

    Args:
        name: of the experiment.
        experiment: its vocabulary is known.
        axis: the mesh axis that all devices stand along.
        devices: how many, from the fewest.
        rows: of the whole batch in strong scaling; weak scaling has as many on the most devices.
        repeats: steps measured, after one to warm up; simulated devices take a single one.
        advance: called after each measurement; there are two for each number of devices.
    """
    simulated = jax.default_backend() == "cpu"
    found: list[dict[str, Any]] = []
    for mode in MODES:
        per_device = None
        for count in devices:
            size = rows if mode == "strong" else rows * count // max(devices)
            same = [row for row in found if (row["devices"], row["rows"]) == (count, size)]
            measured = same[0] if same else _measure(experiment, axis, count, size, repeats)
            per_device = per_device or measured["tokens_per_second"] / count
            efficiency = measured["tokens_per_second"] / count / per_device
            found.append({**measured, "mode": mode, "devices": count, "rows": size, "efficiency": efficiency})
            advance()
    length = experiment.data.sequence_length
    told = {"name": name, "axis": axis, "length": length, "accumulation": experiment.train.accumulation}
    return {**told, "simulated": simulated, "rows": found, "session": session()}


def _measure(experiment: Experiment, axis: str, count: int, rows: int, repeats: int) -> dict[str, Any]:
    mesh = make_mesh(MeshConfig(**{"data": 1, axis: count}), jax.devices()[:count])
    train, length = replace(experiment.train, batch_size=rows), experiment.data.sequence_length
    step = training_step(replace(experiment, train=train), mesh)
    simulated = jax.default_backend() == "cpu"
    seconds = median(seconds_of(step.run, *((1, 0) if simulated else (repeats, 1))))
    least = least_bytes(
        step.model.config,
        mesh.shape,
        rows,
        length,
        accumulation=train.accumulation,
        itemsize=jnp.dtype(step.model.dtype).itemsize,
        rules=experiment.sharding,
        scatters=not simulated,
    )
    return {
        "tokens_per_second": rows * length / seconds,
        "seconds_per_step": seconds,
        "compile_seconds": step.compile_seconds,
        "collective_bytes": collective_bytes(step.compiled.as_text(), mesh.shape),
        "least_bytes": least,
    }


def cells(row: Mapping[str, Any], simulated: bool) -> list[str]:
    """A measurement as a line of the table; times that mean nothing in brackets."""
    times = [f"{row['tokens_per_second']:,.0f}", f"{row['efficiency']:.0%}"]
    sent, least = (sum(row[key].values()) for key in ("collective_bytes", "least_bytes"))
    return [
        row["mode"],
        f"{row['devices']}",
        f"{row['rows']}",
        *(f"({time})" if simulated else time for time in times),
        f"{sent / 1e6:,.3f}",
        f"{least / 1e6:,.3f}",
        f"{sent / least:.2f}" if least else "–",
    ]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know."""
    lines = [
        f"{found['name']}, rows of {found['length']} tokens, devices along the mesh axis {found['axis']}.",
        "Sent: bytes that each device sends in one step, from the compiled program, by rings. At least: by formula, "
        "for forward and backward; an optimizer that moves more than numbers of norms is not in it.",
    ]
    if found["simulated"]:
        lines.append(
            "The devices are simulated on one CPU: the bytes are the result; tokens/s and efficiency, in brackets, "
            "mean nothing. This compiler sums whole where others scatter, and the formula counts it so."
        )
    return lines


def write_report(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write scaling.json, report.md, report.html and their picture; returns the Markdown's path."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures.device_scaling(found, folder / "pictures" / "scaling.png")
    title = f"{found['name']} on more devices"
    text = "\n\n".join(
        [
            f"# {title}",
            "\n".join(f"- {line}" for line in remarks(found)),
            table(HEADINGS, [cells(row, found["simulated"]) for row in found["rows"]]),
            "![scaling over devices](pictures/scaling.png)",
            "## How it was made\n\n" + code(" ".join(found["session"]["command"])),
        ]
    )
    write_atomically(folder / "scaling.json", json.dumps(found, indent=1) + "\n")
    return write_page(folder, title, text)
