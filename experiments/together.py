"""Experiments that differ in numbers alone, trained together: one program, mapped over their parameters and numbers.

for group in alike(experiments):
    outcomes = pretrain_together([experiments[i] for i in group], [runs[i] for i in group], stop)
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from experiments.config import Experiment, vocabulary_guess
from experiments.lanes import WHOLE, compile_together, mesh_of, one_device
from experiments.stages.language import pretrain_alike
from model.config import ModelConfig
from model.errors import UserError
from model.transformer import Transformer
from train.config import TrainConfig
from train.distributed import process_count
from train.loop import StopRequest, compute_dtype, memory_of_device
from train.mapping import differences, to_mapping
from train.record import Diverged, Enough, Watch
from train.run_directory import RunDirectory
from train.step import abstract_state

TRAIN_NUMBERS = (
    "seed",
    "learning_rate",
    "muon_learning_rate",
    "beta1",
    "beta2",
    "epsilon",
    "weight_decay",
    "clip_norm",
    "warmup_steps",
    "decay_fraction",
    "final_learning_rate",
)
NUMBERS = ["model.init_std", *(f"train.{name}" for name in TRAIN_NUMBERS)]
"""What experiments that train together may differ in."""
MOST = 16  # at a time: more gain little, and a kill loses the more
SHARE = 0.8  # of a device's memory that runs may take: not all that a program needs can be told before


def pretrain_together(
    experiments: Sequence[Experiment],
    runs: Sequence[RunDirectory],
    stop: StopRequest,
    most: int | None = None,
    watches: Sequence[Watch | None] | None = None,
) -> list[dict[str, Any] | Diverged | Enough]:
    """What `pretrain` comes to for each experiment, several at a time in one program.

    Each run's folder, held and claimed by the caller, comes to be as if it had trained alone, and goes on where it
    stopped. A run that diverges, or of which its watch has seen enough, leaves the others alone.

    Args:
        most: runs at a time. None: as many as memory allows, 16 a device at most.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the states are saved.
        UserError: the experiments differ in more than numbers; or what `pretrain` raises.
    """
    check_alike(experiments)
    if process_count() > 1:
        raise UserError("runs train together in one process only.")
    size, outcomes = most or runs_that_fit(experiments[0], len(runs)), []
    watches = watches or [None] * len(runs)
    for first in range(0, len(runs), size):
        here = slice(first, first + size)
        outcomes += pretrain_alike(experiments[here], runs[here], stop, watches[here])
    return outcomes


def alike(experiments: Sequence[Experiment]) -> list[list[int]]:
    """The places of experiments, those that can train together in one list."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, experiment in enumerate(experiments):
        groups[_program(experiment)].append(place)
    return list(groups.values())


def check_alike(experiments: Sequence[Experiment]) -> None:
    """Refuse experiments that cannot train together.

    Raises:
        UserError: names the first field in which two differ that is not one of `NUMBERS`.
    """
    first = to_mapping(_program(experiments[0]))
    for experiment in experiments[1:]:
        if found := differences(first, to_mapping(_program(experiment))):
            field, one, other = found[0]
            raise UserError(
                f"runs with {field}={one!r} and {other!r} cannot train together: their programs differ. They may "
                f"differ in {', '.join(NUMBERS)}."
            )


def _program(experiment: Experiment) -> Experiment:
    """What of an experiment its program of pre-training depends on; all else at its default."""
    numbers = {name: getattr(TrainConfig, name) for name in TRAIN_NUMBERS}
    return Experiment(
        model=replace(experiment.model, init_std=ModelConfig.init_std),
        tokenizer=experiment.tokenizer,
        data=experiment.data,
        train=replace(experiment.train, **numbers),
    )


def runs_that_fit(experiment: Experiment, wanted: int) -> int:
    """How many of the runs wanted this machine's devices hold at a time, 16 each at most, in turns of the same size.

    By their states first, then by the program that they will take, as compiled: arguments and temporaries.
    """
    train, available = experiment.train, memory_of_device()
    config = replace(experiment.model, vocab_size=vocabulary_guess(experiment))
    model = Transformer(config, WHOLE, compute_dtype(train.precision))
    devices, room = jax.local_device_count(), SHARE * available
    count = in_turns(wanted, MOST * devices)
    if not available or count == 1:
        return count
    leaves = jax.tree.leaves(abstract_state(model, train, one_device(), WHOLE))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    count = in_turns(wanted, min(count, max(1, int(room / state)) * devices))
    memory: Any = compile_together(model, train, experiment.data.sequence_length, count).memory_analysis()
    of_each = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / (count / mesh_of(count).size)
    return in_turns(wanted, min(count, max(1, int(room / of_each)) * devices))


def in_turns(wanted: int, most: int) -> int:
    """How many at a time, in as few turns as there must be, so that all are of the same size but perhaps the last."""
    return -(-wanted // -(-wanted // most))
