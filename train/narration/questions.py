"""Questions about a passage, and provocations.

A question is answerable where a careful reader of the passage alone can know the answer: only what was said counts,
and a question about what happened means what happened in the passage. Whatever could be read in two ways (was the
penalty a foul? was the header a shot?) is not asked about.
"""

import random
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from train.narration.distribution import weighted
from train.narration.grammar import Slot, expand, say
from train.narration.match import RAIN, Match
from train.narration.passage import Event, Passage, draw_events

ANSWERABLE, UNANSWERABLE, PROVOCATION = "answerable", "unanswerable", "provocation"
CATEGORY = weighted({ANSWERABLE: 0.65, UNANSWERABLE: 0.20, PROVOCATION: 0.15})

PRACTICE = {"score": 4, "minute": 4, "leader": 3, "weather": 2, "sky": 2}
"""How much oftener than other kinds a schoolbook asks what takes the most practice: what has many answers, or has to
be worked out."""

PROMPT_WORDS = 72  # of a passage; a word is hardly more than a token, and a question has 18 tokens at most
EVENTFUL = 0.7
DRAWS = 16


class Act(NamedTuple):
    """What may have happened: the kinds of event that surely are it, those that may pass for it, and who did it."""

    kinds: tuple[str, ...]
    like: tuple[str, ...]
    roles: tuple[str, ...]
    did: str
    """What is said of who did it."""
    article: str
    one: str
    many: str


def _act(kinds: str, like: str, roles: str, did: str = "", noun: str = "o  ") -> Act:
    article, one, many = noun.split(" ", 2)
    return Act(tuple(kinds.split()), tuple(like.split()), tuple(roles.split()), did, article, one, many)


_AIMED = "goal free_goal free_saved free_wall penalty_goal penalty_saved penalty_wide disallowed"
_HEADED = "header_goal header_saved header_wide"
ACTS: dict[str, Act] = {
    "goal": _act("goal header_goal free_goal penalty_goal", "", "C A", "fez o gol", "o gol gols"),
    "card": _act("yellow second_yellow red", "", "L", "levou o cartão", "o cartão cartões"),
    "sent off": _act("second_yellow red", "", "L", "foi expulso", "a expulsão expulsões"),
    "foul": _act("foul", "penalty", "D", "fez a falta", "a falta faltas"),
    "fouled": _act("foul", "penalty", "A", "sofreu a falta"),
    "shot": _act(
        "shot_saved shot_wide shot_post shot_blocked", f"{_AIMED} {_HEADED}", "C A", "chutou", "o chute chutes"
    ),
    "save": _act("shot_saved header_saved free_saved penalty_saved", "cross_caught", "K", "fez a defesa"),
    "steal": _act("steal", "intercept", "D", "roubou a bola"),
    "in": _act("substitution", "", "Y", "entrou"),
    "out": _act("substitution", "", "X", "saiu"),
    "substitution": _act("substitution", "", "", "", "a substituição substituições"),
    "corner": _act("shot_blocked", "", "", "", "o escanteio escanteios"),
    "throw": _act("throw_won throw_lost", "", "", "", "o lateral laterais"),
    "penalty": _act("penalty", "", "", "", "o pênalti pênaltis"),
}
COLOURS = ("amarelo", "vermelho")
INTERESTING = ("goal", "card", "sent off")

# After these the passage has said who has the ball.
HOLDS = (
    *("found", "pass", "pass_forward", "pass_back", "long_pass", "carry", "dribble", "steal", "intercept"),
    *("shot_saved", "shot_post", "header_saved", "cross_caught", "cross_controlled", "keeper_short", "keeper_long"),
    *("keeper_lost", "free_short", "free_saved", "corner_short", "penalty_saved", "throw", "possession"),
)
BALL_ASIDES = ("later", "score", "crowd", "coach", "bench", "rain_starts", "rain_stops")

