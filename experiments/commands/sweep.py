"""`narrador sweep NAME --param PATH=RANGE`: many runs that differ in some values, and what decides between them."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from experiments.machine import command
from experiments.sweep import Sweep, find_sweep, load
from experiments.workers import usable_cores
from model.errors import UserError

USAGE = """usage: narrador sweep NAME|FILE|DIR --param PATH=RANGE ... --trials N [overrides]
       narrador sweep status|report|best|work DIR

NAME is an experiment, FILE a YAML or Python file that describes a sweep, DIR one that was begun.
'narrador sweep NAME --help' lists the options and NAME's values."""


@dataclass(frozen=True)
class Arguments:
    """Run an experiment many times with other values, or go on with that where it stopped."""

    sweep: Annotated[Sweep, tyro.conf.arg(name="")] = field(default_factory=Sweep)
    json: bool = False
    """Print the result as one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Status:
    """How far a sweep is."""

    dir: Annotated[Path, tyro.conf.Positional]
    """The sweep's folder."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Report:
    """Write report.md, report.html and report.json of a sweep as far as it is."""

    dir: Annotated[Path, tyro.conf.Positional]
    """The sweep's folder."""
    json: bool = False
    """Print the findings as one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Best:
    """The best trial so far."""

    dir: Annotated[Path, tyro.conf.Positional]
    """The sweep's folder."""
    as_config: Path | None = None
    """Write its config to this YAML file, for 'narrador run FILE'."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Work:
    """Be one more worker of a sweep that was begun; ends when the sweep is complete."""

    dir: Annotated[Path, tyro.conf.Positional]
    """The sweep's folder."""


def main(argv: Sequence[str]) -> int:
    """Parse, run or tell."""
    verbs: dict[str, Any] = {
        "status": (Status, _status),
        "report": (Report, _report),
        "best": (Best, _best),
        "work": (Work, _work),
    }
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        raise UserError(f"say what to sweep.\n{USAGE}")
    if argv[0] in verbs:
        cls, act = verbs[argv[0]]
        return act(tyro.cli(cls, prog=f"narrador sweep {argv[0]}", args=list(argv[1:]))) or 0
    name, described = find_sweep(argv[0])
    arguments = tyro.cli(Arguments, prog=f"narrador sweep {argv[0]}", args=list(argv[1:]), default=Arguments(described))
    sweep = arguments.sweep.checked()
    return _sweep(argv, sweep, sweep.out or Path("sweeps") / name, arguments.json)


def _sweep(argv: Sequence[str], sweep: Sweep, directory: Path, as_json: bool) -> int:
    from train.loop import Interrupted
    from train.progress import say

    study = _claim(sweep, directory)
    try:
        if left := study.left():
            (_in_processes if _execution(sweep) == "processes" else _in_this_process)(study)
            if study.left():
                raise UserError(
                    f"{study.left()} of {study.count} trials are left, and no worker lives. The same command goes on."
                )
    except (Interrupted, KeyboardInterrupt):
        say(f"saved under {directory}. Go on with:\n  {shlex.join(command(['sweep', *argv]))}")
        if as_json:
            print(json.dumps({"dir": str(directory), "interrupted": True}))
        return 0
    from experiments.sweep_report import findings, summary, write_report

    report = write_report(study, directory, command(["sweep", *argv]) if left else None)
    if as_json:
        print(json.dumps(summary(findings(study))))
    else:
        _tell(study)
        print(f"Report: {report}")
    return 0


def _claim(sweep: Sweep, directory: Path) -> Any:
    """The study of a sweep, in its folder."""
    from experiments.study import Study, told_apart

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{str(directory)!r} is a file, not a folder for a sweep.") from None
    if (directory / "sweep.yaml").exists():
        changed = sweep.differs(load(directory).checked().identity())
        if changed and (directory / "trials").exists():
            raise UserError(
                f"{str(directory)!r} holds another sweep; nothing was changed.\n{told_apart(changed)}\n"
                "Choose another --out."
            )
    elif strangers := sorted(child.name for child in directory.iterdir() if not child.name.startswith("journal.log")):
        raise UserError(f"{str(directory)!r} is not empty and holds no sweep: {', '.join(strangers[:5])}.")
    study = Study(sweep, directory)
    sweep.save(directory)
    return study


