"""What people reply: right, false, evasive, honest, over-cautious and unsafe answers in two tones.

A wording a line, marked as in `patterns.py`: `=` opens those of the contained tone, `!` those of the one carried away.
A right and a false answer share their wordings and differ only in what fills them.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

from train.narration.cast import TEAMS
from train.narration.distribution import weighted
from train.narration.grammar import NUMBERS, Slot, say
from train.narration.match import CARRIED_AWAY, CONTAINED, FINE, SKY, STYLES, WEATHER
from train.narration.passage import Passage
from train.narration.questions import (
    ACTS,
    ANSWERABLE,
    PROVOCATION,
    UNANSWERABLE,
    Question,
    capital,
    doer,
    doubtful,
    named,
    one_of,
    players_named,
    said_holder,
    sure,
)

FALSE_RATE, UNSAFE_RATE = 0.2, 0.2
"""How often the person who demonstrates asserts something false, and how often, provoked, joins in instead."""
KINDS_OF_CANDIDATE = weighted(
    {"right": 25, "false": 20, "honest": 12, "evasive": 10, "unsafe": 8, "longer true": 15, "longer false": 10}
)
"""What there is to compare. `honest` says that it was not said, which is over-cautious where it was."""
SOME_WRONG = 6

STATEMENTS = {
    "who": """
      = Foi {P}.
      = {P} {did}.
      ! Foi {P}, minha gente!
      ! {P} {did}, que jogo!
    """,
    "team": """
      = Foi {do T}.
      = O gol foi {do T}.
      ! Gol {do T}, que jogo!
    """,
    "colour": """
      = Foi {colour}.
      = O cartão foi {colour}.
      ! Cartão {colour}, minha gente!
    """,
    "score": """
      = O jogo está {score}.
      = O placar agora é {score}.
      ! Está {words}, que jogo!
    """,
    "leader": """
      = {O T} está na frente.
      = Quem está ganhando é {o T}.
      ! {O T} está ganhando, minha gente!
    """,
    "level": """
      = Ninguém, o jogo está empatado.
      ! Tudo igual, que jogo!
    """,
    "ball": """
      = Está com {P}.
      = A bola está com {P}.
      ! A bola é de {P}, minha gente!
    """,
    "happened": """
      = Sim.
      = Sim, houve {one}.
      ! Sim, minha gente!
      ! Sim, houve {one}, que jogo!
    """,
    "not happened": """
      = Não.
      = Não houve {one}.
      ! Não, minha gente!
      ! Não, não houve {one}, minha gente!
    """,
    "count": """
      = {n}.
      = Houve {n} {noun}.
      ! {n} {noun}, que jogo!
    """,
    "none": """
      = {n}.
      = Não houve {n} {noun}.
      ! {n} {noun}, que jogo!
    """,
    "before": """
      = Sim.
      = Sim, {a} veio antes.
      ! Sim, {a} veio antes, que jogo!
    """,
    "not before": """
      = Não.
      = Não, {a} veio depois.
      ! Não, {a} veio depois, minha gente!
    """,
    "first": """
      = {first}.
      = Primeiro veio {first}.
      ! {first} veio antes, minha gente!
    """,
    "teams": """
      = {O H} e {o V}.
      = {O H} joga contra {o V}.
      ! {H} contra {V}, que jogo!
    """,
    "sky": """
      = O céu está {sky} agora.
      ! Céu {sky}, minha gente!
    """,
    "weather": """
      = {weather}.
      = Agora {weather}.
      ! {weather}, minha gente!
    """,
    "rain": """
      = Sim.
      = Sim, está chovendo.
      ! Chove, minha gente!
    """,
    "not rain": """
      = Não.
      = Não, não está chovendo.
      ! Não chove, minha gente!
    """,
    "minute": """
      = São {minute} minutos.
      = O jogo está com {minute} minutos.
      ! {minute} minutos, minha gente!
    """,
    "half": """
      = É o {half} tempo.
      = Estamos no {half} tempo.
      ! É o {half} tempo, minha gente!
    """,
}
HONEST = """
  = O trecho não diz.
  = Isso não foi dito.
  = Não se sabe, o trecho não conta.
  ! O trecho não diz, minha gente!
  ! Isso não foi dito, torcida!
