"""The probability of a document by brute force: every way of telling it, with nothing shared between them."""

from functools import cache

from train.narration.events import KINDS, situation
from train.narration.grammar import Slot, say, tellings
from train.narration.match import STYLES, Match, role
from train.narration.passage import MAX_WORDS, leaves_off


def probability(words: tuple[str, ...], max_words: int = MAX_WORDS) -> float:
    """Sum over all sequences of events and phrases that say these words and then end."""

    @cache
    def rest(match: Match, at: int) -> float:
        ending = leaves_off(match, at, max_words)
        total = ending if at == len(words) else 0.0
        if ending < 1:
            for telling, likely in tellings(situation(match), match.style).items():
                for share, bound, end in fillings(match, telling.phrase, at):
                    total += (1 - ending) * likely * share * rest(KINDS[telling.kind](match, bound), end)
        return total

    def fillings(match, phrase, at, bound=None):
        """Ways to fill a phrase so that it says the words from `at` on."""
        bound = bound or {}
        if not phrase:
            yield 1.0, bound, at
            return
        part, *later = phrase
        if not isinstance(part, Slot):
            if words[at : at + 1] == (part,):
                yield from fillings(match, later, at + 1, bound)
            return
        for value, share in role(match, part.role, bound).items():
            said = say(match, part, value)
            if words[at : at + len(said)] == said:
                for likely, filled, end in fillings(match, later, at + len(said), {**bound, part.role: value}):
                    yield share * likely, filled, end

    return sum(rest(Match(style), 0) for style in STYLES) / len(STYLES)