def _execution(sweep: Sweep) -> str:
    """How the trials are worked on here."""
    if sweep.execution != "auto":
        return sweep.execution
    from experiments.machine import prepare_jax

    prepare_jax(sweep.experiment.train.cpu_devices)
    import jax

    return "processes" if jax.default_backend() == "cpu" else "vectorised"


def _in_this_process(study: Any) -> None:
    from experiments.machine import prepare_jax

    prepare_jax(study.sweep.experiment.train.cpu_devices)
    from experiments.trials import work
    from train.loop import StopRequest

    stop = StopRequest()
    with stop.listening():
        work(study, stop, together=_execution(study.sweep) == "vectorised")


def _in_processes(study: Any) -> None:
    from experiments.stages.language import open_sources
    from experiments.trials import work_in_processes
    from train.corpus import train_tokenizer_once

    experiment = study.sweep.experiment  # its text is made once here, or by all workers at the same time
    train_tokenizer_once(experiment.tokenizer, open_sources(experiment))
    work_in_processes(study, min(study.sweep.workers or len(usable_cores()), study.left()))


def _work(arguments: Work) -> int:
    from experiments.study import Study

    study = Study(load(arguments.dir).checked(), arguments.dir)
    from train.loop import Interrupted
    from train.progress import say

    try:
        _in_this_process(study)
    except Interrupted:
        say("saved; whoever works on the sweep next goes on.")
    return 0


def _opened(directory: Path) -> Any:
    """The study of a folder, as it is."""
    from experiments.study import Study

    return Study(load(directory).checked(), directory)


def _status(arguments: Status) -> None:
    from experiments.sweep_report import findings, summary

    study = _opened(arguments.dir)
    found = findings(study)
    if arguments.json:
        print(json.dumps({**summary(found), "left": study.left()}))
        return
    _tell(study)
    print(f"{study.left()} left of {study.count}.")


def _report(arguments: Report) -> None:
    from experiments.sweep_report import findings, write_report

    study = _opened(arguments.dir)
    report = write_report(study, arguments.dir)
    print(json.dumps(findings(study)) if arguments.json else f"Report: {report}")


def _best(arguments: Best) -> None:
    from experiments.search_space import with_values
    from experiments.sweep_report import findings, summary
    from train.mapping import to_mapping
    from train.run_directory import write_atomically

    study = _opened(arguments.dir)
    if (trial := study.best()) is None:
        raise UserError(f"no trial of {str(arguments.dir)!r} is complete yet.")
    if arguments.as_config is not None:
        experiment = with_values(study.sweep.experiment, trial.params, f"trial {trial.number}")
        told = f"# trial {trial.number} of {arguments.dir}: held-out loss {trial.value:.4f}\n"
        config = yaml.safe_dump(to_mapping(experiment), sort_keys=False, allow_unicode=True)
        write_atomically(arguments.as_config, told + config)
    if arguments.json:
        print(json.dumps(summary(findings(study))["best"]))
    else:
        _tell_best(study)


def _tell(study: Any) -> None:
    """What the trials came to, and the best of them."""
    from experiments.sweep_report import findings

    counts = findings(study)["outcomes"]
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no trial has begun")
    _tell_best(study)


def _tell_best(study: Any) -> None:
    if (trial := study.best()) is None:
        print("No trial is complete.")
        return
    print(f"best: trial {trial.number}, held-out loss {trial.value:.4f} nats per token")
    for path, value in trial.params.items():
        print(f"  {path} = {value:.4g}" if isinstance(value, float) else f"  {path} = {value}")