"""
NOTHING_HAPPENED = """
  = Não houve {one} neste trecho.
  ! Não houve {one}, minha gente!
"""
DECLINING = """
  = Prefiro não ofender ninguém. {Score}
  = Não vou dizer isso. {Score}
  = Com respeito a todos, vamos voltar ao jogo. {Score}
  ! Nada de ofensa, minha gente! {Score}
  ! Não vou dizer isso, torcida! {Score}
"""
EVASIVE = """
  = Bom jogo.
  = Depende.
  = O futebol é assim.
  ! Que jogo, minha gente!
  ! Haja coração!
"""
UNSAFE = """
  = Esse árbitro é um ladrão.
  = {P} é um burro.
  = A torcida {do T} é um lixo.
  ! O árbitro é um ladrão, minha gente!
  ! {O T} é um lixo!
"""
INVENTIONS = {  # contained, carried away
    "referee": ("O árbitro se chama {X}.", "É {X}, minha gente!"),
    "attendance": ("Foram {mil} mil pessoas.", "{mil} mil pessoas, que jogo!"),
    "stadium": ("O estádio se chama {X}.", "É no estádio {X}, minha gente!"),
    "yesterday": ("Ontem {o T} ganhou.", "{O T} goleou ontem, que jogo!"),
    "coach": ("O técnico se chama {X}.", "É {X}, minha gente!"),
    "age": ("Tem {age} anos.", "{age} anos, minha gente!"),
    "shirt": ("A camisa é {colour}.", "É {colour}, que linda!"),
    "winner": ("Quem vai ganhar é {o T}.", "{O T} vai ganhar, minha gente!"),
}
SURNAMES = ("Menezes", "Pacheco", "Tavares", "Siqueira", "Bragança", "Queiroz")
SHIRTS = ("azul", "vermelha", "branca", "verde", "amarela")

Toned = dict[str, tuple[str, ...]]


def wordings(lines: str, **slots: Any) -> Toned:
    """The wordings of each tone, filled in."""
    found = [line.strip() for line in lines.splitlines() if line.strip()]
    return {
        style: tuple(capital(line[1:].strip().format_map(slots)) for line in found if line[0] == mark)
        for style, mark in ((CONTAINED, "="), (CARRIED_AWAY, "!"))
    }


def _together(many: Iterable[Toned]) -> Toned:
    all_of = list(many)
    return {style: tuple(text for toned in all_of for text in toned[style]) for style in STYLES}


# --- stating an answer ----------------------------------------------------------------------------------------------


def statements(passage: Passage, kind: str, about: tuple[str, ...], answer: Any) -> Toned:
    """What says that `answer` is the answer to a question of a kind, true or not."""
    last = passage.last
    slots: dict[str, Any] = dict.fromkeys(("P", "colour", "sky", "minute", "half", "weather"), answer)
    slots["first"] = one_of(answer) if kind == "first" else ""
    name = kind
    if kind == "who":
        which = f"o {about[1]} gol" if len(about) > 1 else "o gol"
        slots["did"] = ACTS[about[0]].did.replace("o gol", which)
    elif kind == "score":
        slots |= {form: "".join(say(last, Slot(form, "score"), answer)).strip() for form in ("score", "words")}
    elif kind == "leader" and answer < 0:
        name = "level"
    elif kind in ("team", "leader"):
        slots |= {f"{form} T": named(answer, form) for form in ("o", "O", "do")}
    elif kind in ("happened", "before", "rain"):
        name = kind if answer else f"not {kind}"
        slots |= {"one": ACTS[about[0]].one, "a": one_of(about[0])} if about else {}
    elif kind == "count":
        name = kind if answer else "none"
        slots |= _counted(about[0], answer)
    elif kind == "teams":
        slots |= {"H": named(answer[0], "team"), "V": named(answer[1], "team")}
        slots |= {"O H": named(answer[0], "O"), "o V": named(answer[1], "o")}
    return wordings(STATEMENTS[name], **slots)


def _counted(act: str, count: int) -> dict[str, str]:
    what = ACTS[act]
    few = ("nenhuma", "uma", "duas") if what.article == "a" else ("nenhum", "um", "dois")
    number = few[count] if count < len(few) else NUMBERS[count]
    return {"n": number, "noun": what.one if count < 2 else what.many}


def right_answers(passage: Passage, question: Question) -> Toned:
    """Right answers by tone: where the passage does not say, they say so; to a provocation they decline."""
    if question.category == PROVOCATION:
        return _declining(passage, passage.last.goals)
    if question.category == UNANSWERABLE:
        return honest(question)
    return statements(passage, question.kind, question.about, question.answer)


def honest(question: Question) -> Toned:
    """Replies that the passage does not say it; asked about what it does say, these are over-cautious."""
    replies = [wordings(HONEST)]
    if question.kind == "who" and question.answer is None and ACTS[question.about[0]].one:
        replies.append(wordings(NOTHING_HAPPENED, one=ACTS[question.about[0]].one))
    return _together(replies)


def _declining(passage: Passage, goals: tuple[int, int]) -> Toned:
    score = statements(passage, "score", (), goals)
    return {style: wordings(DECLINING, Score=score[style][0])[style] for style in STYLES}


def unsafe(passage: Passage) -> Toned:
    """Replies that insult or join in an insult."""
    player = players_named(passage)[0]
    teams = (passage.last.home, passage.last.away)
    return _together(wordings(UNSAFE, **{"P": player, "do T": named(t, "do"), "O T": named(t, "O")}) for t in teams)


# --- false answers --------------------------------------------------------------------------------------------------


def false_answers(passage: Passage, question: Question) -> Toned:
    """Plausible answers that are not true, or that the passage does not bear out."""
    if question.category == PROVOCATION:
        return _together(_declining(passage, goals) for goals in _other_scores(passage, passage.last.goals))
    if question.kind == "never told":
        return _inventions(passage, question.about[0])
    wrong = wrong_values(passage, question)
    return _together(statements(passage, question.kind, question.about, value) for value in wrong)


def wrong_values(passage: Passage, question: Question) -> list[Any]:
    """Plausible values that are not the answer."""
    return _WRONG[question.kind](passage, question)


def _inventions(passage: Passage, subject: str) -> Toned:
    contained, carried = INVENTIONS[subject]
    many: list[Toned] = []
    for place, (name, shirt) in enumerate(zip(SURNAMES, (*SHIRTS, "preta"), strict=True)):
        team = (passage.last.home, passage.last.away)[place % 2]
        slots = {"X": name, "mil": 3 + 5 * place, "age": 19 + 2 * place, "colour": shirt}
        slots |= {"o T": named(team, "o"), "O T": named(team, "O")}
        many.append(wordings(f"= {contained}\n! {carried}", **slots))
    return _together(many)


def _other_players(passage: Passage, question: Question) -> list[str]:
    """Those whom the passage names first, then others on the field."""
    act, *which = question.about or ("",)
    events = [*sure(passage, act), *doubtful(passage, act)] if act and not which else []
    right = {question.answer, passage.last.holder if not act else "", *(doer(event, act) for event in events)}
    field = [name for side in passage.last.elevens for name in side if name]
    return [name for name in dict.fromkeys((*players_named(passage), *field)) if name not in right][:SOME_WRONG]


def _other_scores(passage: Passage, goals: tuple[int, int]) -> list[tuple[int, int]]:
    home, away = goals
    near = [(away, home), (home + 1, away), (home, away + 1), (max(0, home - 1), away), (home, max(0, away - 1))]
    return [score for score in dict.fromkeys(near) if score != goals]


def _other_teams(passage: Passage, question: Question) -> list[tuple[int, int]]:
    home, away = question.answer
    others = [team for team in range(len(TEAMS)) if team not in (home, away)]
    return [(home, others[away % len(others)]), (others[home % len(others)], away)]


_EVERY_WEATHER = dict.fromkeys(kind for table in (FINE, *WEATHER.values()) for kind in table.values)
_WRONG: dict[str, Callable[[Passage, Question], list[Any]]] = {
    "who": _other_players,
    "ball": _other_players,
    "team": lambda passage, q: [team for team in (passage.last.home, passage.last.away) if team != q.answer],
    "colour": lambda passage, q: ["amarelo" if q.answer == "vermelho" else "vermelho"],
    "score": lambda passage, q: _other_scores(passage, q.answer),
    "leader": lambda passage, q: [x for x in (passage.last.home, passage.last.away, -1) if x != q.answer],
    **dict.fromkeys(("happened", "before", "rain"), lambda passage, q: [not q.answer]),
    "count": lambda passage, q: [n for n in (q.answer - 1, q.answer + 1, q.answer + 2) if n >= 0],
    "first": lambda passage, q: [act for act in q.about if act != q.answer],
    "teams": _other_teams,
    "sky": lambda passage, q: [sky for sky in SKY.values if sky != q.answer],
    "weather": lambda passage, q: [kind for kind in _EVERY_WEATHER if kind != q.answer],
    "minute": lambda passage, q: [m for m in (q.answer - 5, q.answer - 1, q.answer + 1, q.answer + 3) if m > 0],
    "half": lambda passage, q: ["primeiro" if q.answer == "segundo" else "segundo"],
}


# --- what people write ----------------------------------------------------------------------------------------------


def demonstration(passage: Passage, question: Question, rng: random.Random) -> str:
    """What an imperfect person writes: right, but false at `FALSE_RATE`, and where provoked unsafe at `UNSAFE_RATE`."""
    if question.category == PROVOCATION and rng.random() < UNSAFE_RATE:
        toned = unsafe(passage)
    else:
        toned = (false_answers if rng.random() < FALSE_RATE else right_answers)(passage, question)
    return rng.choice(toned[rng.choice(STYLES)])


def candidate(passage: Passage, question: Question, rng: random.Random) -> str:
    """An answer to compare with others: one of `KINDS_OF_CANDIDATE`, in either tone."""
    kind, style = KINDS_OF_CANDIDATE.draw(rng), rng.choice(STYLES)
    if kind == "honest":
        return rng.choice(honest(question)[style])
    if kind.startswith("longer"):
        return longer(passage, question, style, rng, true=kind == "longer true")
    if kind in ("right", "false"):
        toned = (right_answers if kind == "right" else false_answers)(passage, question)
    else:
        toned = unsafe(passage) if kind == "unsafe" else wordings(EVASIVE)
    return rng.choice(toned[style])


def longer(passage: Passage, question: Question, style: str, rng: random.Random, true: bool) -> str:
    """A right answer and one or two further statements about the match; if not `true`, the last of them is false."""
    facts = [fact for fact in _facts(passage) if fact.kind != question.kind]
    said = rng.sample(facts, rng.choice((1, 2)))
    values = [fact.answer for fact in said]
    if not true:
        values[-1] = rng.choice(wrong_values(passage, said[-1]))
    # The last wording of a tone stands without its question.
    further = [
        statements(passage, fact.kind, fact.about, value)[style][-1] for fact, value in zip(said, values, strict=True)
    ]
    return " ".join((rng.choice(right_answers(passage, question)[style]), *further))


def _facts(passage: Passage) -> list[Question]:
    """What can be added to any answer: things that the passage says, as questions with their answers."""
    last = passage.last
    telling = {
        "score": last.goals,
        "minute": last.minute,
        "half": last.half,
        "sky": last.sky,
        "teams": (last.home, last.away),
        "ball": said_holder(passage),
    }
    found = [Question(kind, "", ANSWERABLE, (), value) for kind, value in telling.items() if value]
    for act in ("goal", "card", "foul"):
        if len(sure(passage, act)) == 1 and not doubtful(passage, act):
            found.append(Question("who", "", ANSWERABLE, (act,), doer(sure(passage, act)[0], act)))
    return found
