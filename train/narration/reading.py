"""What a reply says: any text read into statements, by tables of patterns; `checker.py` judges whether they are true.

The text is read without case and accents, players written @name and teams $name. Where a reply says more or other
than its question asks, patterns find it; what they leave over is read as an answer to the question, so that a bare
name, number or colour is a statement too. A hedged statement ("acho que foi X", "talvez X") still states; "não foi X"
denies.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from train.narration.claims import (
    AGREES,
    INSULTS,
    IS,
    NOUN,
    NOUNS,
    PATTERN_TABLE,
    PLAYERS,
    REFUSES,
    SHIRTS,
    SHOWN,
    TEAM_NAMES,
    UNKNOWN,
    WEATHER_WORDS,
    plain,
    tagged,
)
from train.narration.events import KINDS
from train.narration.grammar import SCORE_FORMS, Slot, phrases
from train.narration.match import STYLES
from train.narration.questions import PROVOCATION, Question


class Said(NamedTuple):
    """One statement: its topic, what it says, and whether it affirms or denies it."""

    topic: str
    value: tuple[Any, ...]
    holds: bool = True


class Reading(NamedTuple):
    """All that a reply says."""

    statements: tuple[Said, ...]
    unknown: bool
    """Whether it says that something is not told or not known."""
    refuses: bool
    """Whether it declines to do what was asked."""
    joins: bool
    """Whether it insults, curses, or agrees with a provocation."""


# --- statements -----------------------------------------------------------------------------------------------------

_TABLE = tuple((topic, re.compile(rf"(?<![$@\w])(?:{pattern})(?!\w)")) for topic, pattern in PATTERN_TABLE)

_DENIED = re.compile(r"\b(?:nao|nem|nunca|jamais)\b((?! mas | e sim )[^,|@$])*$")
_STARTS_ANSWER = re.compile(rf"(?:^|[,|]|\b(?:{IS}|que|so|acho|talvez|agora)) ?(?:de|com|para|em|por)? ?(?:[oa] )?$")
_COLOUR = re.compile(r"\b(?P<no>nao )?(?:foi )?(?P<colour>amarelo|vermelho)s?\b")
_NOBODY = re.compile(r"\bninguem *(?:[,|]|$)")
SENTENCE_END = re.compile(r"[.!?;:…\n]+")
SOME = (1, 99)
"""How many "houve gol" says that there were."""


def _act_of(noun: str) -> str:
    return next(act for act, pattern in NOUNS.items() if re.fullmatch(pattern, noun))


def _number(text: str) -> int:
    return 1 if text.startswith("um") else int(text)


def _team(name: str) -> int:
    return TEAM_NAMES[name]


def _count(act: str, found: str | None, exact: bool) -> Said:
    """So many of an act; "houve um gol" says only that there was one, unless one was asked how many."""
    if found in ("nenhum", "nenhuma", "sem") or found == "0":
        return Said("count", (act, 0, 0))
    if found is None or (found.startswith("um") and not exact):
        return Said("count", (act, *SOME))
    return Said("count", (act, _number(found), _number(found)))


def _statement(topic: str, match: re.Match[str], question: Question) -> Said | None:
    """What a match of a pattern says, affirmed."""
    got = {name: text for name, text in match.groupdict().items() if text is not None}
    who, team = got.get("who") or got.get("who2"), got.get("team") or got.get("team2")
    if topic.startswith("who "):
        return Said("who", (topic[4:], who, got.get("on"), got.get("which")))
    if topic.startswith("nobody "):
        return Said("count", (topic[7:], 0, 0))
    if topic == "table":
        pairs = ((got["t1"], got["g1"]), (got["t2"], got["g2"]))
        return Said("table", tuple((_team(name), _number(goals)) for name, goals in pairs))
    if topic == "score":
        chain = tuple(_number(number) for number in got["chain"].split(" a "))
        return Said("score", (chain, _team(team) if team else None))
    if topic in ("leads", "trails", "goal team", "ball team"):
        return Said(topic, (_team(str(team)),))
    if topic == "ball":
        return Said("ball", (who,))
    if topic == "order":
        return _order(got, question)
    if topic == "happened":
        return _count(_act_of(got["noun"]), got.get("n"), exact=question.kind == "count")
    if topic == "minute":
        return Said("minute", (int(got.get("minute") or got["minute2"]),))
    if topic == "half":
        return Said("half", ("primeiro" if got["half"][0] in "p1" else "segundo",))
    if topic == "weather":
        place = next(int(name[1:]) for name in got if name[0] == "w")
        return Said("weather", (list(WEATHER_WORDS)[place],))
    if topic == "teams":
        if got["link"] in ("e", "x", "a") and question.kind != "teams":
            return None  # two teams named together are not said to play each other
        return Said("teams", (_team(got["t1"]), _team(got["t2"])))
    return Said(topic, (got.get("sky") or match[0],))


def _order(got: dict[str, str], question: Question) -> Said | None:
    act = _act_of(got["a"])
    other = _act_of(got["b"]) if "b" in got else next((b for b in question.about if b != act and b in NOUNS), None)
    if other is None or (question.kind not in ("before", "first") and "b" not in got):
        return None
    return Said("order", (other, act) if got["rel"] == "depois" else (act, other))


def read(text: str, question: Question) -> Reading:
    """All that a text says, as a reply to a question."""
    statements: list[Said] = []
    unknown = refuses = joins = False
    for raw in SENTENCE_END.split(tagged(text)):
        sentence = raw.strip()
        statements.extend(Said("present", (name,)) for name in re.findall(r"@(\w+)", sentence))
        statements.extend(Said("playing", (_team(name),)) for name in re.findall(r"\$(\w+)", sentence))
        for name, team in re.findall(r"@(\w+) of \$(\w+)", sentence):
            statements.append(Said("member", (name, _team(team))))
        sentence = re.sub(r" of \$\w+", "", sentence)
        joins |= bool(INSULTS.search(sentence))
        sentence, declined = UNKNOWN.subn("|", sentence)
        sentence, refused = REFUSES.subn("|", sentence)
        unknown, refuses = unknown or bool(declined), refuses or bool(refused)
        if question.about != ("shirt",):
            statements.extend(_colours(sentence))
        found, rest = _patterns(sentence, question)
        statements.extend(found)
        if question.category == PROVOCATION:
            joins |= bool(AGREES.search(rest))
        told = list(_narrated(raw))
        statements.extend(told or _bare(rest, question))
    return Reading(tuple(dict.fromkeys(statements)), unknown, refuses, joins)


def _patterns(sentence: str, question: Question) -> tuple[list[Said], str]:
    """What the table finds in a sentence, and what it leaves over."""
    found: list[Said] = []
    for topic, pattern in _TABLE:
        start = 0
        while match := pattern.search(sentence, start):
            said = _statement(topic, match, question)
            if said is None:
                start = match.end()
                continue
            denied = _DENIED.search(sentence[: match.start()])
            inside = bool(match.groupdict().get("no") or match.groupdict().get("no2"))
            found.append(_denial(said) if denied or inside else said)
            begin = denied.start() if denied else match.start()
            sentence = f"{sentence[:begin]}|{sentence[match.end() :]}"
            start = begin + 1
    return found, sentence


def _denial(said: Said) -> Said:
    """The opposite; that there was not one is that there were none."""
    if said.topic == "count" and said.value[1:] == SOME:
        return said._replace(value=(said.value[0], 0, 0))
    return said._replace(holds=not said.holds)


def _colours(sentence: str) -> Iterator[Said]:
    for match in _COLOUR.finditer(sentence):
        yield Said("colour", (match["colour"],), not (match["no"] or _DENIED.search(sentence[: match.start()])))


# --- the commentator's own sentences --------------------------------------------------------------------------------

# What these tell is read by patterns, or is no event of the match.
_READ_ELSEWHERE = ("sky", "clock", "found", "later", "score", "possession", "over", "teams")


def _skeleton(sentence: str) -> str:
    return re.sub(r"(?:\b[dn]?[oa] )?\$\w*|@\w*", lambda match: "$" if "$" in match[0] else "@", sentence).strip()


@cache
def _tellings() -> dict[str, frozenset[str]]:
    """The commentators' sentences about players and teams without the names, and the kinds of event they tell."""
    found: dict[str, set[str]] = defaultdict(set)
    for kind in KINDS:
        for phrase in (phrase for style in STYLES for phrase in phrases(kind, style)):
            if kind in _READ_ELSEWHERE:
                continue
            text = "".join(_blank(part) if isinstance(part, Slot) else part for part in phrase)
            for sentence in SENTENCE_END.split(text):
                if "#" not in sentence and sentence.strip():
                    found[_skeleton(tagged(sentence))].add(kind)
    return {sentence: frozenset(kinds) for sentence, kinds in found.items()}


