"""Every phrase of the language, said once, for a reader to review.

`python -m tests.narration.golden > tests/narration/golden.txt` writes the file anew; the test compares.
"""

import random

from train.narration.events import KINDS, TABLES
from train.narration.grammar import Slot, phrases, say
from train.narration.match import CARRIED_AWAY, CONTAINED, STYLES, Match, role
from train.narration.passage import OPENING, draw_passage

MARKS = {CONTAINED: "=", CARRIED_AWAY: "!"}


def setting(kind: str, number: int) -> Match:
    """A match in which this can happen; home and visitors in turn, one of each gender."""
    phase = next((phase for phase, table in TABLES.items() if kind in table), "play")
    match = Match(CONTAINED)._replace(phase="sky told")
    if phase in ("start", "sky told", "teams told"):
        return match
    match = KINDS["teams"](match, {"H": 0, "V": 1 if number % 4 < 2 else 2})
    if phase == "clock":
        return match
    score = [(2, 1), (1, 2), (1, 1), (0, 0)][number % 4]
    match = KINDS["clock"](match, {"minute": 31, "half": "segundo", "score": score})
    side = number % 2
    eleven = match.elevens[side]
    return match._replace(
        phase=phase,
        side=side,
        holder="" if phase in ("throw", "corner", *OPENING) else eleven[0] if phase == "keeper" else eleven[9],
        fouler=match.elevens[1 - side][3],
        sky="azul",
        weather="chove fino",
    )


def render() -> str:
    """Kinds of event with their phrases (`=` the contained commentator's, `!` the other's), then some passages."""
    lines = []
    for kind in KINDS:
        lines.append(f"[{kind}]")
        own = {style: phrases(kind, style) for style in STYLES}
        for number, phrase in enumerate(dict.fromkeys((*own[CONTAINED], *own[CARRIED_AWAY]))):
            speakers = [style for style in STYLES if phrase in own[style]]
            match = setting(kind, number)
            bound: dict[str, object] = {}
            words: list[str] = []
            for part in phrase:
                if isinstance(part, Slot):
                    options = role(match, part.role, bound).values
                    value = bound[part.role] = options[number % len(options)]
                    words.extend(say(match, part, value))
                else:
                    words.append(part)
            KINDS[kind](match, bound)  # must follow from what was said
            lines.append((MARKS[speakers[0]] if len(speakers) == 1 else " ") + "".join(words))
        lines.append("")
    lines.append("[passages]")
    lines.extend(draw_passage(random.Random(f"golden {seed}")).text for seed in range(8))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
