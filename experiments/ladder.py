"""A ladder: runs of several sizes of one family on several budgets of tokens, planned as a whole.

LADDER/plan.json     what it is: the experiment, sizes, cells and what was measured of them
LADDER/runs/CELL     ordinary run directories
LADDER/report.md, report.html, pictures/, fit.json

Every run has warmup-stable-decay (Hu et al. 2024), so that up to its decay it is the same as the next longer one of
its size and seed, which goes on from its checkpoint there: a chain. Sizes share one learning rate by CompleteP.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config import Experiment
from experiments.resized import resized
from model.config import ModelConfig
from model.errors import UserError
from train.config import TrainConfig
from train.mapping import from_mapping, to_mapping
from train.run_directory import RunDirectory, write_atomically

DECAY = 0.2
"""Share of a run's steps that its learning rate decays over."""
UNIT = 20
"""Steps of every run are a multiple: the decay then begins at a whole step, and so does each quarter before it."""
FACTORS = (0.5, 1.0, 1.5, 2.5)
"""Of the experiment's width, where no sizes are named."""
PARTS = 4  # checkpoints up to the decay


@dataclass(frozen=True)
class Size:
    """One size of the family, and what was measured of it."""

    width: int
    layers: int
    total: int = 0
    """Parameters."""
    non_embedding: int = 0
    """Of these, all but the embedding and a head of its own."""
    flops_per_token: float = 0.0
    """Of training: forward and backward."""
    seconds_per_step: float = 0.0
    """On one worker's share of the machine while all work."""
    start_seconds: float = 0.0
    """Until a process that trains it can compile its step."""
    compile_seconds: float = 0.0
    """Of each of its runs."""
    memory_bytes: int = 0
    """Of the compiled step: parameters, optimizer, gradients and activations."""

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.width}x{self.layers}"


@dataclass(frozen=True)
class Cell:
    """One run."""

    size: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.size}-steps{self.steps}-seed{self.seed}"

    @property
    def place(self) -> tuple[str, int]:
        """What it shares with its other seeds: size and steps."""
        return self.size, self.steps

    @property
    def decay_start(self) -> int:
        """The step after which it differs from longer ones."""
        return self.steps - round(DECAY * self.steps)


@dataclass(frozen=True)
class Ladder:
    """A plan."""

    experiment: Experiment
    """Of the base size."""
    sizes: tuple[Size, ...]
    cells: tuple[Cell, ...]
    workers: int
    data_tokens: int
    """Of the training split: more than these are seen again."""
    vocabulary: int
    command: tuple[str, ...]
    """What planned it."""

    @property
    def tokens_per_step(self) -> int:
        """Of a full batch."""
        return self.experiment.train.batch_size * self.experiment.data.sequence_length

    def size(self, name: str) -> Size:
        """The size of that name."""
        return next(size for size in self.sizes if size.name == name)

    def flops(self, cell: Cell) -> float:
        """Training FLOPs of a run, from its first step."""
        return self.size(cell.size).flops_per_token * cell.steps * self.tokens_per_step

    def chain(self, size: str, seed: int) -> list[Cell]:
        """Runs that go on from each other, the shortest first."""
        return sorted((cell for cell in self.cells if (cell.size, cell.seed) == (size, seed)), key=lambda c: c.steps)

    def chains(self) -> list[list[Cell]]:
        """All chains, the longest to work on first."""
        keys = {(cell.size, cell.seed) for cell in self.cells}
        return sorted((self.chain(*key) for key in keys), key=lambda chain: -sum(map(self.seconds, chain)))

    def own_steps(self, cell: Cell) -> int:
        """Steps that a run takes itself, after those of the one before it."""
        shorter = [other for other in self.chain(cell.size, cell.seed) if other.steps < cell.steps]
        return cell.steps - (shorter[-1].decay_start if shorter else 0)

    def seconds(self, cell: Cell) -> float:
        """How long a run is thought to take on a worker."""
        size, own = self.size(cell.size), self.own_steps(cell)
        start = size.start_seconds if own == cell.steps else 0.0
        return start + size.compile_seconds + own * size.seconds_per_step

    def wall_seconds(self) -> float:
        """How long all are thought to take: chains handed to whichever worker is free, longest first."""
        free = [0.0] * self.workers
        for chain in self.chains():
            free[free.index(min(free))] += sum(map(self.seconds, chain))
        return max(free)

    def experiment_of(self, cell: Cell) -> Experiment:
        """What a run is an experiment of."""
        size = self.size(cell.size)
        train = replace(
            self.experiment.train,
            steps=cell.steps,
            seed=cell.seed,
            schedule="wsd",
            decay_fraction=DECAY,
            checkpoint_every=cell.decay_start // PARTS,
            checkpoints_kept=PARTS,
            # Nothing between start and end that a longer run would have at another step.
            eval_every=NEVER,
            sample_every=NEVER,
            sample_tokens=0,
        )
        return replace(self.experiment, model=scaled(self.experiment.model, size), train=train, stages=("pretrain",))

    def run(self, folder: Path, cell: Cell) -> RunDirectory:
        """Where a run is."""
        return RunDirectory(folder / "runs" / cell.name)

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        folder.mkdir(parents=True, exist_ok=True)
        plan = {**asdict(self), "experiment": to_mapping(self.experiment)}
        write_atomically(folder / "plan.json", json.dumps(plan, indent=1) + "\n")