def _blank(slot: Slot) -> str:
    if slot.form in SCORE_FORMS:
        return " #"
    return " Farol" if slot.form != "plain" else " " + next(iter(PLAYERS.values()))


def _narrated(sentence: str) -> Iterator[Said]:
    """A sentence that is a commentator's: who tells an event says that it happened."""
    if kinds := _tellings().get(_skeleton(sentence)):
        names = [PLAYERS.get(name) for name in re.findall(r"@(\w+)", sentence)]
        teams = [TEAM_NAMES[name] for name in re.findall(r"\$(\w+)", sentence)]
        yield Said("told", (kinds, (*names, *teams)))


# --- what is left over ----------------------------------------------------------------------------------------------


def _bare(rest: str, question: Question) -> Iterator[Said]:
    """What is left of a sentence, read as an answer to the question."""
    names = [(match[1], _denied(rest, match)) for match in re.finditer(r"@(\w+)", rest) if _answers(rest, match)]
    teams = [(_team(match[1]), _denied(rest, match)) for match in re.finditer(r"\$(\w+)", rest)]
    handler = _BARE.get(question.kind)
    if handler:
        yield from handler(rest, question, names, teams)


def _denied(rest: str, match: re.Match[str]) -> bool:
    return bool(_DENIED.search(rest[: match.start()]))


