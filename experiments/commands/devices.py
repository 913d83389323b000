"""`narrador scale devices`: how training goes on more devices."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.terminal import print_table
from model.errors import UserError


@dataclass(frozen=True)
class Devices:
    """Strong and weak scaling of an experiment's training step over devices, and what they send each other.

    Without accelerators on simulated devices, where the bytes are the result.
    """

    name: Annotated[str, tyro.conf.Positional] = "tiny"
    """A preset, depth-N, a YAML file or a run directory; its shapes are measured, on random tokens."""
    devices: tuple[int, ...] = ()
    """How many devices to measure. None: 1, 2, 4, ... as many as there are; 8 simulated ones."""
    mesh_axis: Literal["data", "fsdp", "context", "tensor"] = "fsdp"
    """The mesh axis that they stand along."""
    rows: int | None = None
    """Rows of the whole batch: in strong scaling always, in weak scaling on the most devices. None: the experiment's,
    or the next number that all counts of devices divide."""
    repeats: int = 5
    """Steps measured of each, after one to warm up; simulated devices take a single one."""
    out: Path | None = None
    """Folder for report.md, report.html, their picture and scaling.json. None: only the table."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, measure, show."""
    arguments = tyro.cli(Devices, prog="narrador scale devices", args=list(argv))
    from experiments.config import find_experiment, vocabulary_guess
    from experiments.machine import prepare_jax

    numbers = {"devices": min(arguments.devices, default=1), "repeats": arguments.repeats, "rows": arguments.rows}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"--{option} {number} must be at least 1.")
    name, experiment = find_experiment(arguments.name)
    experiment = replace(experiment, model=replace(experiment.model, vocab_size=vocabulary_guess(experiment)))
    prepare_jax(cpu_devices=max(arguments.devices, default=8))
    from experiments.device_scaling import HEADINGS, MODES, cells, check, findings, powers_of_two, remarks, write_report
    from train.progress import bar

    devices = sorted(set(arguments.devices)) or powers_of_two()
    unit = math.lcm(*devices)
    rows = arguments.rows or -(-experiment.train.batch_size // unit) * unit
    check(devices, rows)
    with bar("measuring", len(MODES) * len(devices)) as advance:
        found = findings(name, experiment, arguments.mesh_axis, devices, rows, arguments.repeats, advance)
    report = write_report(arguments.out, found) if arguments.out else None
    if arguments.json:
        print(json.dumps(found))
        return
    print_table(HEADINGS, [cells(row, found["simulated"]) for row in found["rows"]])
    print("\n" + "\n".join(remarks(found)))
    if report:
        print(f"Report: {report}")
