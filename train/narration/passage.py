"""A passage of a match: drawn event by event, with all that happened in it."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from train.narration.distribution import weighted
from train.narration.events import KINDS, situation
from train.narration.grammar import LONGEST_TELLING, Slot, say, tellings
from train.narration.match import STYLES, Match, role

MAX_WORDS = 128
OPENING = ("start", "sky told", "teams told", "clock", "loose")
LEAVES_OFF = 0.06

STYLE = weighted(dict.fromkeys(STYLES, 1))


class Event(NamedTuple):
    """One event as it was told: its kind, who played which role, and the match before and after."""

    kind: str
    roles: dict[str, object]
    before: Match
    after: Match
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The event's own sentences."""
        return "".join(self.words).strip()


class Passage(NamedTuple):
    """What was told, and the truth behind it."""

    events: tuple[Event, ...]

    @property
    def text(self) -> str:
        """The document."""
        return "".join(word for event in self.events for word in event.words).strip()

    @property
    def last(self) -> Match:
        """The match when the passage ends."""
        return self.events[-1].after


def leaves_off(match: Match, words: int, max_words: int = MAX_WORDS) -> float:
    """The probability that a passage ends here, between two events, after so many words."""
    if match.phase in OPENING:
        return 0.0
    if match.phase == "over" or words + LONGEST_TELLING > max_words:
        return 1.0
    return LEAVES_OFF


def draw_passage(rng: random.Random, max_words: int = MAX_WORDS) -> Passage:
    """Draw a passage of at most `max_words` words."""
    return Passage(tuple(draw_events(rng, max_words)))


def draw_events(rng: random.Random, max_words: int = MAX_WORDS) -> Iterator[Event]:
    """Draw the events of a passage one by one, for who may not need all of them."""
    match = Match(STYLE.draw(rng))
    count = 0
    while True:
        ending = leaves_off(match, count, max_words)
        if ending == 1 or (ending and rng.random() < ending):
            return
        event = draw_event(match, rng)
        yield event
        count += len(event.words)
        match = event.after


def draw_event(match: Match, rng: random.Random) -> Event:
    """Draw what happens next, and how it is told."""
    kind, phrase = tellings(situation(match), match.style).draw(rng)
    bound: dict[str, object] = {}
    words: list[str] = []
    for part in phrase:
        if isinstance(part, Slot):
            value = bound[part.role] = role(match, part.role, bound).draw(rng)
            words.extend(say(match, part, value))
        else:
            words.append(part)
    return Event(kind, bound, match, KINDS[kind](match, bound), tuple(words))
