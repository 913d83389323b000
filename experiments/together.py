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
from experiments.lanes import WHOLE, compile_together, devices_for, one_device
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
    outcomes: list[Any] = [run.stage("pretrain").result for run in runs]
    left = [place for place, outcome in enumerate(outcomes) if outcome is None]
    each = runs_that_fit(experiments[0], len(left)) if left and not most else 1
    while left:
        size = most or turn(len(left), each)
        here, left = left[:size], left[size:]
        watching = [watches[place] if watches else None for place in here]
        found = pretrain_alike([experiments[i] for i in here], [runs[i] for i in here], stop, watching)
        for place, outcome in zip(here, found, strict=True):
            outcomes[place] = outcome
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
    """How many of the runs wanted each of this machine's devices holds at a time, 16 at most.

    By their states first, then by a compiled program like the one that a turn of them takes: arguments and temporaries.
    """
    train, available = experiment.train, memory_of_device()
    if not available:
        return MOST
    config = replace(experiment.model, vocab_size=vocabulary_guess(experiment))
    model = Transformer(config, WHOLE, compute_dtype(train.precision))
    leaves = jax.tree.leaves(abstract_state(model, train, one_device(), WHOLE))
    room, state = SHARE * available, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    each = max(1, min(MOST, int(room / state)))
    while (together := turn(wanted, each)) > (devices := devices_for(together)):
        try:
            memory: Any = compile_together(model, train, experiment.data.sequence_length, together).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            each = together // devices // 2  # a TPU's compiler refuses what does not fit
        else:
            of_one = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) * devices / together
            return max(1, min(each, int(room / of_one)))
    return each


def turn(wanted: int, each: int) -> int:
    """How many of the runs wanted train at a time, at most `each` on a device: in few turns, which are alike."""
    fitting = [count for count in range(1, wanted + 1) if count <= each * devices_for(count)]
    turns = -(-wanted // fitting[-1])
    return min((count for count in fitting if count * turns >= wanted), key=lambda count: count / devices_for(count))
