"""`narrador compare A B`: which of two models answers better, and what the answers of each are like.

Of two whole runs it also tells how their configs, results and curves differ.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.seeds import check_seed
from model.config import SamplingConfig
from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Hold two models against each other: their answers to the same prompts, or what people chose between them."""

    a: Annotated[str, tyro.conf.Positional]
    """DIR or DIR:STAGE of a run."""
    b: Annotated[str, tyro.conf.Positional]
    """The one to hold it against. With two DIRs, configs and results are compared too."""
    judge: str = "gold"
    """gold: what the raters of the narrator's world make of an answer; reward:RUN: the reward model of a run;
    store:PATH: what people chose between these two in a store, and then nothing is asked."""
    prompts: int = 500
    """How many prompts; no model was trained on those of the narrator's world."""
    prompts_from: str | None = None
    """jsonl:GLOB of {"prompt"} or {"messages"}. None: questions of the narrator's world."""
    best_of: int = 1
    """The first gives the best of so many answers, by its own run's reward model."""
    seed: int = 0
    """The same seed asks the same and gets the same answers."""
    temperature: float = 1.0
    """Divides the logits; above 0."""
    tokens: int = 48
    """Most tokens of an answer."""
    out: Path | None = None
    """A folder for a page about two whole runs: comparison.md, comparison.html and their pictures."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, compare, show."""
    arguments = tyro.cli(Arguments, prog="narrador compare", args=list(argv))
    _check(arguments)
    from experiments.machine import prepare_jax

    prepare_jax()
    found = compare(arguments)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        _show(found)
    if arguments.out is not None:
        from experiments.comparison_report import write_page
        from train.progress import say
        from train.run_directory import RunDirectory

        a, b = (RunDirectory(Path(spec)) for spec in (arguments.a, arguments.b))
        command = shlex.join(["narrador", "compare", *argv])
        say(f"the page is {write_page(found, a, b, arguments.out, command)}")


def compare(arguments: Arguments) -> dict[str, Any]:
    """Everything there is to report, by name."""
    from experiments.judges import STORE, parse_judge
    from experiments.run_comparison import config_differences, results
    from train.run_directory import RunDirectory

    kind, place = parse_judge(arguments.judge)
    found = _by_choices(arguments, Path(place)) if kind == STORE else _by_answers(arguments)
    if _whole(arguments):
        a, b = (RunDirectory(Path(spec)) for spec in (arguments.a, arguments.b))
        found |= {"config_differences": config_differences(a, b), "results": results(a, b)}
    return found


def _check(arguments: Arguments) -> None:
    """Refuse what cannot be, before anything is loaded."""
    from experiments.judges import GOLD, STORE, parse_judge

    if not SamplingConfig(temperature=arguments.temperature).temperature:
        raise UserError("--temperature 0 draws nothing; it must be above 0.")
    for name, least in (("prompts", 1), ("best_of", 1), ("tokens", 1), ("seed", 0)):
        if (value := getattr(arguments, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}.")
    check_seed(arguments.seed)
    kind, judge = parse_judge(arguments.judge)[0], f"--judge {arguments.judge!r}"
    if kind == GOLD and arguments.prompts_from is not None:
        raise UserError(
            f"{judge} knows the truth of the narrator's world only; "
            f"answers to --prompts-from {arguments.prompts_from!r} can be judged by reward:RUN."
        )
    if kind == STORE and (arguments.best_of > 1 or arguments.prompts_from is not None):
        name = "--best-of" if arguments.best_of > 1 else "--prompts-from"
        raise UserError(f"{judge} asks nothing, so {name} cannot be used with it.")
    if arguments.out is not None:
        if not _whole(arguments):
            raise UserError("--out writes a page about two whole runs; name both without a stage.")
        arguments.out.mkdir(parents=True, exist_ok=True)


def _whole(arguments: Arguments) -> bool:
    from experiments.run_comparison import names_whole_run

    return names_whole_run(arguments.a) and names_whole_run(arguments.b)


def _by_choices(arguments: Arguments, path: Path) -> dict[str, Any]:
    """Two models, judged by what people chose between them."""
    from experiments.judging import judge_by_store, source_name

    a, b = source_name(arguments.a), source_name(arguments.b)
    judged = judge_by_store(path, a, b)
    return {
        "judge": arguments.judge,
        "a": a,
        "b": b,
        "prompts": len(judged.outcomes),
        **judged.summary(),
        "kl": None,
        "kl_is_bound": False,
    }


def _by_answers(arguments: Arguments) -> dict[str, Any]:
    """Two models, judged by scores of their answers; only named where one of two whole runs takes no turns yet."""
    from experiments.alignment import model_name
    from experiments.answer_comparison import Drawing, ask_source, ask_world, compare_answers
    from experiments.judges import GOLD, parse_judge
    from experiments.text_scorer import TextScorer
    from train.run_directory import RunDirectory
    from train.trained import open_trained

    models = [open_trained(spec) for spec in (arguments.a, arguments.b)]
    a, b = map(model_name, models)
    found: dict[str, Any] = {"judge": arguments.judge, "a": a, "b": b}
    if _whole(arguments) and any(trained.stage == "pretrain" for trained in models):
        return found
    kind, place = parse_judge(arguments.judge)
    judge = None if kind == GOLD else TextScorer(RunDirectory(Path(place)))
    if arguments.prompts_from is None:
        asked = ask_world(arguments.prompts, arguments.seed)
    else:
        asked = ask_source(arguments.prompts_from, arguments.prompts, arguments.seed)
    drawing = Drawing(arguments.temperature, arguments.tokens, arguments.seed, arguments.best_of)
    return found | compare_answers(models, asked, judge, drawing)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from experiments.comparison_report import conclusion, tables

    console = Console(highlight=False)
    for head, rows in tables(found):
        grid = Table(box=None, pad_edge=False)
        for place, words in enumerate(head):
            grid.add_column(Text(words), justify="right" if place else "left")  # no markup, whatever a path holds
        for row in rows:
            grid.add_row(*map(Text, row))
        console.print(grid, "")
    console.print(conclusion(found), markup=False, soft_wrap=True)
