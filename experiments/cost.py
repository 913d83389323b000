"""What training a model comes to, in operations, years, hours, dollars and energy, before anyone pays for it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiments.chips import PUE, find_chip
from model.errors import UserError, unknown

SECONDS_PER_YEAR = 365.25 * 24 * 3600
CLAIM_YEARS = 100e6
"""The post's claim: the largest models take so many years at a billion operations a second."""
CLAIM_FLOPS = CLAIM_YEARS * SECONDS_PER_YEAR * 1e9


@dataclass(frozen=True)
class Assumptions:
    """What the sums take for granted."""

    words_per_token: float = 0.75
    """Words in a token of English text; OpenAI's rule of thumb."""
    words_per_minute: float = 165.0
    """How fast a person reads, day and night, with no pause."""
    chip: str = "h100"
    """The chip rented: h100, v5p or another of experiments.chips."""
    mfu: float = 0.4
    """Share of the chip's peak that training uses (model FLOPs utilization)."""

    def __post_init__(self) -> None:
        find_chip(self.chip)
        for name, most in (("words_per_token", 1e6), ("words_per_minute", 1e6), ("mfu", 1.0)):
            if not 1e-6 <= (value := getattr(self, name)) <= most:
                raise UserError(f"--{name.replace('_', '-')} {value:g} must lie between 0.000001 and {most:,.0f}.")


@dataclass(frozen=True)
class Training:
    """A model and the text that it is trained on."""

    name: str
    parameters: int
    active_parameters: int
    """Those that a token meets: fewer than all in a mixture of experts."""
    tokens: int
    flops_per_token: float
    """Forward and backward."""
    flops_formula: str
    parameters_source: str
    tokens_source: str

    @property
    def flops(self) -> float:
        """All of it."""
        return self.tokens * self.flops_per_token


@dataclass(frozen=True)
class Estimate:
    """A model whose makers tell nothing, and whose shapes nobody guesses: a size and a budget."""

    parameters: int
    tokens: int
    parameters_source: str
    tokens_source: str


ESTIMATES = {
    "claude3-opus-estimate": Estimate(
        175_000_000_000,
        20 * 175_000_000_000,
        "a public guess, not confirmed: as many as GPT-3 has",
        "nobody tells: twenty for each parameter (Hoffmann et al. 2022)",
    ),
}

# Whose shapes are not their makers' own, by name.
GUESSED_SHAPES = {
    "gpt4-estimate": "counted from the shapes of a public guess, not confirmed: a mixture of experts "
    "(SemiAnalysis, July 2023)"
}

# Whose the token budgets of experiments.presets are, by the beginning of the name.
BUDGETS = {
    "vaswani2017": "100,000 steps of 25,000 (Vaswani et al. 2017, section 5), through the decoder alone",
    "gpt2": "an estimate: GPT-2's paper tells none; nanoGPT's reproduction of 124M takes 600,000 steps of 491,520",
    "gpt3": "as published (Brown et al. 2020, table 2.1)",
    "gpt4-estimate": "a public guess, not confirmed (SemiAnalysis, July 2023)",
    "llama3.1": "as published: about 15 trillion, 15.6 for 405B (Grattafiori et al. 2024, section 3)",
}
# The recipe trains all three sizes on the 15 trillion that are told of the smaller two.
TOKENS = {"llama3.1-405b": 15_600_000_000_000}


def find_training(name: str, tokens: float | None = None) -> Training:
    """The training called `name`: a preset, an estimate, depth-N, a YAML file or a run directory.

    Args:
        name: Which.
        tokens: Train on so many, instead of the published budget or the experiment's own.

    Raises:
        UserError: there is none, its vocabulary is not known, or `tokens` is out of range.
    """
    if tokens is not None and not 1 <= tokens <= 1e18:
        raise UserError(f"--tokens {tokens:g} must lie between 1 and 1e18.")
    training = _estimated(name) if name in ESTIMATES else _counted(name)
    return training if tokens is None else replace(training, tokens=int(tokens), tokens_source="as told by --tokens")


