"""What can happen in a match: `TABLES` says which kinds of event can come next, `KINDS` what each does to the match."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from train.narration.cast import TEAMS
from train.narration.distribution import Distribution, weighted
from train.narration.match import HALF_MINUTES, RAIN, Bound, Match, role


class Situation(NamedTuple):
    """What decides which events can come next."""

    phase: str
    zone: int
    half_over: bool
    benched: bool
    fouler: str  # nobody, clean or booked
    raining: bool
    aside: bool


def situation(match: Match) -> Situation:
    """The part of the state that the next event depends on."""
    return Situation(
        match.phase,
        match.zone,
        match.minute >= HALF_MINUTES,
        bool(match.benches and match.benches[match.side]),
        "nobody" if not match.fouler else "booked" if match.fouler in match.booked else "clean",
        match.weather in RAIN,
        match.aside,
    )


# --- what events do -------------------------------------------------------------------------------------------------

Effect = Callable[[Match, Bound], Match]


def _to(phase: str, side: int, zone: int, holder: str, match: Match) -> Match:
    return match._replace(phase=phase, side=side, zone=zone, holder=holder, fouler="", aside=False)


def _who(match: Match, bound: Bound, name: str) -> str:
    """The player of a role that the phrase says, or that only one can fill (the keeper, who has the ball)."""
    players = role(match, name, bound).values
    assert len(players) == 1, f"no phrase of a kind that needs {name} may leave it out"
    return players[0]


def _give(name: str, advance: int = 0, phase: str = "play", zone: int | None = None) -> Effect:
    """The ball goes to a team-mate, `advance` zones ahead or to `zone`."""

    def effect(match: Match, bound: Bound) -> Match:
        target = max(0, min(2, match.zone + advance)) if zone is None else zone
        return _to(phase, match.side, target, _who(match, bound, name), match)

    return effect


def _lose(name: str, phase: str = "play", zone: int | None = None) -> Effect:
    """The ball goes to an opponent, for whom the field is turned around."""

    def effect(match: Match, bound: Bound) -> Match:
        target = 2 - match.zone if zone is None else zone
        return _to(phase, 1 - match.side, target, _who(match, bound, name), match)

    return effect


def _dead(phase: str, lost: bool, zone: int | None = None) -> Effect:
    """The ball is out, and nobody has it."""

    def effect(match: Match, bound: Bound) -> Match:
        target = (2 - match.zone if lost else match.zone) if zone is None else zone
        return _to(phase, match.side ^ lost, target, "", match)

    return effect


def _goal(name: str) -> Effect:
    def effect(match: Match, bound: Bound) -> Match:
        scored = match._replace(goals=match.after_goal())
        return _to("kickoff", match.side, 1, _who(match, bound, name), scored)

    return effect


def _foul(phase: str) -> Effect:
    def effect(match: Match, bound: Bound) -> Match:
        return _to(phase, match.side, match.zone, match.holder, match)._replace(fouler=bound["D"])

    return effect


def _card(sent_off: bool) -> Effect:
    def effect(match: Match, bound: Bound) -> Match:
        phase = "penalty" if match.phase == "penalty" else "free"
        after = match._replace(phase=phase, booked=match.booked | {match.fouler}, fouler="", aside=False)
        return _replace_player(after, 1 - match.side, match.fouler, "") if sent_off else after

    return effect


def _substitution(match: Match, bound: Bound) -> Match:
    benches = list(match.benches)
    benches[match.side] = tuple(name for name in benches[match.side] if name != bound["Y"])
    after = match._replace(benches=tuple(benches), aside=True)
    return _replace_player(after, match.side, bound["X"], bound["Y"])


def _replace_player(match: Match, side: int, out: str, on: str) -> Match:
    elevens = list(match.elevens)
    elevens[side] = tuple(on if name == out else name for name in elevens[side])
    return match._replace(elevens=tuple(elevens))


def _tell_sky(match: Match, bound: Bound) -> Match:
    phase = "clock" if match.phase == "teams told" else "sky told"
    return match._replace(sky=bound["sky"], weather=bound["weather"], phase=phase)


def _tell_teams(match: Match, bound: Bound) -> Match:
    teams = TEAMS[bound["H"]], TEAMS[bound["V"]]
    return match._replace(
        home=bound["H"],
        away=bound["V"],
        elevens=tuple(team.eleven for team in teams),
        benches=tuple(team.bench for team in teams),
        phase="clock" if match.phase == "sky told" else "teams told",
    )


def _tell_clock(match: Match, bound: Bound) -> Match:
    return match._replace(minute=bound["minute"], half=bound["half"], goals=bound["score"], phase="loose")


def _find_ball(match: Match, bound: Bound) -> Match:
    return _to("play", int(bound["P"] in match.elevens[1]), 1, bound["P"], match)


def _aside(match: Match, bound: Bound) -> Match:
    return match._replace(aside=True)


def _weather(weather: str) -> Effect:
    return lambda match, bound: match._replace(weather=weather, aside=True)


def _warning(match: Match, bound: Bound) -> Match:
    return match._replace(phase="free", fouler="", aside=True)


def _time_passes(match: Match, bound: Bound) -> Match:
    return match._replace(minute=bound["later"], aside=True)


def _over(match: Match, bound: Bound) -> Match:
    return match._replace(phase="over", holder="", aside=False)


KINDS: dict[str, Effect] = {
    "sky": _tell_sky,
    "teams": _tell_teams,
    "clock": _tell_clock,
    "found": _find_ball,
    "pass": _give("B"),
    "pass_forward": _give("B", +1),
    "pass_back": _give("B", -1),
    "long_pass": _give("F", zone=2),
    "carry": _give("A", +1),
    "dribble": _give("A"),
    "steal": _lose("D"),
    "intercept": _lose("D"),
    "foul": _foul("foul"),
    "throw_won": _dead("throw", lost=False),
    "throw_lost": _dead("throw", lost=True),
    "offside": _dead("free", lost=True, zone=0),
    "disallowed": _dead("free", lost=True, zone=0),
    "shot_saved": _lose("K", phase="keeper", zone=0),
    "shot_wide": _lose("K", phase="keeper", zone=0),
    "shot_post": _lose("D", zone=0),
    "shot_blocked": _dead("corner", lost=False, zone=2),
    "goal": _goal("A"),
    "cross": _give("F", phase="cross", zone=2),
    "penalty": _foul("penalty"),
    "header_goal": _goal("A"),
    "header_saved": _lose("K", phase="keeper", zone=0),
    "header_wide": _lose("K", phase="keeper", zone=0),
    "cross_cleared": _lose("D", zone=0),
    "cross_caught": _lose("K", phase="keeper", zone=0),
    "cross_controlled": _give("A"),
    "keeper_short": _give("B"),
    "keeper_long": _give("F", zone=1),
    "keeper_lost": _lose("D", zone=1),
    "warning": _warning,
    "yellow": _card(sent_off=False),
    "second_yellow": _card(sent_off=True),
    "red": _card(sent_off=True),
    "free_short": _give("B"),
    "free_cross": _give("F", phase="cross", zone=2),
    "free_goal": _goal("C"),
    "free_saved": _lose("K", phase="keeper", zone=0),
    "free_wall": _lose("D", zone=0),
    "corner_cross": _give("F", phase="cross", zone=2),
    "corner_short": _give("B", zone=2),
    "penalty_goal": _goal("C"),
    "penalty_saved": _lose("K", phase="keeper", zone=0),
    "penalty_wide": _lose("K", phase="keeper", zone=0),
    "throw": _give("B"),
    "restart": _lose("R", zone=1),
    "substitution": _substitution,
    "later": _time_passes,
    "score": _aside,
    "crowd": _aside,
    "coach": _aside,
    "bench": _aside,
    "injury": _aside,
    "possession": _aside,
    "celebration": _aside,
    "rain_starts": _weather("chove fino"),
    "rain_stops": _weather("venta pouco"),
    "over": _over,
}

# --- which events can come ------------------------------------------------------------------------------------------

Weights = Mapping[str, float | tuple[float, float, float]]  # one, or one for each zone

ASIDES: Weights = {"later": 5, "score": 4, "crowd": 3, "coach": 2, "bench": 1, "rain_starts": 1, "rain_stops": 3}
TABLES: dict[str, Weights] = {
    "start": {"sky": 2, "teams": 3},
    "sky told": {"teams": 1},
    "teams told": {"sky": 1},
    "clock": {"clock": 1},
    "loose": {"found": 1},
    "play": {
        "pass": (22, 20, 8),
        "pass_forward": (20, 16, 0),
        "pass_back": (0, 5, 6),
        "long_pass": (8, 6, 0),
        "carry": (6, 10, 0),
        "dribble": (2, 6, 8),
        "steal": (6, 8, 8),
        "intercept": (5, 6, 5),
        "foul": (3, 7, 8),
        "throw_won": 2,
        "throw_lost": 2,
        "offside": (0, 3, 3),
        "disallowed": (0, 0, 2),
        "shot_saved": (0, 1, 9),
        "shot_wide": (0, 1, 8),
        "shot_post": (0, 0, 3),
        "shot_blocked": (0, 0, 6),
        "goal": (0, 0, 10),
        "cross": (0, 0, 12),
        "penalty": (0, 0, 3),
        "possession": 3,
    },
    "cross": {
        "header_goal": 3,
        "header_saved": 3,
        "header_wide": 3,
        "cross_cleared": 4,
        "cross_caught": 3,
        "cross_controlled": 2,
    },
    "keeper": {"keeper_short": 10, "keeper_long": 6, "keeper_lost": 2, "substitution": 1},
    "foul": {"warning": 4, "yellow": 7, "second_yellow": 7, "red": 1, "injury": 3, "free_short": 3},
    "free": {
        "free_short": 6,
        "free_cross": (0, 1, 6),
        "free_goal": (0, 0, 2),
        "free_saved": (0, 0, 3),
        "free_wall": (0, 0, 3),
        "substitution": 2,
    },
    "corner": {"corner_cross": 8, "corner_short": 3, "substitution": 1},
    "penalty": {"penalty_goal": 8, "penalty_saved": 3, "penalty_wide": 2, "yellow": 3, "second_yellow": 3},
    "throw": {"throw": 12, "substitution": 2},
    "kickoff": {"restart": 12, "celebration": 4, "substitution": 2},
    "over": {},
}
WITHOUT_ASIDES = ("start", "sky told", "teams told", "clock", "loose", "cross", "foul", "penalty", "over")
WHISTLE = 12.0


@cache
def kinds(now: Situation) -> Distribution:
    """Which kind of event comes next."""
    table = dict(TABLES[now.phase])
    if now.phase not in WITHOUT_ASIDES and not now.aside:
        table |= ASIDES
    if now.half_over and now.phase in ("play", "keeper", "throw", "kickoff"):
        table["over"] = WHISTLE
    absent = {
        "later": now.half_over,
        "substitution": not now.benched or now.aside,
        "celebration": now.aside,
        "injury": now.aside,
        "possession": now.aside,
        "yellow": now.fouler != "clean",
        "second_yellow": now.fouler != "booked",
        "red": now.fouler != "clean",
        "rain_starts": now.raining,
        "rain_stops": not now.raining,
    }
    weights = {}
    for kind, weight in table.items():
        if not absent.get(kind, False):
            weights[kind] = weight[now.zone] if isinstance(weight, tuple) else weight
    return weighted(weights)