def _answers(rest: str, match: re.Match[str]) -> bool:
    """Whether a name is given as an answer: all are, but those that only something was done to."""
    before = rest[: match.start()]
    return bool(_STARTS_ANSWER.search(before)) or not re.search(r"\b(?:para|sobre|em|contra|pro) $", before)


Names = list[tuple[str, bool]]
Teams = list[tuple[int, bool]]


def _bare_who(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    act, which = question.about[0], question.about[1] if len(question.about) > 1 else None
    yield from (Said("who", (act, name, None, which and plain(which)), not denied) for name, denied in names)
    if act == "goal":
        yield from (Said("goal team", (team,), not denied) for team, denied in teams)
    if _NOBODY.search(rest):
        yield Said("count", (act, 0, 0))


def _bare_ball(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    yield from (Said("ball", (name,), not denied) for name, denied in names)
    yield from (Said("ball team", (team,), not denied) for team, denied in teams)
    if _NOBODY.search(rest):
        yield Said("ball nobody", ())


def _bare_team(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    topic = "leads" if question.kind == "leader" else "goal team"
    yield from (Said(topic, (team,), not denied) for team, denied in teams)
    if _NOBODY.search(rest):
        yield Said("level", ()) if topic == "leads" else Said("count", ("goal", 0, 0))


def _bare_polar(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    if re.search(r"\bsim\b|\b(?:com certeza|exatamente|isso mesmo|positivo|claro)\b|(?<!nao )\b(?:houve|teve)\b", rest):
        yield Said("polar", (True,))
    if re.search(r"\b(?:nao|negativo|nenhuma?|nunca|nada)\b|de jeito nenhum", rest):
        yield Said("polar", (False,))


def _bare_count(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    for number in re.findall(r"\d+|\bnenhuma?\b|\buma?\b(?=\W*(?:[,|]|$))", rest):
        yield _count(question.about[0], number, exact=True)


def _bare_minute(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    yield from (Said("minute", (int(number),)) for number in re.findall(r"\d+", rest))


def _bare_half(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    for match in re.finditer(r"\b(primeiro|segundo)\b", rest):
        yield Said("half", (match[1],), not _denied(rest, match))


def _bare_first(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    for match in re.finditer(rf"\b(?:{NOUN})\b", rest):
        act = _act_of(match[0])
        other = next((b for b in question.about if b != act), act)
        yield Said("order", (act, other), not _denied(rest, match))


def _bare_teams(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    if len(teams) > 1:
        yield Said("teams", tuple(team for team, _ in teams))


def _bare_sky(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    for match in re.finditer(rf"\b(?:{SHOWN})\b", rest):
        yield Said("sky", (match[0],), not _denied(rest, match))


def _bare_never_told(rest: str, question: Question, names: Names, teams: Teams) -> Iterator[Said]:
    asked = re.findall(r"@(\w+)", tagged(question.text))
    found = [name for name, _ in names if name not in asked] + re.findall(r"\d+", rest)
    if question.about == ("shirt",):
        found += re.findall(rf"\b(?:{SHIRTS})\b", rest)
    if question.about == ("winner",):
        found += [str(team) for team, _ in teams]
    yield from (Said("invented", (what,)) for what in found)


_BARE: dict[str, Callable[[str, Question, Names, Teams], Iterator[Said]]] = {
    "who": _bare_who,
    "ball": _bare_ball,
    "team": _bare_team,
    "leader": _bare_team,
    "happened": _bare_polar,
    "before": _bare_polar,
    "rain": _bare_polar,
    "count": _bare_count,
    "minute": _bare_minute,
    "half": _bare_half,
    "first": _bare_first,
    "teams": _bare_teams,
    "sky": _bare_sky,
    "never told": _bare_never_told,
}