def sums(training: Training, assumptions: Assumptions) -> dict[str, Any]:
    """Every number about a training, by name."""
    words = training.tokens * assumptions.words_per_token
    return {
        "name": training.name,
        "parameters": training.parameters,
        "active_parameters": training.active_parameters,
        "tokens": training.tokens,
        "six_nd_flops": 6.0 * training.active_parameters * training.tokens,
        "training_flops": training.flops,
        "reading_years": words / assumptions.words_per_minute * 60 / SECONDS_PER_YEAR,
        **computing(training.flops, assumptions),
        "parameters_source": training.parameters_source,
        "tokens_source": training.tokens_source,
    }


def computing(flops: float, assumptions: Assumptions) -> dict[str, float | None]:
    """What so many operations come to; energy is None where the chip's maker publishes no power."""
    chip = find_chip(assumptions.chip)
    hours = flops / (chip.peak_flops * assumptions.mfu) / 3600
    return {
        "years_at_1e9_ops": flops / 1e9 / SECONDS_PER_YEAR,
        "gpu_hours": hours,
        "dollars": hours * chip.dollars_per_hour,
        "kilowatt_hours": None if chip.board_watts is None else hours * chip.board_watts / 1000 * PUE,
    }


def assumed(assumptions: Assumptions) -> dict[str, Any]:
    """The assumptions with what the chip's name stands for."""
    chip = find_chip(assumptions.chip)
    told = {field.name: getattr(assumptions, field.name) for field in fields(Assumptions)}
    names = ("peak_flops", "board_watts", "dollars_per_hour", "price_date", "price_source", "source")
    return {**told, **{f"chip_{name}": getattr(chip, name) for name in names}, "pue": PUE}


def _estimated(name: str) -> Training:
    guess = ESTIMATES[name]
    formula = "6 x N x D; attention left out: layers and width are not known"
    flops = 6.0 * guess.parameters
    return Training(
        name=name, active_parameters=guess.parameters, flops_per_token=flops, flops_formula=formula, **vars(guess)
    )


def _counted(name: str) -> Training:
    """A training whose architecture is known: parameters from shapes, FLOPs by train.flops."""
    from experiments.config import find_experiment, parameter_count
    from experiments.presets import EXPERIMENTS, RECIPES
    from train.flops import idle_parameters, train_flops_per_token

    is_file = Path(name).is_dir() or Path(name).suffix in (".yaml", ".yml")
    if not is_file and name not in EXPERIMENTS and not name.startswith("depth-"):
        raise unknown("experiment", name, [*EXPERIMENTS, *ESTIMATES, "depth-N"])
    label, experiment = find_experiment(name)
    parameters = parameter_count(experiment)
    if parameters is None:
        raise UserError(
            f"the vocabulary of {name!r} is known only once its tokenizer has seen the text; "
            "give a YAML file with model.vocab_size, such as 'base: char' and 'model: {vocab_size: 100}'."
        )
    config = replace(experiment.model, vocab_size=experiment.model.vocab_size or experiment.tokenizer.vocab_size)
    steps, rows, length = experiment.train.steps, experiment.train.batch_size, experiment.data.sequence_length
    if name in RECIPES:
        tokens = TOKENS.get(name, RECIPES[name].tokens)
        source = next(text for family, text in BUDGETS.items() if name.startswith(family))
    else:
        tokens = steps * rows * length
        source = f"pre-training's {steps:,} steps x {rows:,} rows x {length:,} tokens"
    return Training(
        name=label,
        parameters=parameters,
        active_parameters=parameters - idle_parameters(config),
        tokens=tokens,
        flops_per_token=train_flops_per_token(config, length),
        flops_formula=f"3 x (2 x weights + 4 x width x tokens attended to, each layer) x D, rows of {length:,}",
        parameters_source=GUESSED_SHAPES.get(name, "counted from the shapes of the architecture"),
        tokens_source=source,
    )
