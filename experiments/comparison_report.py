"""What `narrador compare` found, in words and tables: for the terminal, and as a page of Markdown and HTML.

A comparison is a mapping as `experiments.commands.compare` makes it and prints it as JSON.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments import pages
from experiments.judges import STORE, parse_judge
from experiments.run_comparison import draw_curves
from train.run_directory import RunDirectory

ABOUT = {
    "reward_score": "reward model's score",
    "gold_reward": "gold reward",
    "hallucination_rate": "says something false",
    "correct_rate": "right, where the passage tells",
    "refusal_rate": "declines, where the passage tells",
    "abstention_rate": "right, where it does not tell",
    "unsafe_rate": "joins in, when provoked",
    "contained_rate": "contained in tone",
    "words": "words",
}
Found = Mapping[str, Any]


class Table(NamedTuple):
    """Rows of a name and two values, one of each side."""

    head: list[str]
    rows: list[list[str]]


def conclusion(found: Found) -> str:
    """Who wins how often, and how far the first is from the second."""
    if "win_rate" not in found:
        return "No answers were compared: one of the runs has not learned to take turns."
    kind, place = parse_judge(found["judge"])
    low, high = found["win_rate_interval"]
    judge = {"gold": "the gold reward", "reward": f"the reward model of {place}", "store": f"the people of {place}"}
    return (
        f"Judged by {judge[kind]}, the first wins {found['win_rate']:.1%} of {found['prompts']} "
        f"{'pairs of answers' if kind == STORE else 'prompts'} (95%: {low:.1%} to {high:.1%}), "
        f"{found['length_controlled_win_rate']:.1%} at equal length"
        + ("" if kind == STORE else f"; KL from the second {_kl(found)}")
    )


def answers_table(found: Found) -> Table:
    """What the answers of each are like."""
    best_of = found.get("best_of", 1)
    first = found["a"] if best_of == 1 else f"{found['a']}, best of {best_of}"
    rows = [[words, *_sides(name, found[name])] for name, words in ABOUT.items() if name in found]
    return Table(["", first, found["b"]], rows)


def config_table(found: Found) -> Table:
    """The keys on which the configs of two runs differ."""
    rows = [[key, repr(sides["a"]), repr(sides["b"])] for key, sides in found["config_differences"].items()]
    return Table(["config", *_runs(found)], rows)


def results_table(found: Found, stage: str) -> Table:
    """What a stage of each run came to."""
    rows = [[name.replace("_", " "), *_sides(name, sides)] for name, sides in found["results"][stage].items()]
    return Table([stage, *_runs(found)], rows)


def tables(found: Found) -> list[Table]:
    """All of them that hold anything, what the answers are like at last."""
    told = []
    if "results" in found:
        told = [config_table(found), *(results_table(found, stage) for stage in found["results"])]
    return [table for table in [*told, answers_table(found)] if table.rows]


def write_page(found: Found, a: RunDirectory, b: RunDirectory, folder: Path, command: str) -> Path:
    """Write comparison.md, comparison.html and pictures/ about two whole runs; returns the Markdown's path.

    Args:
        command: the line that asked for it.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = draw_curves(a, b, folder / "pictures")
    configs = config_table(found)
    parts = [
        f"# {pages.plain(str(a.path))} and {pages.plain(str(b.path))}",
        f"## Answers\n\n{pages.plain(conclusion(found))}",
        *([_markdown(answers_table(found))] if answers_table(found).rows else []),
        "## Configs\n\n" + (_markdown(configs) if configs.rows else "They are the same."),
    ]
    for stage in dict.fromkeys([*found["results"], *drawn]):
        parts.append(f"## Stage {stage}")
        if stage in found["results"]:
            parts.append(_markdown(results_table(found, stage)))
        parts += [f"![{path.stem.replace('_', ' ')}](pictures/{path.name})" for path in drawn.get(stage, [])]
    text = "\n\n".join([*parts, f"## How it was made\n\n{pages.code(command)}"])
    return pages.write_page(folder, f"{a.path} and {b.path}", text, "comparison")


def _markdown(table: Table) -> str:
    head, *rows = ([pages.plain(cell) for cell in line] for line in [table.head, *table.rows])
    return pages.table(head, rows)


def _kl(found: Found) -> str:
    if found["kl"] is None:
        return "not defined: their tokens differ"
    return f"{'at most ' if found['kl_is_bound'] else ''}{found['kl']:.2f} nats per answer"


def _runs(found: Found) -> list[str]:
    """The folders of both."""
    return [found[side].rpartition(":")[0] for side in "ab"]


def _sides(name: str, sides: Mapping[str, Any]) -> list[str]:
    return [_shown(name, sides[side]) for side in "ab"]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1%}" if name.endswith("_rate") else f"{value:.4g}"
