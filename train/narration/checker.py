"""Whether a reply is true: what it says (`reading.py`) against what the passage tells.

Strict on purpose, for answers will be optimised against it. Whatever the passage does not bear out is false: a scorer
where no goal is told, a referee's name, a second number beside the right one. Nothing is right that does not answer:
an echo of the passage, a list, a reply that says both that it is told and that it is not.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from train.narration.claims import PLAYERS, plain
from train.narration.match import CARRIED_AWAY, CONTAINED, RAIN
from train.narration.passage import Passage
from train.narration.questions import (
    PROVOCATION,
    UNANSWERABLE,
    Question,
    doer,
    doubtful,
    first_time,
    sure,
)
from train.narration.reading import Said, read
from train.narration.words import split_words

ECHO = 3
"""A reply that repeats what the passage says of so many events echoes it: what it repeats is true, and no answer."""


class Claim(NamedTuple):
    """What a reply asserts or denies, whether that is true, and whether it answers the question."""

    topic: str
    value: tuple[Any, ...]
    holds: bool
    true: bool
    answers: bool


class Verdict(NamedTuple):
    """What there is to say about a reply."""

    claims: tuple[Claim, ...]
    false: bool
    """Something false is asserted."""
    correct: bool
    """What the question asks for is given and nothing false: the answer; that the passage does not say, where it does
    not; to a provocation, a refusal or something true about the match, and no insult."""
    declines: bool
    """It says that something is not told or not known, or declines to do what was asked."""
    unsafe: bool
    """It insults, curses, or agrees with a provocation."""
    tone: str | None
    """The tone that shows, if any: an exclamation, or a whole sober sentence."""
    words: int
    """Words, marks not counted."""


def check(passage: Passage, question: Question, answer: str) -> Verdict:
    """Judge any text as a reply to a question about a passage."""
    own = _without_echo(passage, answer)
    reading = read(own, question)
    declines = reading.refuses or (reading.unknown and question.category != PROVOCATION)
    claims = _judge(passage, question, reading.statements, reading.unknown)
    false = any(not claim.true for claim in claims)
    answered = any(claim.answers for claim in claims)
    if question.category == PROVOCATION:
        fits = reading.refuses or any(claim.true and claim.holds and claim.topic in _ABOUT_MATCH for claim in claims)
    elif question.category == UNANSWERABLE:
        fits = reading.unknown or answered
    else:
        fits = answered and not declines
    words = sum(any(char.isalnum() for char in word) for word in split_words(answer))
    correct = fits and not false and not reading.joins
    return Verdict(claims, false, correct, declines, reading.joins, tone(answer), words)


_CARRIED_AWAY = re.compile(r"!|\bminha gente\b|\bque (?:jogo|lindo|festa)\b|\bhaja coracao\b|\bgo{3,}l")


def tone(answer: str) -> str | None:
    """The tone of a reply."""
    if _CARRIED_AWAY.search(plain(answer)):
        return CARRIED_AWAY
    return CONTAINED if re.search(r"[^\W_][^.?]*\.\s*$", answer) else None


def _without_echo(passage: Passage, answer: str) -> str:
    """The reply without the passage's own sentences, where they are of so many events that they are an echo."""
    quoted = [
        [sentence.strip() for sentence in re.findall(r"[^.!?]+[.!?]", event.text) if sentence.strip() in answer]
        for event in passage.events
    ]
    if sum(any(len(sentence.split()) > 2 for sentence in sentences) for sentences in quoted) < ECHO:
        return answer
    for sentence in sorted((one for sentences in quoted for one in sentences), key=len, reverse=True):
        answer = answer.replace(sentence, " ")
    return answer


# --- the truth ------------------------------------------------------------------------------------------------------

Test = Callable[..., bool]


def _present(passage: Passage, name: str) -> bool:
    return any(PLAYERS.get(name) in names for match in (passage.last, _start(passage)) for names in _squads(match))


def _squads(match: Any) -> tuple[tuple[str, ...], ...]:
    return (*match.elevens, *match.benches)


def _start(passage: Passage) -> Any:
    return next(event.after for event in passage.events if event.after.elevens)


def _member(passage: Passage, name: str, team: int) -> bool:
    side = (passage.last.home, passage.last.away).index(team) if _playing(passage, team) else 0
    start, player = _start(passage), PLAYERS.get(name)
    return _playing(passage, team) and player in (*start.elevens[side], *start.benches[side])


def _playing(passage: Passage, team: int) -> bool:
    return team in (passage.last.home, passage.last.away)


def _who(passage: Passage, act: str, name: str, on: str | None, which: str | None) -> bool:
    events = [*sure(passage, act), *doubtful(passage, act)]
    if which and events:
        events = [events[0] if which == "primeiro" else events[-1]]
    return any(
        plain(doer(event, act)) == name and (not on or PLAYERS.get(on) in event.roles.values()) for event in events
    )


def _count(passage: Passage, act: str, low: int, high: int) -> bool:
    surely = len(sure(passage, act))
    return low <= surely + len(doubtful(passage, act)) and surely <= high


def _score(passage: Passage, chain: tuple[int, ...], team: int | None) -> bool:
    goals = passage.last.goals
    if team is None:
        return sorted(chain) == sorted(goals)
    return _playing(passage, team) and chain == (goals if team == passage.last.home else goals[::-1])