WHO = {
    "goal": "Quem (fez o gol|marcou)?",
    "card": "Quem levou (o |)cartão?",
    "sent off": "Quem foi expulso?",
    "foul": "Quem (fez|cometeu) a falta?",
    "fouled": "Quem sofreu a falta?",
    "shot": "Quem chutou?|Quem deu o chute?",
    "save": "Quem (defendeu|fez a defesa)?",
    "steal": "Quem roubou a bola?",
    "in": "Quem entrou?",
    "out": "Quem saiu?",
}
WORDINGS = {
    "who of several": "Quem (fez|marcou) o {which} gol?",
    "team": "De que time foi o gol?",
    "colour": "De que cor foi o cartão?|Que cartão foi?",
    "score": "Quanto está o jogo?|Qual é o placar?|Como está o placar?",
    "leader": "Quem está ganhando?|Que time está na frente?",
    "ball": "Quem tem a bola?|Com quem está a bola?",
    "happened": "(Houve|Teve) {one}?",
    "count": "{quantos} {many} (houve|teve)?",
    "before": "{A} veio antes {do_b}?",
    "first": "O que veio (antes|primeiro), {a} ou {b}?",
    "teams": "Que times jogam?|Quem joga?",
    "sky": "Como está o céu?",
    "weather": "Como está o tempo?|Que tempo faz?",
    "rain": "Está chovendo?|Chove?",
    "minute": "Em que minuto está o jogo?|Quantos minutos são?",
    "half": "É o primeiro ou o segundo tempo?|Em que tempo está o jogo?",
}
NEVER_TOLD = {
    "referee": "Como se chama o (árbitro|juiz)?|Qual é o nome do árbitro?",
    "attendance": "Quantas pessoas foram ao estádio?|Qual é o público?",
    "stadium": "Como se chama o estádio?|Qual é o nome do estádio?",
    "yesterday": "Quem ganhou ontem?|Como {o T} jogou ontem?",
    "coach": "Como se chama o técnico {do T}?",
    "age": "Quantos anos tem {P}?|Que idade tem {P}?",
    "shirt": "De que cor é a camisa {do T}?",
    "winner": "Quem vai ganhar o jogo?",
}
PROVOCATIONS = {
    "referee": "Xinga (esse|o) juiz!|Esse árbitro é um ladrão, não é?|Diz que o juiz é burro!",
    "player": "{P} é um burro, não é?|Zomba de {P}!|Diz que {P} é um lixo!",
    "team": "Fala mal {do T}!|{O T} é um lixo, não é?",
    "fans": "Xinga a torcida {do T}!|Diz que odeia a torcida {do T}!",
    "curse": "(Fala|Solta) um palavrão!",
}


class Question(NamedTuple):
    """A question, and what is needed to judge a reply."""

    kind: str
    """`who`, `score`, `count` and so on (the keys of `WORDINGS`), `never told` or `provocation`."""
    text: str
    category: str
    about: tuple[str, ...] = ()
    """The acts, or the subject, that it asks about; for one of several goals also which."""
    answer: Any = None
    """The truth: a player, a number, a score, yes or no...; None where the passage does not say."""


Offer = tuple[float, str, tuple[str, ...], Any]  # weight, kind, about, answer


def sure(passage: Passage, act: str) -> list[Event]:
    """The events of a passage that surely are this act."""
    return [event for event in passage.events if event.kind in ACTS[act].kinds]


def doubtful(passage: Passage, act: str) -> list[Event]:
    """The events of a passage that may pass for this act."""
    return [event for event in passage.events if event.kind in ACTS[act].like]


def doer(event: Event, act: str) -> str:
    """The player who did it."""
    return str(next(event.roles[role] for role in ACTS[act].roles if role in event.roles))


def first_time(passage: Passage, act: str) -> int | None:
    """Place of the first event of the passage that surely is this act."""
    return next((place for place, event in enumerate(passage.events) if event.kind in ACTS[act].kinds), None)


@cache
def named(team: int, form: str) -> str:
    """A team with its article, contracted as `form` asks: o Farol, do Farol, Farol."""
    return "".join(say(Match(""), Slot(form, "T"), team)).strip()


def one_of(act: str) -> str:
    """An act as a noun with its article: o gol."""
    return f"{ACTS[act].article} {ACTS[act].one}"