NEVER = 10**9


def scaled(base: ModelConfig, size: Size) -> ModelConfig:
    """The model of another size of the family: heads as wide as the base's, numbers by CompleteP (Dey et al. 2025)."""
    return replace(
        resized(base, size.width, size.layers),
        parametrization="completep",
        base_width=base.base_width or base.width,
        base_layers=base.base_layers or base.layers,
    )


def parse_sizes(base: ModelConfig, named: Sequence[str]) -> tuple[Size, ...]:
    """Sizes as WIDTH or WIDTHxLAYERS; none named: those of `FACTORS`.

    Raises:
        UserError: not such a size, heads would not be as wide as the base's, or one is named twice.
    """
    unit = base.head_dim
    words = named or [str(max(1, round(factor * base.width / unit)) * unit) for factor in FACTORS]
    found: list[Size] = []
    for word in words:
        width, _, layers = word.partition("x")
        if not width.isdecimal() or not (layers or "1").isdecimal() or int(width) < 1 or int(layers or 1) < 1:
            raise UserError(f"--sizes {word!r} must be WIDTH or WIDTHxLAYERS, such as {base.width}x{base.layers}.")
        if int(width) % unit:
            below = max(unit, int(width) // unit * unit)
            raise UserError(
                f"--sizes {word!r}: a width must be a multiple of {unit}, the experiment's width of a head; "
                f"{below} and {below + unit} are."
            )
        size = Size(int(width), int(layers or base.layers))
        if base.hidden_width * size.width % base.width:
            raise UserError(
                f"--sizes {word!r}: its feed-forward layer would not be a whole number wide; that of the "
                f"experiment has {base.hidden_width} for a width of {base.width}."
            )
        if size in found:
            raise UserError(f"--sizes names {size.name} twice.")
        found.append(size)
    return tuple(sorted(found, key=lambda size: (size.width**2 * size.layers, size.width)))


def budgets(tokens: Sequence[float], tokens_per_step: int, train: TrainConfig) -> list[int]:
    """Steps for budgets of tokens, the fewest first.

    Raises:
        UserError: one is too short for warm-up before its decay, or two come to the same.
    """
    steps = [UNIT * max(1, round(count / tokens_per_step / UNIT)) for count in sorted(tokens)]
    least = steps[0] - round(DECAY * steps[0])
    if train.warmup_steps > least:
        raise UserError(
            f"the budget of {sorted(tokens)[0]:,.0f} tokens is {steps[0]} steps, whose decay begins after {least}, "
            f"before train.warmup_steps={train.warmup_steps} have passed."
        )
    if len(set(steps)) < len(steps):
        raise UserError(f"--tokens: two budgets come to the same number of steps ({', '.join(map(str, steps))}).")
    return steps


def cells(sizes: Sequence[Size], steps: Sequence[int], seeds: int, seed: int) -> tuple[Cell, ...]:
    """Each size with each budget and each of `seeds` seeds from `seed` on."""
    return tuple(Cell(size.name, count, seed + other) for other in range(seeds) for size in sizes for count in steps)


def load(folder: Path) -> Ladder:
    """The plan in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "plan.json"
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        return Ladder(
            **{
                **plan,
                "experiment": from_mapping(Experiment, plan["experiment"], str(path)),
                "sizes": tuple(Size(**size) for size in plan["sizes"]),
                "cells": tuple(Cell(**cell) for cell in plan["cells"]),
                "command": tuple(plan["command"]),
            }
        )
    except FileNotFoundError:
        known = sorted(str(other.parent) for other in Path("ladders").glob("*/plan.json"))
        hint = f" Known: {', '.join(known)}." if known else " Make one with 'narrador scale ladder plan NAME'."
        raise UserError(f"{str(folder)!r} holds no ladder.{hint}") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r} is damaged ({error}); plan the ladder anew.") from None
