"""The exact probability of every next word, given the text so far.

A listener who knows the language keeps every account of the text that is still possible, each with its probability:
which commentator speaks, where on the field the ball is, how the sentence will go on. This is the forward algorithm
of a hidden Markov model (Rabiner 1989, section III.A), word by word.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from train.narration.events import KINDS, situation
from train.narration.grammar import Node, Slot, say, tree
from train.narration.match import Match, role
from train.narration.passage import MAX_WORDS, STYLE, leaves_off
from train.narration.words import split_words

END = ""  # stands for the end of the document where a word is expected


class OutsideLanguage(ValueError):
    """A text that the language cannot produce: it has no true probability."""


class _Account(NamedTuple):
    """One way in which the text may have come about, and what of it is still to be said."""

    match: Match
    node: Node
    bound: tuple[tuple[str, object], ...] = ()
    pending: tuple[str, ...] = ()
    """Words of a role whose first have been heard."""


class Listener:
    """What someone who knows the language can expect. Hearing one more word gives a new listener."""

    def __init__(self, words: int, accounts: list[tuple[_Account, float]], ending: float, max_words: int) -> None:
        """Made by `at_start` and `hear`: how many words were heard, and what they leave possible."""
        self.words = words
        self._accounts, self._ending, self._max_words = accounts, ending, max_words

    @classmethod
    def at_start(cls, max_words: int = MAX_WORDS) -> "Listener":
        """A listener of a document of at most `max_words` words, before its first."""
        return cls(0, *_after_event({Match(style): likely for style, likely in STYLE.items()}, 0, max_words), max_words)

    def expect(self) -> dict[str, float]:
        """The true probability of each possible next word; `END` is the end of the document."""
        found = {word: sum(likely for _, likely in ways) for word, ways in self._ways.items()}
        if self._ending:
            found[END] = self._ending
        return found

    def hear(self, word: str) -> "Listener":
        """The listener who has heard one more word.

        Raises:
            OutsideLanguage: the language has no such word here.
        """
        ways = self._ways.get(word)
        if not ways:
            raise OutsideLanguage(f"word {self.words + 1} of a passage cannot be {word!r}")
        total = sum(likely for _, likely in ways)
        accounts: list[tuple[_Account, float]] = []
        finished: dict[Match, float] = {}
        for account, likely in ways:
            share = likely / total
            if account.pending:
                accounts.append((account, share))
                continue
            for kind, ends in account.node.ends:
                match = KINDS[kind](account.match, dict(account.bound))
                finished[match] = finished.get(match, 0) + share * ends
            if account.node.branches:
                accounts.append((account, share))
        opened, ending = _after_event(finished, self.words + 1, self._max_words)
        return Listener(self.words + 1, accounts + opened, ending, self._max_words)

    @cached_property
    def _ways(self) -> dict[str, list[tuple[_Account, float]]]:
        """Each possible next word, with the accounts that it would leave and their joint probability."""
        ways: dict[str, list[tuple[_Account, float]]] = {}
        for account, likely in self._accounts:
            for word, after, share in _continuations(account):
                # The first word of a document has no space before it.
                ways.setdefault(word if self.words else word.lstrip(), []).append((after, likely * share))
        return ways


def _after_event(
    finished: dict[Match, float], words: int, max_words: int
) -> tuple[list[tuple[_Account, float]], float]:
    """Accounts at the start of whatever is told next, and the probability that the document ends instead."""
    accounts, ended = [], 0.0
    for match, likely in finished.items():
        ending = leaves_off(match, words, max_words)
        ended += likely * ending
        if ending < 1:
            accounts.append((_Account(match, tree(situation(match), match.style)), likely * (1 - ending)))
    return accounts, ended


def _continuations(account: _Account) -> Iterator[tuple[str, _Account, float]]:
    match, node, bound, pending = account
    if pending:
        yield pending[0], account._replace(pending=pending[1:]), 1.0
        return
    for part, likely, child in node.branches:
        if not isinstance(part, Slot):
            yield part, _Account(match, child, bound), likely
            continue
        roles = dict(bound)
        for value, share in role(match, part.role, roles).items():
            first, *rest = say(match, part, value)
            known = bound if part.role in roles else (*bound, (part.role, value))
            yield first, _Account(match, child, known, tuple(rest)), likely * share


def word_probabilities(text: str, max_words: int = MAX_WORDS) -> list[float]:
    """The true probability of each word of a whole document, and of its end.

    Raises:
        OutsideLanguage: the language has no such document.
    """
    listener, found = Listener.at_start(max_words), []
    for word in split_words(text):
        found.append(listener.expect().get(word, 0.0))
        listener = listener.hear(word)
    ending = listener.expect().get(END, 0.0)
    if not ending:
        raise OutsideLanguage(f"a passage cannot end after {text[-40:]!r}")
    return [*found, ending]