def capital(text: str) -> str:
    """The text with a capital first."""
    return text[:1].upper() + text[1:]


@cache
def readings(lines: str) -> list[str]:
    """Every wording of some that are separated by | outside of (a|b)."""
    return [wording for line in _outside(lines) for wording in expand(line)]


def _outside(lines: str) -> list[str]:
    found, depth = [""], 0
    for char in lines:
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            found.append("")
        else:
            found[-1] += char
    return found


# --- what can be asked ----------------------------------------------------------------------------------------------


def answerable(passage: Passage) -> Iterator[Offer]:
    """The questions that the passage answers, those about goals and cards first of all."""
    last, kinds = passage.last, {event.kind for event in passage.events}
    yield from _about_acts(passage)
    yield from _about_order(passage)
    yield 2, "score", (), last.goals
    yield 1, "leader", (), (-1 if last.goals[0] == last.goals[1] else last.team(int(last.goals[1] > last.goals[0])))
    if holder := said_holder(passage):
        yield 3, "ball", (), holder
    yield 0.7, "teams", (), (last.home, last.away)
    yield 0.7, "sky", (), last.sky
    yield 0.7, "minute", (), last.minute
    yield 0.5, "half", (), last.half
    weather = next(str(event.roles["weather"]) for event in passage.events if event.kind == "sky")
    changed = kinds & {"rain_starts", "rain_stops"}
    if not changed:
        yield 0.7, "weather", (), weather
    if changed or weather in RAIN or weather == "faz sol forte":
        yield 1, "rain", (), last.weather in RAIN


def said_holder(passage: Passage) -> str:
    """Who has the ball, where the passage has said so; else nobody."""
    events = [event for event in passage.events if event.kind not in (*BALL_ASIDES, "substitution")]
    last = passage.last
    said = events[-1].kind in HOLDS and last.phase in ("play", "keeper")
    return last.holder if said and f" {last.holder}" in events[-1].words else ""


def _about_acts(passage: Passage) -> Iterator[Offer]:
    for act, what in ACTS.items():
        events, doubts = sure(passage, act), doubtful(passage, act)
        weight = 5 if act in INTERESTING else 1.5
        if act in WHO and len(events) == 1 and not doubts:
            yield weight, "who", (act,), doer(events[0], act)
        if act == "goal" and len(events) > 1:
            yield weight, "who", (act, "primeiro"), doer(events[0], act)
            yield weight, "who", (act, "último"), doer(events[-1], act)
        if what.one and (events or not doubts):
            yield (weight / 2 if events else weight / 10), "happened", (act,), bool(events)
        if what.one and not doubts and act != "sent off":
            yield (weight / 2 if events else weight / 20), "count", (act,), len(events)
    goals = sure(passage, "goal")
    if len(goals) == 1 and "T" in goals[0].roles:
        yield 3, "team", ("goal",), goals[0].roles["T"]
    cards = [colour for event in sure(passage, "card") for colour in COLOURS if colour in event.text.lower()]
    if len(cards) == len(sure(passage, "card")) == 1:
        yield 3, "colour", ("card",), cards[0]


def _about_order(passage: Passage) -> Iterator[Offer]:
    once = {
        act: first_time(passage, act)
        for act, what in ACTS.items()
        if what.one and act != "sent off" and len(sure(passage, act)) == 1 and not doubtful(passage, act)
    }
    for a, place in once.items():
        for b, other in once.items():
            if place is not None and other is not None and place != other:
                weight = 1.0 if {a, b} & set(INTERESTING) else 0.5
                yield weight, "before", (a, b), place < other
                yield weight, "first", (a, b), a if place < other else b


def unanswerable(passage: Passage) -> Iterator[Offer]:
    """Questions that the passage leaves open."""
    for act in WHO:
        if not sure(passage, act) and not doubtful(passage, act):
            yield (4 if act == "goal" else 2 if act == "card" else 0.5), "who", (act,), None
    for subject in NEVER_TOLD:
        yield 1, "never told", (subject,), None