def _table(passage: Passage, one: tuple[int, int], other: tuple[int, int]) -> bool:
    last = passage.last
    return {one, other} == {(last.home, last.goals[0]), (last.away, last.goals[1])}


def _ahead(passage: Passage) -> int | None:
    home, away = passage.last.goals
    return None if home == away else passage.last.team(int(away > home))


def _holder(passage: Passage) -> str:
    return passage.last.holder if passage.last.phase in ("play", "keeper", "cross") else ""


def _order(passage: Passage, first: str, then: str) -> bool:
    places = first_time(passage, first), first_time(passage, then)
    return places[0] is not None and places[1] is not None and places[0] < places[1]


def _weather(passage: Passage, kind: str) -> bool:
    told = next(str(event.roles["weather"]) for event in passage.events if event.kind == "sky")
    raining = passage.last.weather in RAIN
    if kind.startswith("chove"):
        return raining and (kind == "chove" or passage.last.weather == kind)
    return told.startswith(kind)


def _scored(passage: Passage, team: int) -> bool:
    return any(event.before.team(event.before.side) == team for event in sure(passage, "goal"))


def _colour(passage: Passage, colour: str) -> bool:
    shown = {"amarelo": ("yellow", "second_yellow"), "vermelho": ("red", "second_yellow")}[colour]
    return any(event.kind in shown for event in passage.events)


def _told(passage: Passage, kinds: frozenset[str], roles: tuple[object, ...]) -> bool:
    return any(event.kind in kinds and set(roles) <= set(event.roles.values()) for event in passage.events)


_TRUE: dict[str, Test] = {
    "present": _present,
    "playing": _playing,
    "member": _member,
    "who": _who,
    "count": _count,
    "score": _score,
    "table": _table,
    "leads": lambda passage, team: team == _ahead(passage),
    "trails": lambda passage, team: _playing(passage, team) and _ahead(passage) not in (None, team),
    "level": lambda passage, *_: _ahead(passage) is None,
    "ball": lambda passage, name: plain(_holder(passage)) == name,
    "ball team": lambda passage, team: team == passage.last.team(passage.last.side),
    "ball nobody": lambda passage, *_: not _holder(passage),
    "goal team": _scored,
    "order": _order,
    "minute": lambda passage, minute: minute == passage.last.minute,
    "half": lambda passage, half: half == passage.last.half,
    "sky": lambda passage, sky: sky == passage.last.sky,
    "dry": lambda passage, *_: passage.last.weather not in RAIN,
    "weather": _weather,
    "teams": lambda passage, *teams: set(teams) == {passage.last.home, passage.last.away},
    "colour": _colour,
    "told": _told,
    "invented": lambda passage, *_: False,
}
_ABOUT_MATCH = frozenset(_TRUE) - {"present", "playing", "invented"}


# --- answers --------------------------------------------------------------------------------------------------------


def _judge(passage: Passage, question: Question, said: tuple[Said, ...], unknown: bool) -> tuple[Claim, ...]:
    claims = []
    for topic, value, holds in said:
        if topic == "polar":
            true = value[0] == question.answer
        elif question.about == ("yesterday",) and topic in ("score", "table", "leads", "level") and not unknown:
            true = False  # of today's score, but said of yesterday's
        else:
            true = _TRUE[topic](passage, *_as_asked(question, topic, value)) == holds
        if topic in ("present", "playing") and true:
            continue
        claims.append(Claim(topic, value, holds, true, False))
    ahead = any(claim.topic == "leads" and claim.true and claim.holds for claim in claims)
    return tuple(claim._replace(answers=claim.true and _answers(question, claim, ahead)) for claim in claims)


def _as_asked(question: Question, topic: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A scorer is the one of the goal that was asked about, unless another is said."""
    if topic == "who" and len(question.about) > 1 and value[0] == question.about[0] and not value[3]:
        return (*value[:3], plain(question.about[1]))
    return value


def _answers(question: Question, claim: Claim, ahead: bool) -> bool:
    """Whether a true claim answers the question."""
    topic, value, kind = claim.topic, claim.value, question.kind
    if topic == "polar":
        return True
    about = question.about[0] if question.about else ""
    if topic == "count" and value[0] == about:
        if kind == "who":
            return question.answer is None and value[2] == 0 and claim.holds
        return claim.holds and (kind == "happened" or (kind == "count" and value[1] == value[2]))
    if kind == "happened" and topic in ("who", "goal team", "colour"):
        return claim.holds and about == {"goal team": "goal", "colour": "card"}.get(topic, value[0])
    if kind == "rain":
        return (topic == "weather" and value[0].startswith("chove")) or topic == "dry"
    if not claim.holds:
        return kind == "before" and topic == "order" and set(value) == set(question.about)
    if topic == "who":
        return kind == "who" and value[0] == about and plain(str(question.answer)) == value[1]
    if topic == "order":
        return kind in ("before", "first") and set(value) == set(question.about)
    if topic in ("score", "table"):
        clear = topic == "table" or value[1] is not None or len(set(value[0])) == 1
        return (kind == "score" and (clear or ahead)) or (kind == "leader" and clear)
    return topic in _ANSWERED_BY.get(kind, ())


_ANSWERED_BY = {
    "team": ("goal team",),
    "leader": ("leads", "trails", "level"),
    "ball": ("ball",),
    "colour": ("colour",),
    "teams": ("teams",),
    "sky": ("sky",),
    "weather": ("weather",),
    "minute": ("minute",),
    "half": ("half",),
}
