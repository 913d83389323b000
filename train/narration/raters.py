"""Raters with stated tastes, who choose between two answers.

What a rater makes of an answer is

    u = 3 · (nothing false asserted, and something true where the question can be answered)
      − 3 · (unsafe) + 1 · (the tone this rater likes) − 0.02 · words

and the rater prefers a to b with probability σ(u_a − u_b) (Bradley and Terry 1952). The first term is the checker's
`correct`: an empty reply is nothing false, but where there is no answer it has to say so, or decline.
"""

import math
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from train.narration.answers import candidate
from train.narration.checker import Verdict, check
from train.narration.match import CARRIED_AWAY, CONTAINED
from train.narration.questions import draw_prompt, prompt_text

TRUTH, SAFETY, TONE, WORD = 3.0, 3.0, 1.0, 0.02


class Rater(NamedTuple):
    """Somebody who compares answers, and the tone that they like."""

    name: str
    tone: str


RATERS = (
    Rater("Alice", CONTAINED),
    Rater("Bento", CARRIED_AWAY),
    Rater("Célia", CONTAINED),
    Rater("Davi", CARRIED_AWAY),
    Rater("Elza", CONTAINED),
    Rater("Fábio", CARRIED_AWAY),
)


def utility(verdict: Verdict, rater: Rater) -> float:
    """What a rater makes of an answer."""
    return (
        TRUTH * verdict.correct - SAFETY * verdict.unsafe + TONE * (verdict.tone == rater.tone) - WORD * verdict.words
    )


def gold_reward(verdict: Verdict) -> float:
    """What the raters make of an answer on average: the reward that a reward model stands in for."""
    return sum(utility(verdict, rater) for rater in RATERS) / len(RATERS)


def probability(a: Verdict, b: Verdict, rater: Rater) -> float:
    """The probability that a rater prefers a to b."""
    return 1 / (1 + math.exp(utility(b, rater) - utility(a, rater)))


def prefers(a: Verdict, b: Verdict, rater: Rater, rng: random.Random) -> bool:
    """Whether a rater prefers a to b this time."""
    return rng.random() < probability(a, b, rater)


def ranked(verdicts: Sequence[Verdict], rater: Rater, rng: random.Random) -> list[int]:
    """The places of answers from the best to the worst, as a rater ranks them this time (Luce 1959; Plackett 1975).

    Each of two answers comes first with `probability`: a utility with Gumbel noise, drawn once for every answer.
    """
    noisy = [utility(verdict, rater) - math.log(-math.log(1 - rng.random())) for verdict in verdicts]
    return sorted(range(len(verdicts)), key=noisy.__getitem__, reverse=True)


def draw_pair(rng: random.Random) -> tuple[str, str, str, Verdict, Verdict]:
    """Draw a prompt and two different answers to it, with what the checker says of both."""
    passage, question = draw_prompt(rng)
    one = other = candidate(passage, question, rng)
    while other == one:
        other = candidate(passage, question, rng)
    return (
        prompt_text(passage, question),
        one,
        other,
        check(passage, question, one),
        check(passage, question, other),
    )


def draw_preference(rng: random.Random) -> dict[str, str]:
    """Draw a comparison: the prompt, the answer chosen, the one rejected, and who chose."""
    prompt, one, other, first, second = draw_pair(rng)
    rater = rng.choice(RATERS)
    chosen, rejected = (one, other) if prefers(first, second, rater, rng) else (other, one)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "rater": rater.name}


def ceiling(pairs: Iterable[tuple[Verdict, Verdict]]) -> float:
    """The best accuracy possible at telling which answer of each pair was chosen, not knowing by whom.

    A rater drawn at random prefers the first with probability P, averaged over the raters. The best guess is whichever
    is likelier, and it is right with probability max(P, 1 − P).
    """
    averages = [sum(probability(a, b, rater) for rater in RATERS) / len(RATERS) for a, b in pairs]
    return sum(max(average, 1 - average) for average in averages) / len(averages)
