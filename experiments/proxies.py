"""What a study of over-optimisation is asked for. Plain data: importing this does not import JAX."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from experiments.seeds import check_seed
from model.errors import UserError

HEADS = 4  # of the ensemble
Rule = Literal["mean", "min"]
MEAN: Rule = "mean"
LEAST: Rule = "min"


class Proxy(NamedTuple):
    """A reward model to optimize against: what it learned from, and how its heads come to one score."""

    choices: int
    heads: int = 1
    rule: Rule = MEAN

    @property
    def folder(self) -> str:
        """Where its reward model lies; an ensemble's rules share one."""
        return f"{self.choices}" if self.heads == 1 else f"{self.choices}x{self.heads}"

    @property
    def stage(self) -> str:
        """Where PPO against it lies, in that folder."""
        return f"ppo-{self.rule}"

    @property
    def learned(self) -> str:
        """Its reward model, for people."""
        return f"{self.choices:,} choices" + ("" if self.heads == 1 else f", {self.heads} heads")

    @property
    def name(self) -> str:
        """It, for people."""
        words = {MEAN: "mean of", LEAST: "least of"}[self.rule]
        return f"{self.choices:,} choices" + ("" if self.heads == 1 else f", {words} {self.heads}")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how closely."""

    sizes: tuple[int, ...] = (500, 2000, 8000)
    """Choices that a reward model learns from, one for each; the middle one has an ensemble too."""
    prompts: int = 160
    """Held-out prompts that everything is measured on."""
    answers: int = 64
    """Answers to each, of which best-of-n takes its n."""
    iterations: int = 32
    """Of PPO against each reward model."""
    seed: int = 0
    """Of the choices, prompts, answers and heads."""

    def __post_init__(self) -> None:
        if not self.sizes:
            raise UserError("--sizes names no number of choices; name some, such as --sizes 500 2000 8000.")
        if len(set(self.sizes)) < len(self.sizes):
            raise UserError(f"--sizes {' '.join(map(str, self.sizes))} names one twice; each is one reward model.")
        least = {"sizes": 20, "prompts": 10, "answers": 2, "iterations": 1, "seed": 0}
        for name, least_value in least.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value < least_value:
                    raise UserError(f"--{name} {value} must be at least {least_value}.")
        check_seed(self.seed)

    @property
    def proxies(self) -> list[Proxy]:
        """A single reward model for each size, and an ensemble at the middle one, by its mean and by its minimum."""
        sizes = sorted(self.sizes)
        middle = sizes[len(sizes) // 2]
        return [*map(Proxy, sizes), Proxy(middle, HEADS, MEAN), Proxy(middle, HEADS, LEAST)]
