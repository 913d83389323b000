"""`narrador run NAME|FILE`: train an experiment, or go on with it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.config import STAGE_NAMES, Experiment, find_experiment
from experiments.presets import EXPERIMENTS
from model.errors import UserError, unknown
from train.mapping import to_mapping


@dataclass(frozen=True)
class Arguments:
    """Train an experiment, or go on with it where it stopped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    stages: str = "pretrain"
    """What to do, one after the other, by commas: pretrain, sft. A stage that is complete is not repeated."""
    run_dir: Path | None = None
    """The run's folder. None: runs/NAME."""
    json: bool = False
    """Print the result as one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> int:
    """Parse, train, report."""
    if not argv or argv[0].startswith("-"):
        wanted = f"usage: narrador run NAME|FILE [--run-dir DIR] [overrides]\nNAME is one of: {', '.join(EXPERIMENTS)}."
        if argv and argv[0] in ("-h", "--help"):
            print(wanted + "\n'narrador run NAME --help' lists the overrides with NAME's values.")
            return 0
        raise UserError(f"say what to run.\n{wanted}")
    name, experiment = find_experiment(argv[0])
    arguments = tyro.cli(
        Arguments,
        prog=f"narrador run {argv[0]}",
        args=list(argv[1:]),
        default=Arguments(experiment),
    )
    experiment = arguments.experiment
    experiment.check()
    stages = arguments.stages.split(",")
    for stage in stages:
        if stage not in STAGE_NAMES:
            raise unknown("stage", stage, STAGE_NAMES)
    # Naming a run goes on with it where it is.
    directory = arguments.run_dir or (Path(argv[0]) if Path(argv[0]).is_dir() else Path("runs") / name)

    from train.run_directory import RunDirectory

    run = RunDirectory(directory)
    with run.lock():
        run.claim(to_mapping(experiment))
        from experiments.machine import prepare_jax

        prepare_jax(experiment.train.cpu_devices)
        from experiments.report import write_report
        from experiments.stages import STAGES
        from train.loop import Interrupted, StopRequest
        from train.progress import say

        stop = StopRequest()
        try:
            with stop.listening():
                results = {stage: STAGES[stage](experiment, run, stop) for stage in stages}
                write_report(run)
        except Interrupted:
            say(f"saved under {directory}. Go on with:\n  {shlex.join(['narrador', 'run', *argv])}")
            if arguments.json:
                print(json.dumps({"run_dir": str(directory), "interrupted": True}))
            return 0
    if arguments.json:
        first, *others = stages
        print(json.dumps({"run_dir": str(directory), **results[first], **{name: results[name] for name in others}}))
        return 0
    for stage, result in results.items():
        print(f"{stage}: validation loss {result['validation_loss']:.4f} nats per token, ", end="")
        print(f"{result['validation_bits_per_byte']:.3f} bits per byte.", end=" ")
        if "floor_nats_per_word" in result:
            word, least = result["validation_nats_per_word"], result["floor_nats_per_word"]
            print(f"{word:.3f} nats per word; the truth itself has {least:.3f}.", end=" ")
        print()
    print(f"Report: {run.path / 'report.md'}")
    return 0
