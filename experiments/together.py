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
from experiments.lanes import WHOLE, one_device
from experiments.stages.language import pretrain_alike
from model.config import ModelConfig
from model.errors import UserError
from model.transformer import Transformer
from train.batches import Batch
from train.config import TrainConfig
from train.distributed import process_count
from train.loop import StopRequest, compute_dtype, memory_of_device
from train.mapping import differences, to_mapping
from train.record import Diverged, Enough, Watch
from train.run_directory import RunDirectory
from train.step import abstract_state, batch_sharding, compile_step

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
    size, outcomes = most or runs_that_fit(experiments[0]), []
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


def runs_that_fit(experiment: Experiment) -> int:
    """How many runs of an experiment this machine's devices hold at a time, 16 each at most: by one's program.

    Its arguments and temporaries, as compiled for one device, but for the batch, which all share, come once for each.
    """
    config = replace(experiment.model, vocab_size=vocabulary_guess(experiment))
    train, mesh = experiment.train, one_device()
    model = Transformer(config, WHOLE, compute_dtype(train.precision))
    available = memory_of_device()
    if not available:
        return MOST * jax.local_device_count()
    state = abstract_state(model, train, mesh, WHOLE)
    shape, sharding = (train.batch_size, experiment.data.sequence_length), batch_sharding(mesh, WHOLE)
    dtypes = ["float32" if name == "weights" else "int32" for name in Batch._fields]
    shapes: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for dtype in dtypes]
    with jax.set_mesh(mesh):
        memory = compile_step(model, train, state, Batch(*shapes)).memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return max(1, min(MOST, int(SHARE * available / needed))) * jax.local_device_count()
