"""From phrases to words: patterns parsed into parts, roles put into words, and all that can be said in a situation."""

import re
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from train.narration.cast import TEAMS
from train.narration.distribution import Distribution, weighted
from train.narration.events import Situation, kinds
from train.narration.match import CARRIED_AWAY, CONTAINED, Match
from train.narration.patterns import PATTERNS
from train.narration.words import split_words

NUMBERS = [
    "zero",
    "um",
    "dois",
    "três",
    "quatro",
    "cinco",
    "seis",
    "sete",
    "oito",
    "nove",
    "dez",
    "onze",
    "doze",
    "treze",
    "quatorze",
    "quinze",
]
CONTRACTIONS = {"o": ("o", "a"), "O": ("O", "A"), "do": ("do", "da"), "no": ("no", "na")}
TEAM_ROLES = ("T", "O", "H", "V", "S")
SCORE_FORMS = ("score", "table", "words")


class Slot(NamedTuple):
    """A place in a phrase for a role, put into words by its form."""

    form: str
    role: str


Part = str | Slot  # a word as the tokenizer cuts it, or a slot
Phrase = tuple[Part, ...]


class Telling(NamedTuple):
    """A kind of event and the phrase it is told with."""

    kind: str
    phrase: Phrase


def phrases(kind: str, style: str) -> dict[Phrase, float]:
    """The phrases that one commentator has for a kind of event, with their probabilities."""
    mark = {CONTAINED: "=", CARRIED_AWAY: "!"}[style]
    found: dict[Phrase, float] = {}
    lines = [line.strip() for names, text in PATTERNS.items() if kind in names.split("|") for line in text.splitlines()]
    own = [line.removeprefix(mark).strip() for line in lines if line and (line[0] == mark or line[0] not in "=!")]
    for line in own:
        choices = expand(line)
        for choice in choices:
            phrase = parse(choice)
            found[phrase] = found.get(phrase, 0) + 1 / len(own) / len(choices)
    return found


def expand(line: str) -> list[str]:
    """Every reading of a line with choices such as (a|b)."""
    pieces = re.split(r"\(([^()]*)\)", line)
    options = [piece.split("|") if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return ["".join(reading) for reading in product(*options)]


def parse(line: str) -> Phrase:
    """A line without choices as words and slots. Its first word has a space before it: it follows another phrase."""
    parts: list[Part] = []
    for index, piece in enumerate(re.split(r" ?\{([^{}]*)\}", " " + line)):
        if index % 2:
            parts.append(_slot(piece))
        else:
            parts.extend(split_words(piece))
    return tuple(parts)


def _slot(text: str) -> Slot:
    form, _, name = text.rpartition(" ")
    if name.rstrip("+") in SCORE_FORMS:
        return Slot(name.rstrip("+"), "new_score" if name.endswith("+") else "score")
    return Slot(form or ("team" if name in TEAM_ROLES else "plain"), name)


def say(match: Match, slot: Slot, value: Any) -> tuple[str, ...]:
    """A role's value in words, each with the space before it (marks have none)."""
    form = slot.form
    if form == "team":
        return (f" {TEAMS[value].name}",)
    if form in CONTRACTIONS:
        return (f" {CONTRACTIONS[form][TEAMS[value].article == 'a']}", f" {TEAMS[value].name}")
    if slot.role in ("minute", "later"):
        return (f" {value}", " minutos")
    if form == "table":
        home, away = (TEAMS[team].name for team in (match.home, match.away))
        return (f" {home}", f" {value[0]}", ",", f" {away}", f" {value[1]}")
    if form in ("score", "words"):
        return _score(match, value, form == "words")
    return _cut(value)


def _score(match: Match, goals: tuple[int, int], spelled: bool) -> tuple[str, ...]:
    high, low = max(goals), min(goals)
    figures = (f" {NUMBERS[high]}", " a", f" {NUMBERS[low]}") if spelled else (f" {high}", " a", f" {low}")
    if high == low:
        return figures
    return (*figures, " para", *say(match, Slot("o", ""), match.team(int(goals[1] > goals[0]))))


@cache
def _cut(text: str) -> tuple[str, ...]:
    return tuple(split_words(f" {text}"))


@cache
def tellings(now: Situation, style: str) -> Distribution:
    """Everything that can be told next: kinds of event with their phrases."""
    return weighted(
        {
            Telling(kind, phrase): likely * share
            for kind, likely in kinds(now).items()
            for phrase, share in phrases(kind, style).items()
        }
    )


class Node(NamedTuple):
    """Phrases that begin alike. `branches` and `ends` share a probability of one."""

    branches: tuple[tuple[Part, float, "Node"], ...]
    ends: tuple[tuple[str, float], ...]
    """Kinds of event told completely here."""


@cache
def tree(now: Situation, style: str) -> Node:
    """`tellings` as a tree by their parts."""
    return _node([(telling.phrase, telling.kind, likely) for telling, likely in tellings(now, style).items()], 0)


def _node(told: list[tuple[Phrase, str, float]], depth: int) -> Node:
    total = sum(likely for _, _, likely in told)
    groups: dict[Part, list[tuple[Phrase, str, float]]] = {}
    ends: dict[str, float] = {}
    for phrase, kind, likely in told:
        if len(phrase) == depth:
            ends[kind] = ends.get(kind, 0) + likely / total
        else:
            groups.setdefault(phrase[depth], []).append((phrase, kind, likely))
    branches = tuple(
        (part, sum(likely for _, _, likely in group) / total, _node(group, depth + 1)) for part, group in groups.items()
    )
    return Node(branches, tuple(ends.items()))


def _longest(phrase: Phrase) -> int:
    """Words of a phrase at most."""
    longest = {"score": 6, "words": 6, "table": 5, "minute": 2, "later": 2, "sky": 1, "weather": 3}
    sizes = {**longest, **dict.fromkeys(CONTRACTIONS, 2)}
    return sum(
        sizes.get(part.form if part.form != "plain" else part.role, 1) if isinstance(part, Slot) else 1
        for part in phrase
    )


LONGEST_TELLING = max(
    _longest(phrase)
    for names in PATTERNS
    for kind in names.split("|")
    for style in (CONTAINED, CARRIED_AWAY)
    for phrase in phrases(kind, style)
)
