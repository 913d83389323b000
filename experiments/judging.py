"""Who judges between two models' answers, and what the judgements come to.

The gold reward knows the truth of the narrator's world; a reward model has learned what people choose; people have
chosen themselves, and a store keeps it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.alignment import (
    Pairs,
    count_words,
    length_controlled_win_rate,
    outcomes,
    win_rate,
    win_rate_interval,
)
from model.errors import UserError
from serve.store import LEFT, RIGHT, SKIP, TIE, Choice, Store
from train.run_directory import RunDirectory
from train.trained import saved_stages

FOR_THE_LEFT = {LEFT: 1, TIE: 0, RIGHT: -1}


class Judgements(NamedTuple):
    """What a judge made of each comparison."""

    outcomes: Pairs
    """1 where a's answer is the better one, 0 where b's is, 1/2 for a tie."""
    longer: Pairs
    """Words by which a's answer is the longer one."""

    def summary(self) -> dict[str, Any]:
        """What they come to, by name."""
        return {
            "win_rate": win_rate(self.outcomes),
            "win_rate_interval": list(win_rate_interval(self.outcomes)),
            "length_controlled_win_rate": length_controlled_win_rate(self.outcomes, self.longer),
        }


def judge_by_scores(a: Sequence[str], b: Sequence[str], of_a: Sequence[float], of_b: Sequence[float]) -> Judgements:
    """The answer that scores higher is the better one.

    Args:
        a, b: the answers of both to the same prompts; `of_a` and `of_b` are their scores.
    """
    longer = [count_words(one) - count_words(other) for one, other in zip(a, b, strict=True)]
    return Judgements(outcomes(of_a, of_b), np.array(longer, np.float64))


def judge_by_choices(choices: Sequence[Choice], a: str, b: str) -> Judgements:
    """What people chose between an answer by a and one by b, on whichever sides they were shown; skips are left out.

    One judgement for each two answers, the mean over those who saw both: people agree more about the same two than
    about others, so that each for itself would make intervals too narrow.

    Args:
        a, b: names of models as `source_name` has them.
    """
    by_pair: dict[tuple[Any, str, str], list[float]] = {}
    for choice in choices:
        if choice.choice != SKIP and _sources(choice) == tuple(sorted((a, b))):
            left = choice.left_source == a
            answers = (choice.left, choice.right) if left else (choice.right, choice.left)
            outcome = (1 + (1 if left else -1) * FOR_THE_LEFT[choice.choice]) / 2
            by_pair.setdefault((choice.prompt, *answers), []).append(outcome)
    longer = [count_words(one) - count_words(other) for _, one, other in by_pair]
    return Judgements(np.array([np.mean(of) for of in by_pair.values()]), np.array(longer, np.float64))


def judge_by_store(path: Path, a: str, b: str) -> Judgements:
    """What people chose between the answers of two models, from a store of choices.

    Raises:
        UserError: no such store, no choice between these two, or the same model twice.
    """
    if not path.is_file():
        raise UserError(f"--judge 'store:{path}': there is no file {str(path)!r}.")
    if a == b:
        raise UserError(f"--judge 'store:{path}' cannot tell {a!r} from itself; name two models.")
    choices = Store(path).choices()
    found = judge_by_choices(choices, a, b)
    if not len(found.outcomes):
        pairs = Counter(_sources(choice) for choice in choices if choice.choice != SKIP)
        there = "; ".join(f"{one!r} and {other!r} ({count})" for (one, other), count in pairs.most_common())
        raise UserError(f"{str(path)!r} holds no choice between {a!r} and {b!r}. It has: {there or 'none at all'}.")
    return found


def source_name(spec: str) -> str:
    """What a store calls the model DIR or DIR:STAGE: with its stage, by default the last one with a checkpoint.

    Raises:
        UserError: a folder that holds no run, or none that continues text.
    """
    if ":" in spec and not Path(spec).is_dir():  # its run need not be here
        directory, _, stage = spec.rpartition(":")
        return f"{Path(directory)}:{stage}"
    run = RunDirectory(Path(spec))
    run.config()  # says it where there is no run at all
    if not (stages := saved_stages(run)):
        raise UserError(f"{spec!r} has no checkpoint yet.")
    return f"{run.path}:{stages[-1]}"


def _sources(choice: Choice) -> tuple[str, ...]:
    """Who wrote the two answers, whichever side they stood on."""
    return tuple(sorted((choice.left_source or "unknown", choice.right_source or "unknown")))
