"""`narrador bench train|decode|ppo|world|startup|sweep`: speed on this machine, beside its own ceilings."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from model.errors import UserError, unknown


@dataclass(frozen=True)
class Train:
    """Training steps on random tokens, as a share of the machine's matrix product."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("tiny", "char")
    """Experiments whose shapes are measured."""
    repeats: int = 10
    """Steps measured, after two to warm up."""
    cpu_devices: int | None = None
    """Devices that a CPU poses as. None: one."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Decode:
    """Cached decoding, as a share of the machine's memory read."""

    name: Annotated[str, tyro.conf.Positional] = "tiny"
    """Experiment whose model is measured."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Sequences decoded together."""
    repeats: int = 3
    """Texts measured, after one to warm up."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Ppo:
    """Episodes of PPO a second on a tiny GPT-2 with random weights: rollout, scores, four epochs."""

    peers: bool = False
    """Measure TRL's PPOTrainer too, in turn with ours (extra `bench`)."""
    repeats: int = 5
    """Turns measured, of five iterations each."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class World:
    """Documents of the narrator's world: drawing and writing them, and knowing the truth about them."""

    documents: int = 20_000
    """Documents of one dataset."""
    repeats: int = 3
    """Datasets written, each from a seed of its own."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Startup:
    """Seconds that commands take which train nothing."""

    repeats: int = 5
    """Processes measured of each, after one to warm up."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


@dataclass(frozen=True)
class Sweep:
    """A sweep of a learning-rate × weight-decay grid: trials in one program, in parallel processes, one by one."""

    name: Annotated[str, tyro.conf.Positional] = "narrator-tiny"
    """Experiment that is swept."""
    trials: int = 24
    """Cells of the grid."""
    steps: int | None = None
    """Updates of each trial. None: the experiment's."""
    together: int | None = None
    """Trials in one program. None: as many as memory allows, 16 a device at most."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


VERBS = {"train": Train, "decode": Decode, "ppo": Ppo, "world": World, "startup": Startup, "sweep": Sweep}


def main(argv: Sequence[str]) -> None:
    """Parse, measure, show."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: narrador bench train [NAMES ...] | decode [NAME] | ppo | world | startup | sweep [NAME]")
        return
    if argv[0] not in VERBS:
        raise unknown("benchmark", argv[0], VERBS)
    arguments: Any = tyro.cli(VERBS[argv[0]], prog=f"narrador bench {argv[0]}", args=list(argv[1:]))
    if getattr(arguments, "repeats", 1) < 1:
        raise UserError(f"--repeats {arguments.repeats} must be at least 1.")
    verbs: dict[str, Any] = {"train": _train, "decode": _decode, "ppo": _ppo}
    verbs |= {"world": _world, "startup": _startup, "sweep": _sweep}
    found = verbs[argv[0]](arguments)
    if arguments.json:
        print(json.dumps(found))


def _train(arguments: Train) -> dict[str, Any]:
    from experiments.config import find_experiment, vocabulary_guess
    from experiments.machine import prepare_jax

    shapes = [find_experiment(name) for name in arguments.names]
    prepare_jax(arguments.cpu_devices)
    from experiments.benchmarks import bench_train, measured_memory_read

    found = []
    for name, experiment in shapes:
        row = {"name": name, **bench_train(experiment, vocabulary_guess(experiment), arguments.repeats)}
        found.append(row)
        if not arguments.json:
            print(
                f"{name}: {row['tokens_per_second']:,.0f} tokens/s ({row['tokens_per_second_least']:,.0f} to "
                f"{row['tokens_per_second_most']:,.0f}), {row['matmul_share']:.0%} of the machine's matrix product "
                f"({row['matmul_flops'] / 1e9:,.0f} GFLOP/s); {row['parameters']:,} parameters, "
                f"{row['batch']} x {row['length']} tokens"
            )
    return {"shapes": found, "memory_bytes_per_second": measured_memory_read()}