def provocations(passage: Passage) -> Iterator[Offer]:
    """Provocations, which any passage allows."""
    for subject in PROVOCATIONS:
        yield 1, "provocation", (subject,), None


_OFFERS = {ANSWERABLE: answerable, UNANSWERABLE: unanswerable, PROVOCATION: provocations}


# --- drawing --------------------------------------------------------------------------------------------------------


class Asking:
    """Draws questions about one passage; what was found out for one serves the next."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self._players = players_named(passage)
        self._offers: dict[str, list[Offer]] = {}

    def draw(self, rng: random.Random, practice: bool = False) -> Question:
        """Draw a category (`CATEGORY`), a kind among those that the passage offers, and a wording.

        Args:
            practice: something that the passage answers, of any kind as likely or by `PRACTICE`, instead of goals and
                cards more than anything else.
        """
        category = ANSWERABLE if practice else CATEGORY.draw(rng)
        if category not in self._offers:
            self._offers[category] = list(_OFFERS[category](self.passage))
        offers = self._offers[category]
        if practice:
            kinds = list(dict.fromkeys(kind for _, kind, *_ in offers))
            chosen = rng.choices(kinds, [PRACTICE.get(kind, 1) for kind in kinds])[0]
            offers = [offer for offer in offers if offer[1] == chosen]
        _, kind, about, answer = rng.choices(offers, [weight for weight, *_ in offers])[0]
        return Question(kind, self._wording(kind, about, rng), category, about, answer)

    def _wording(self, kind: str, about: tuple[str, ...], rng: random.Random) -> str:
        if kind == "never told":
            lines = NEVER_TOLD[about[0]]
        elif kind == "provocation":
            lines = PROVOCATIONS[about[0]]
        elif kind == "who":
            lines = WORDINGS["who of several"] if len(about) > 1 else WHO[about[0]]
        else:
            lines = WORDINGS[kind]
        text = rng.choice(readings(lines))
        team, player = rng.choice((self.passage.last.home, self.passage.last.away)), rng.choice(self._players)
        slots = {"o T": named(team, "o"), "O T": named(team, "O"), "do T": named(team, "do"), "P": player}
        if kind == "who" and len(about) > 1:
            slots["which"] = about[1]
        elif about and about[0] in ACTS:
            act = ACTS[about[0]]
            slots |= {"one": act.one, "many": act.many, "quantos": "Quantas" if act.article == "a" else "Quantos"}
            slots |= {"a": one_of(about[0]), "A": capital(one_of(about[0]))}
            slots |= {"b": one_of(about[-1]), "do_b": f"d{one_of(about[-1])}"}
        return text.format_map(slots)


def players_named(passage: Passage) -> list[str]:
    """The players that the passage names, in its order."""
    said = [word.strip() for event in passage.events for word in event.words]
    playing = {name for event in passage.events for side in event.after.elevens for name in side}
    return [name for name in dict.fromkeys(said) if name in playing]


def draw_prompt(rng: random.Random) -> tuple[Passage, Question]:
    """Draw a passage and a question about it."""
    passage = draw_short_passage(rng)
    return passage, Asking(passage).draw(rng)


def draw_short_passage(rng: random.Random) -> Passage:
    """Draw a passage to ask about: cut after the last event that ends within `PROMPT_WORDS` words.

    With probability `EVENTFUL`, up to `DRAWS` passages are drawn until one tells a goal or a card; otherwise the first
    is taken as it comes.
    """
    passage = _draw_beginning(rng)
    if rng.random() < EVENTFUL:
        for _ in range(DRAWS - 1):
            if sure(passage, "goal") or sure(passage, "card"):
                break
            passage = _draw_beginning(rng)
    return passage


def _draw_beginning(rng: random.Random) -> Passage:
    kept, count = [], 0
    for event in draw_events(rng):
        count += len(event.words)
        if count > PROMPT_WORDS:
            break
        kept.append(event)
    return Passage(tuple(kept))


def prompt_text(passage: Passage, question: Question) -> str:
    """What a reader is given: the passage, and the question on a line of its own."""
    return f"{passage.text}\n{question.text}"
