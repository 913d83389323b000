"""A person chooses between two answers at a time: which come next, what a key does, how long it took.

Nothing in here knows of a terminal, nor of a model: whoever shows the answers passes on keys, whoever writes them is
a function.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model.chat import Message
from rlhf.records import Prompt
from serve.store import CHOICES, LEFT, RIGHT, SKIP, TIE, Store

Answer = Callable[[Sequence[Message], int], str]
"""The answer to a chat from a seed, the same for the same seed."""

UNDO, QUIT = "undo", "quit"
KEYS = {
    **{"l": LEFT, "\x1b[D": LEFT, "r": RIGHT, "\x1b[C": RIGHT, "t": TIE, "s": SKIP},
    **{"u": UNDO, "q": QUIT, "\x04": QUIT, "": QUIT},  # the last two: the input has ended
}
"""What a key means, arrows by the sequences that terminals send."""
DRAWS = 8


class Writer(NamedTuple):
    """Who writes answers, such as runs/narrator:ppo, and how."""

    source: str
    answer: Answer


@dataclass(frozen=True)
class Shown:
    """A prompt and two different answers, on the sides where they are shown."""

    prompt: Prompt
    left: str
    right: str
    left_source: str
    right_source: str


class Outcome(NamedTuple):
    """What a key did."""

    action: str | None
    """One of `CHOICES`, `UNDO` or `QUIT`; None if the key means nothing."""
    id: int | None = None
    """Of the choice that was kept or withdrawn."""


class RatingSession:
    """One sitting of one rater. What it shows follows from the seed; what the rater has chosen before is left out."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        writers: tuple[Writer, Writer],
        store: Store,
        rater: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            writers: of the two answers, which come in random order; twice the same for two answers by one model.
            clock: seconds, from any moment on.
        """
        self.rater = rater.encode("utf-8", errors="replace").decode()  # a command line may be no UTF-8
        self.passed_over = 0
        """Prompts to which no two answers differed, or were anything but blank."""
        self._writers, self._store, self._seed, self._clock = writers, store, seed, clock
        distinct = dict.fromkeys(prompts)
        self._sources = sorted(writer.source for writer in writers)
        done = {
            choice.prompt
            for choice in store.choices()
            if choice.rater == self.rater
            and sorted((choice.left_source or "", choice.right_source or "")) == self._sources
        }
        self._waiting = deque((place, prompt) for place, prompt in enumerate(distinct) if prompt not in done)
        self.already = len(distinct) - len(self._waiting)
        """Prompts on which this rater has compared these writers before."""
        self._made: dict[int, Shown] = {}
        self._again: list[Shown] = []
        self._current: Shown | None = None
        self._since = 0.0

    def show(self) -> Shown | None:
        """What to choose between now, None if nothing is left. The time runs from when it is first returned."""
        if self._current is None:
            self._current = self._again.pop() if self._again else self._next()
            self._since = self._clock()
        return self._current

    def press(self, key: str) -> Outcome:
        """Do what a key means (`KEYS`): keep a choice, withdraw the last one and show it again, or nothing."""
        action = KEYS.get(key) or KEYS.get(key.lower())
        if action == UNDO:
            return Outcome(UNDO, self._undo())
        if action not in CHOICES:
            return Outcome(action)
        shown = self._current
        if shown is None:
            return Outcome(None)
        added = self._store.add(
            shown.prompt,
            shown.left,
            shown.right,
            action,
            self.rater,
            seconds=self._clock() - self._since,
            left_source=shown.left_source,
            right_source=shown.right_source,
        )
        self._made[added] = shown
        self._current = None
        return Outcome(action, added)

    def _undo(self) -> int | None:
        withdrawn = self._store.undo(self.rater, self._sources)
        if withdrawn in self._made:  # else it is of another sitting, and comes back in the next
            if self._current is not None:
                self._again.append(self._current)
            self._again.append(self._made.pop(withdrawn))
            self._current = None
        return withdrawn

    def _next(self) -> Shown | None:
        while self._waiting:
            place, prompt = self._waiting.popleft()
            answers = _two_answers(self._writers, prompt, random.Random(f"{self._seed} {place}"))
            if answers is None:
                self.passed_over += 1
                continue
            sides = [*zip(answers, (writer.source for writer in self._writers), strict=True)]
            # Each rater sees an order of their own, so that a liking for one side evens out.
            random.Random(f"{self._seed} {place} {self.rater}").shuffle(sides)
            (left, left_source), (right, right_source) = sides
            return Shown(prompt, left, right, left_source, right_source)
        return None


def _two_answers(writers: tuple[Writer, Writer], prompt: Prompt, rng: random.Random) -> tuple[str, str] | None:
    """Different answers, neither of them blank, or None where that fails `DRAWS` times."""
    for _ in range(DRAWS):
        one, other = (writer.answer(prompt, rng.randrange(2**31)) for writer in writers)
        if one.strip() and other.strip() and one != other:
            return one, other
    return None