def _decode(arguments: Decode) -> dict[str, Any]:
    from experiments.config import find_experiment, vocabulary_guess
    from experiments.machine import prepare_jax

    if min(arguments.batches, default=0) < 1:
        raise UserError(f"--batches {arguments.batches} must be numbers of at least 1.")
    _, experiment = find_experiment(arguments.name)
    prepare_jax()
    from experiments.benchmarks import bench_decode

    found = []
    for batch in arguments.batches:
        row = bench_decode(experiment, vocabulary_guess(experiment), batch, arguments.repeats)
        found.append(row)
        if not arguments.json:
            print(
                f"{arguments.name}, {batch} at a time: {row['tokens_per_second']:,.0f} tokens/s "
                f"({row['tokens_per_second_least']:,.0f} to {row['tokens_per_second_most']:,.0f}), "
                f"{row['memory_share']:.0%} of the machine's memory read "
                f"({row['memory_bytes_per_second'] / 1e9:,.1f} GB/s)"
            )
    return {"name": arguments.name, "batches": found}


def _ppo(arguments: Ppo) -> dict[str, Any]:
    from experiments.machine import prepare_jax
    from experiments.peers import PpoShape

    prepare_jax()
    from experiments.benchmarks import bench_ppo

    found = bench_ppo(PpoShape(), arguments.repeats, arguments.peers)
    if not arguments.json:
        print(f"PPO: {found['episodes_per_second']:,.1f} episodes/s", end="")
        if arguments.peers:
            print(
                f"; TRL {found['peer']['trl']}: {found['peer_episodes_per_second']:,.1f}; "
                f"{found['ratio']:.2f} times ({found['ratio_least']:.2f} to {found['ratio_most']:.2f})",
                end="",
            )
        print()
    return found


def _world(arguments: World) -> dict[str, Any]:
    if arguments.documents < 1:
        raise UserError(f"--documents {arguments.documents} must be at least 1.")
    from experiments.benchmarks import bench_world

    found = bench_world(arguments.documents, arguments.repeats)
    if not arguments.json:
        names = {"written": "written_words_per_second_per_core", "with their truth": "known_words_per_second"}
        print(f"{found['documents']:,} documents, {found['words']:,} words; words a second on each of", end=" ")
        print(f"{found['cores']} cores (truth: on one)")
        for name, key in names.items():
            rate = found[key]
            print(f"{name:<18}{rate['median']:12,.0f} ({rate['least']:,.0f} to {rate['most']:,.0f})")
    return found


def _startup(arguments: Startup) -> dict[str, Any]:
    from experiments.benchmarks import bench_startup

    found = {name: asdict(spread) for name, spread in bench_startup(arguments.repeats).items()}
    if not arguments.json:
        for name, spread in found.items():
            print(f"{name:<28}{spread['median']:6.2f} s ({spread['least']:.2f} to {spread['most']:.2f})")
    return {"seconds": found}


def _sweep(arguments: Sweep) -> dict[str, Any]:
    from experiments.config import find_experiment

    for name, value, least in (("trials", arguments.trials, 2), ("steps", arguments.steps, 1)):
        if value is not None and value < least:
            raise UserError(f"--{name} {value} must be at least {least}.")
    if arguments.together is not None and arguments.together < 2:
        raise UserError(f"--together {arguments.together} must be at least 2.")
    name, experiment = find_experiment(arguments.name)
    if arguments.steps is not None:
        experiment = replace(experiment, train=replace(experiment.train, steps=arguments.steps))
    from experiments.sweep_benchmark import WAYS, bench_sweep

    with tempfile.TemporaryDirectory() as folder:
        found = {"name": name, **bench_sweep(experiment, arguments.trials, arguments.together, Path(folder))}
    if not arguments.json:
        how = {
            "sequential": "one after the other",
            "processes": f"in {found['processes']} processes",
            "vectorised": f"{found['together']} in one program",
        }
        print(f"{name}: {found['trials']} trials of {found['steps']} steps on {found['backend']}")
        for way in WAYS:
            seconds = found[f"{way}_seconds"]
            print(f"{how[way]:<22}{seconds:8.1f} s  {found['sequential_seconds'] / seconds:5.2f} times as fast", end="")
            print(f"  losses within {found[f'loss_difference_{way}']:.0e}" if way != "sequential" else "")
    return found
