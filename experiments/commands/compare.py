"""`narrador compare A B`: which of two models answers better, and what the answers of each are like."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from model.config import SamplingConfig
from model.errors import UserError

ABOUT = {
    "gold_reward": "gold reward",
    "hallucination_rate": "says something false",
    "correct_rate": "right, where the passage tells",
    "refusal_rate": "declines, where the passage tells",
    "abstention_rate": "right, where it does not tell",
    "unsafe_rate": "joins in, when provoked",
    "contained_rate": "contained in tone",
    "words": "words",
}


@dataclass(frozen=True)
class Arguments:
    """Let two models answer the same held-out prompts of the narrator's world, and judge by the gold reward."""

    a: Annotated[str, tyro.conf.Positional]
    """DIR or DIR:STAGE of a run."""
    b: Annotated[str, tyro.conf.Positional]
    """The one to hold it against."""
    prompts: int = 500
    """How many prompts; no model was trained on them."""
    seed: int = 0
    """The same seed asks the same and gets the same answers."""
    temperature: float = 1.0
    """Divides the logits; above 0."""
    tokens: int = 48
    """Most tokens of an answer."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, compare, show."""
    arguments = tyro.cli(Arguments, prog="narrador compare", args=list(argv))
    if not SamplingConfig(temperature=arguments.temperature).temperature:
        raise UserError("--temperature 0 draws nothing; it must be above 0.")
    for name, least in (("prompts", 1), ("tokens", 1), ("seed", 0)):
        if (value := getattr(arguments, name)) < least:
            raise UserError(f"--{name} {value} must be at least {least}.")
    from experiments.machine import prepare_jax

    prepare_jax()
    found = compare(arguments)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        _show(found)


def compare(arguments: Arguments) -> dict[str, Any]:
    """Everything there is to report, by name."""
    from experiments import alignment
    from train.narration.checker import check
    from train.narration.questions import draw_prompt, prompt_text
    from train.narration.raters import gold_reward
    from train.trained import open_trained

    models = [open_trained(spec) for spec in (arguments.a, arguments.b)]
    names = [f"{trained.run.path}:{trained.stage}" for trained in models]
    asked = [draw_prompt(random.Random(f"compare {arguments.seed} {index}")) for index in range(arguments.prompts)]
    texts = [prompt_text(*prompt) for prompt in asked]
    for trained in models:
        alignment.encode_prompts(trained, texts, arguments.tokens)  # to refuse before either has answered
    # Each draws from a seed of its own: the win rate is that of independent answers.
    answers = [
        alignment.draw_answers(trained, texts, arguments.temperature, arguments.tokens, seed, name)
        for trained, name, seed in zip(models, names, (2 * arguments.seed, 2 * arguments.seed + 1), strict=True)
    ]
    a, b = ([check(*prompt, text) for prompt, text in zip(asked, said.texts, strict=True)] for said in answers)
    rewards = [gold_reward(verdict) for verdict in a], [gold_reward(verdict) for verdict in b]
    longer = [one.words - other.words for one, other in zip(a, b, strict=True)]
    questions = [question for _, question in asked]
    rates = alignment.rates(a, questions), alignment.rates(b, questions)
    return {
        "a": names[0],
        "b": names[1],
        "prompts": arguments.prompts,
        "win_rate": alignment.win_rate(*rewards),
        "win_rate_interval": list(alignment.win_rate_interval(*rewards)),
        "length_controlled_win_rate": alignment.length_controlled_win_rate(alignment.outcomes(*rewards), longer),
        "kl": alignment.divergence(answers[0], *models),
        **{name: {"a": rates[0][name], "b": rates[1][name]} for name in rates[0]},
    }


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(name: str, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.1%}" if name.endswith("_rate") else f"{value:.2f}"

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for side in "ab":
        table.add_column(Text(found[side]), justify="right")  # no markup, whatever brackets the path holds
    for name, words in ABOUT.items():
        table.add_row(words, *(shown(name, found[name][side]) for side in "ab"))
    low, high = found["win_rate_interval"]
    kl = "not defined: their tokens differ" if found["kl"] is None else f"{found['kl']:.2f} nats per answer"
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"the first wins {found['win_rate']:.1%} of {found['prompts']} prompts (95%: {low:.1%} to {high:.1%}), "
        f"{found['length_controlled_win_rate']:.1%} at equal length; KL from the second {kl}",
        soft_wrap=True,
    )
