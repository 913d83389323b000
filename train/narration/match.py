"""The simulated match: a state that says all there is to know, and the roles that players and things take in events.

Together with `events.py` it is a Markov process: what comes next depends on this state alone.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

from train.narration.cast import TEAMS
from train.narration.distribution import Distribution, certain, weighted

CONTAINED, CARRIED_AWAY = "contained", "carried away"
STYLES = (CONTAINED, CARRIED_AWAY)
HALF_MINUTES = 45
HALVES = ("primeiro", "segundo")

SKY = weighted(
    {
        "azul": 0.35,
        "claro": 0.22,
        "nublado": 0.18,
        "limpo": 0.12,
        "escuro": 0.08,
        "encoberto": 0.02,
        "carregado": 0.02,
        "avermelhado": 0.01,
    }
)
FINE = weighted({"faz calor": 5, "faz sol forte": 2, "faz frio": 1, "venta pouco": 2})
CLOUDY = weighted({"faz frio": 4, "venta forte": 3, "chove fino": 3})
STORMY = weighted({"chove forte": 5, "chove fino": 3, "venta forte": 2})
WEATHER = {"nublado": CLOUDY, "encoberto": CLOUDY, "escuro": STORMY, "carregado": STORMY}
RAIN = ("chove fino", "chove forte")

Bound = Mapping[str, Any]  # who plays which role in one event


class Match(NamedTuple):
    """All there is to know at one moment. The commentator's style and the zone of the field are never said outright.

    `side` has the ball, or is to play it: 0 home, 1 away. `holder` is who has it; after a foul, who suffered it;
    after a goal, who scored. `zone` is 0 before one's own goal, 1 in midfield, 2 before the other's.
    """

    style: str
    phase: str = "start"
    home: int = -1
    away: int = -1
    goals: tuple[int, int] = (0, 0)
    half: str = ""
    minute: int = 0
    sky: str = ""
    weather: str = ""
    side: int = 0
    zone: int = 1
    holder: str = ""
    fouler: str = ""
    elevens: tuple[tuple[str, ...], ...] = ()
    benches: tuple[tuple[str, ...], ...] = ()
    booked: frozenset[str] = frozenset()
    aside: bool = False
    """Whether the last thing told was no event of the match."""

    def team(self, side: int) -> int:
        """Index of the team that is home (0) or away (1)."""
        return self.away if side else self.home

    def after_goal(self) -> tuple[int, int]:
        """The score if the side with the ball scores."""
        home, away = self.goals
        return (home, away + 1) if self.side else (home + 1, away)


# --- who takes part -------------------------------------------------------------------------------------------------


def _by_line(keeper: float, defence: float, midfield: float, attack: float) -> tuple[float, ...]:
    return (keeper, *[defence] * 4, *[midfield] * 3, *[attack] * 3)


# Role: whether the player is of the side with the ball (0) or against it (1), and how likely each line is.
PLAYERS = {
    "B": (0, _by_line(0, 2, 4, 3)),
    "F": (0, _by_line(0, 1, 2, 5)),
    "C": (0, _by_line(0, 1, 4, 4)),
    "X": (0, _by_line(0, 1, 2, 2)),
    "D": (1, _by_line(0, 4, 3, 1)),
    "R": (1, _by_line(0, 1, 3, 3)),
    "K": (1, _by_line(1, 0, 0, 0)),
}


def role(match: Match, name: str, bound: Bound) -> Distribution:
    """Who or what fills a role of an event, given those already said."""
    if name in bound:
        return certain(bound[name])
    if name in PLAYERS:
        against, lines = PLAYERS[name]
        taken = (match.holder, *bound.values())
        return _players(match.elevens[match.side ^ against], lines, taken)
    return _OTHER_ROLES[name](match, bound)


@lru_cache(maxsize=100_000)
def _players(eleven: tuple[str, ...], lines: tuple[float, ...], taken: tuple[Any, ...]) -> Distribution:
    weights = zip(eleven, lines, strict=True)
    return weighted({player: weight for player, weight in weights if player and player not in taken})


@cache
def _anyone(elevens: tuple[tuple[str, ...], ...]) -> Distribution:
    return weighted({player: 1 for eleven in elevens for player in eleven[1:]})


@cache
def _teams(taken: int) -> Distribution:
    return weighted({index: 1 for index in range(len(TEAMS)) if index != taken})


@cache
def _scores(minutes_played: int) -> Distribution:
    """Goals of both sides: Poisson at 1.4 each in ninety minutes, by quarters of an hour, four at most."""
    rate = 1.4 * (minutes_played // 15 + 0.5) / 6
    goals = [rate**count / math.factorial(count) for count in range(5)]
    return weighted({(home, away): goals[home] * goals[away] for home in range(5) for away in range(5)})


def _first_score(match: Match, bound: Bound) -> Distribution:
    if match.half:
        return certain(match.goals)
    return _scores(bound["minute"] + HALF_MINUTES * (bound["half"] == "segundo"))


@cache
def _later(minute: int) -> Distribution:
    weights: dict[int, float] = {}
    for step, weight in ((1, 5), (2, 3), (3, 2)):
        later = min(HALF_MINUTES, minute + step)
        weights[later] = weights.get(later, 0) + weight
    return weighted(weights)


_MINUTES = weighted({minute: 1 for minute in range(2, HALF_MINUTES)})
_HALF = weighted({half: 1 for half in HALVES})

_OTHER_ROLES: dict[str, Callable[[Match, Bound], Distribution]] = {
    "A": lambda match, bound: certain(match.holder),
    "L": lambda match, bound: certain(match.fouler),
    "T": lambda match, bound: certain(match.team(match.side)),
    "O": lambda match, bound: certain(match.team(1 - match.side)),
    "H": lambda match, bound: certain(match.home) if match.home >= 0 else _teams(-1),
    "V": lambda match, bound: certain(match.away) if match.away >= 0 else _teams(bound["H"]),
    "P": lambda match, bound: _anyone(match.elevens),
    "S": lambda match, bound: certain(match.team(int(bound["P"] in match.elevens[1]))),
    "Y": lambda match, bound: weighted({player: 1 for player in match.benches[match.side]}),
    "sky": lambda match, bound: SKY,
    "weather": lambda match, bound: WEATHER.get(bound["sky"], FINE),
    "minute": lambda match, bound: certain(match.minute) if match.half else _MINUTES,
    "half": lambda match, bound: certain(match.half) if match.half else _HALF,
    "later": lambda match, bound: _later(match.minute),
    "score": _first_score,
    "new_score": lambda match, bound: certain(match.after_goal()),
}
