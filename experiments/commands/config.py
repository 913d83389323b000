"""`narrador config list|show|diff`: the experiments that exist, one whole, or two against each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from model.errors import unknown


@dataclass(frozen=True)
class List:
    """The experiments that `narrador run` knows by name."""

    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Show:
    """One experiment's whole config, as YAML."""

    name: Annotated[str, tyro.conf.Positional]
    """A name, a YAML file or a run directory."""
    json: bool = False
    """Print one JSON object on the last line of stdout, with the number of parameters."""


@dataclass(frozen=True)
class Diff:
    """The keys on which two experiments differ."""

    a: Annotated[str, tyro.conf.Positional]
    """A name, a YAML file or a run directory."""
    b: Annotated[str, tyro.conf.Positional]
    """Another."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


VERBS = {"list": List, "show": Show, "diff": Diff}


def main(argv: Sequence[str]) -> None:
    """Parse and print."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: narrador config list | show NAME | diff A B")
        return
    if argv[0] not in VERBS:
        raise unknown("config command", argv[0], VERBS)
    arguments: Any = tyro.cli(VERBS[argv[0]], prog=f"narrador config {argv[0]}", args=list(argv[1:]))
    if isinstance(arguments, List):
        _list(arguments)
    elif isinstance(arguments, Show):
        _show(arguments)
    elif isinstance(arguments, Diff):
        _diff(arguments)


def _list(arguments: List) -> None:
    from experiments.config import parameter_count
    from experiments.presets import EXPERIMENTS

    counts = {name: parameter_count(experiment) for name, experiment in EXPERIMENTS.items()}
    if arguments.json:
        print(json.dumps({"experiments": [{"name": name, "parameters": n} for name, n in counts.items()]}))
        return
    for name, count in counts.items():
        size = "by its text" if count is None else f"{count:,}"
        print(f"{name:<16}{size:>18}  {EXPERIMENTS[name].train.steps:>12,} steps")


def _show(arguments: Show) -> None:
    import yaml

    from experiments.config import find_experiment, parameter_count
    from model.tokenizer import Tokenizer
    from train.mapping import to_mapping

    _, experiment = find_experiment(arguments.name)
    tokenizer = Path(arguments.name) / "tokenizer.json"
    if experiment.model.vocab_size is None and tokenizer.exists():  # a run knows what its tokenizer came to
        size = Tokenizer.load(tokenizer).size
        experiment = replace(experiment, model=replace(experiment.model, vocab_size=size))
    config, count = to_mapping(experiment), parameter_count(experiment)
    if arguments.json:
        print(json.dumps({**config, "parameters": count}))
        return
    known = "known once its tokenizer has seen the text" if count is None else f"{count:,}"
    print(f"# parameters: {known}")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")


def _diff(arguments: Diff) -> None:
    from experiments.config import find_experiment
    from train.mapping import differences, to_mapping

    (name_a, a), (name_b, b) = find_experiment(arguments.a), find_experiment(arguments.b)
    changed = differences(to_mapping(a), to_mapping(b))
    if arguments.json:
        print(json.dumps({"differences": {key: {"a": left, "b": right} for key, left, right in changed}}))
        return
    if not changed:
        print(f"{name_a} and {name_b} are the same.")
    for key, left, right in changed:
        print(f"{key}: {left!r} -> {right!r}")
