"""`narrador overoptimisation RUN`: proxy and gold reward as policies are optimized against reward models."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.proxies import Settings
from train.run_directory import RunDirectory


@dataclass(frozen=True)
class Arguments:
    """Optimize against reward models, by best-of-n and by PPO, past the point where it helps; and say where that is.

    In the narrator's world, from the run's stage sft. What is done stays in RUN/overoptimisation, and is not repeated.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, measure, report."""
    arguments = tyro.cli(Arguments, prog="narrador overoptimisation", args=list(argv))
    run = RunDirectory(arguments.run)
    run.config()  # says it where there is no run at all
    with run.lock():
        from experiments.machine import prepare_jax

        prepare_jax()
        from experiments.overoptimisation import FOLDER, Study
        from experiments.overoptimisation_report import conclusions, write_report
        from experiments.proxy_curves import findings
        from train.loop import Interrupted, StopRequest
        from train.progress import say

        stop = StopRequest()
        try:
            with stop.listening():
                found = findings(Study(run, arguments.settings, stop))
                report = write_report(run.path / FOLDER, found)
        except Interrupted:
            say(f"what is done is kept. Go on with:\n  {shlex.join(['narrador', 'overoptimisation', *argv])}")
            if arguments.json:
                print(json.dumps({"run_dir": str(arguments.run), "interrupted": True}))
            return
    if arguments.json:
        print(json.dumps({"run_dir": str(arguments.run), **found}, ensure_ascii=False, allow_nan=False))
        return
    print("\n".join(f"- {line}" for line in conclusions(found)))
    print(f"Report: {report}")
