"""Planning a ladder: what is measured of each size, and how many tokens its budgets have."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from experiments.config import Experiment
from experiments.ladder import UNIT, Ladder, Size, budgets, cells, parse_sizes, scaled
from experiments.workers import run_commands
from model.errors import UserError
from train.progress import bar
from train.run_directory import write_atomically

MEASURED = "measured"
WARMUP, REPEATS = 2, 5
SHORTEST = 1.5  # times the warm-up: the least decay start of a budget found for a time or a number of FLOPs


def plan(
    experiment: Experiment,
    folder: Path,
    named_sizes: Sequence[str],
    tokens: Sequence[float],
    count: int,
    flops: float | None,
    minutes: float,
    seeds: int,
    workers: int,
    command: Sequence[str],
) -> Ladder:
    """Measure each size as it will run, choose budgets, and save the plan.

    Args:
        tokens: budgets by hand; none: `count` of them, each twice the one before, as many as `flops` or `minutes` buy.

    Raises:
        UserError: runs are there already, a size does not fit, or no such budget can be.
    """
    if any((folder / "runs").glob("*/config.yaml")):
        raise UserError(f"{str(folder)!r} holds the runs of another plan; choose another --dir, or delete that one.")
    sizes = parse_sizes(experiment.model, named_sizes)
    data_tokens, vocabulary = _open_data(experiment)
    ladder = Ladder(experiment, sizes, (), workers, data_tokens, vocabulary, tuple(command))
    ladder.save(folder / MEASURED)  # where the children that measure look; a plan before this one stays until it is one
    ladder = replace(ladder, sizes=_measured(ladder, folder / MEASURED))
    _check_memory(ladder)

    def with_budgets(tokens: Sequence[float]) -> Ladder:
        steps = budgets(tokens, ladder.tokens_per_step, experiment.train)
        return replace(ladder, cells=cells(ladder.sizes, steps, seeds, experiment.train.seed))

    if not tokens:
        cost: Callable[[Ladder], float] = Ladder.wall_seconds if flops is None else _own_flops
        most = 60 * minutes if flops is None else flops
        told = f"--minutes {minutes:g}" if flops is None else f"--budget {flops:g}"
        tokens = _most_tokens(lambda tokens: cost(with_budgets(tokens)), most, count, ladder, told)
    ladder = with_budgets(tokens)
    ladder.save(folder)
    return ladder


def _own_flops(ladder: Ladder) -> float:
    """What the whole ladder computes, each step that runs share once."""
    return sum(ladder.flops(cell) * ladder.own_steps(cell) / cell.steps for cell in ladder.cells)


def _most_tokens(
    cost: Callable[[Sequence[float]], float], most: float, count: int, ladder: Ladder, told: str
) -> list[float]:
    """Budgets of tokens, each twice the one before, that cost no more than `most`."""
    unit = UNIT * ladder.tokens_per_step

    def doubling(units: int) -> list[float]:
        return [float(unit * units * 2**power) for power in range(count)]

    least = 1 + int(SHORTEST * ladder.experiment.train.warmup_steps / UNIT)
    if (needed := cost(doubling(least))) > most:
        ratio = "minutes" if "minutes" in told else "FLOPs"
        raise UserError(
            f"{told} is too little: the least ladder of {count} budgets needs "
            f"{needed / 60 if ratio == 'minutes' else needed:.3g} {ratio}."
        )
    low, high = least, 2 * least
    while cost(doubling(high)) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(doubling(middle)) <= most else (low, middle)
    return doubling(low)


def _open_data(experiment: Experiment) -> tuple[int, int]:
    """Draw, tokenize and keep what all runs read; returns tokens of the training split, and the vocabulary."""
    from experiments.stages.language import open_sources
    from train.corpus import tokenize, train_tokenizer_once

    sources = open_sources(experiment)
    tokenizer = train_tokenizer_once(experiment.tokenizer, sources)
    tokens = sum(len(tokenize(source, "train", tokenizer).tokens) for source in sources)
    for source in sources:
        tokenize(source, "validation", tokenizer)
    return tokens, experiment.model.vocab_size or tokenizer.size


def _measured(ladder: Ladder, folder: Path) -> tuple[Size, ...]:
    """All sizes, each measured in a process like those that will run it, beside as many others.

    Raises:
        UserError: one does not fit, or cannot be measured.
    """
    for size in ladder.sizes:
        (folder / f"{size.name}.json").unlink(missing_ok=True)
    largest_first = sorted(ladder.sizes, key=lambda size: -size.width * size.layers)
    with bar("measuring sizes", len(ladder.sizes)) as advance:
        commands = [("scale", "ladder", "measure", str(folder), size.name) for size in largest_first]
        done = run_commands(commands, ladder.workers, ended=lambda _: advance())
    if failed := [child for child in done if child.code]:
        raise UserError(f"size {failed[0].command[-1]} cannot be run here: {' '.join(failed[0].said[-1:])}")
    return tuple(Size(**json.loads((folder / f"{size.name}.json").read_text())) for size in ladder.sizes)


def _check_memory(ladder: Ladder) -> None:
    """Refuse sizes that do not fit into the machine's memory beside as many others as there are workers.

    Accelerators refuse their own, as each size is measured.
    """
    largest = sorted(ladder.sizes, key=lambda size: -size.memory_bytes)[: ladder.workers]
    needed, available = sum(size.memory_bytes for size in largest), memory_bytes()
    if needed > available:
        raise UserError(
            f"{len(largest)} workers need {needed / 2**30:,.1f} GiB for the sizes "
            f"{', '.join(size.name for size in largest)}, and this machine has {available / 2**30:,.1f} GiB. "
            "Take fewer --workers or smaller --sizes."
        )


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(ladder: Ladder, folder: Path, size: Size, started: float) -> None:
    """Measure a size in this process, and write it down for who plans.

    Args:
        started: when this process began, by the clock of `time.time`.

    Raises:
        UserError: it does not fit.
    """
    from experiments.benchmarks import seconds_of, training_step
    from model.sharding import make_mesh
    from model.transformer import count_parameters
    from train.flops import train_flops_per_token

    config = replace(scaled(ladder.experiment.model, size), vocab_size=ladder.vocabulary)
    experiment = replace(ladder.experiment, model=config)
    step = training_step(experiment, make_mesh(experiment.mesh))
    start_seconds = time.time() - started - step.compile_seconds
    seconds = median(seconds_of(step.run, REPEATS, WARMUP))
    memory = step.compiled.memory_analysis()
    total = count_parameters(config)
    tables = 1 if config.tied_head else 2
    found = replace(
        size,
        total=total,
        non_embedding=total - tables * ladder.vocabulary * size.width,
        flops_per_token=train_flops_per_token(config, experiment.data.sequence_length),
        seconds_per_step=seconds,
        start_seconds=start_seconds,
        compile_seconds=step.compile_seconds,
        memory_bytes=memory.argument_size_in_bytes + memory.temp_size_in_bytes if memory else 0,
    )
    write_atomically(folder / f"{size.name}.json", json.dumps(asdict(found)))
