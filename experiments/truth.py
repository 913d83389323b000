"""The narrator's world as a tokenizer sees it: true probabilities of tokens, and the floor under the held-out loss."""

import json
import math
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from model.tokenizer import Tokenizer
from train.cache import build_once, cache_root
from train.narration.truth import END, Listener, OutsideLanguage, word_probabilities
from train.progress import bar
from train.sources import Documents

DOCUMENTS_PER_TASK = 50
PARALLEL_FROM = 2000
Segment = Callable[[str], tuple[int, ...]]


class Reading(NamedTuple):
    """One way to read the tokens so far: words that were heard, then the first tokens of another."""

    listener: Listener
    begun: tuple[int, ...]
    weight: float
    """Probability of the words heard, up to a factor that all readings share."""


class TokenListener:
    """What someone who knows the language expects, token by token. Hearing one more gives a new listener.

    A token's true probability is that of all words whose canonical segmentation goes on with it: a sum over the trie
    of the possible words. Where the tokens of a word also begin a longer one, both readings are kept.
    """

    def __init__(self, segment: Segment, readings: list[Reading]) -> None:
        """Made by `at_start` and `hear`."""
        self._segment, self._readings = segment, readings

    @classmethod
    def at_start(cls, tokenizer: Tokenizer) -> "TokenListener":
        """A listener of a document before its first token."""
        end = (tokenizer.document_end,)
        segment = lru_cache(maxsize=None)(lambda word: tuple(tokenizer.encode(word)) if word != END else end)
        return cls(segment, [Reading(Listener.at_start(), (), 1.0)])

    def expect(self) -> dict[int, float]:
        """The true probability of each possible next token; the document-end token stands for the end.

        Raises:
            OutsideLanguage: the document has ended.
        """
        if not self._expected:
            raise OutsideLanguage("nothing comes after the end of a document")
        return self._expected

    def hear(self, token: int) -> "TokenListener":
        """The listener who has heard one more token.

        Raises:
            OutsideLanguage: the language, in its canonical segmentation, has no such token here.
        """
        if token not in self.expect():
            raise OutsideLanguage(f"no word of the language goes on with token {token} here")
        readings = []
        for listener, begun, weight in self._open:
            longer = (*begun, token)
            if any(self._segment(word)[: len(longer)] == longer for word in listener.expect()):
                readings.append(Reading(listener, longer, weight / self._expected[token]))
        return TokenListener(self._segment, readings)

    @cached_property
    def _expected(self) -> dict[int, float]:
        found: defaultdict[int, float] = defaultdict(float)
        for listener, begun, weight in self._open:
            for word, likely in listener.expect().items():
                tokens = self._segment(word)
                if len(tokens) > len(begun) and tokens[: len(begun)] == begun:
                    found[tokens[len(begun)]] += weight * likely
        total = sum(found.values())
        return {token: likely / total for token, likely in found.items()}

    @cached_property
    def _open(self) -> list[Reading]:
        """The readings, and each once more with its last word whole where its tokens are all of a word's."""
        found = []
        for reading in self._readings:
            found.append(reading)
            for word, likely in reading.listener.expect().items():
                if word != END and self._segment(word) == reading.begun:
                    found.append(Reading(reading.listener.hear(word), (), reading.weight * likely))
        return found


def true_token_probabilities(tokenizer: Tokenizer, text: str) -> dict[int, float] | None:
    """The true probability of each possible next token after a text; None where the language has no such text."""
    listener = TokenListener.at_start(tokenizer)
    try:
        for token in tokenizer.encode(text):
            listener = listener.hear(token)
        return listener.expect()
    except OutsideLanguage:
        return None


class Floor(NamedTuple):
    """What a held-out text costs one who knows the language: the least that any model can reach on average."""

    nats: float
    """-log of the text's true probability, ends of documents included."""
    words: int
    """Words, each document's end counted as one."""
    size: int
    """Bytes of text."""


def knows_truth(spec: str) -> bool:
    """Whether the documents of a source have true probabilities."""
    return spec.partition(":")[0] == "narration"


def floor(documents: Documents) -> Floor:
    """The floor of a source's held-out documents; computed once, by all cores where there are many."""
    directory = cache_root() / "floors" / documents.key
    build_once(directory, lambda target: _write_floor(documents, target / "floor.json"))
    return Floor(**json.loads((directory / "floor.json").read_text()))


def _write_floor(documents: Documents, target: Path) -> None:
    texts = documents.validation
    tasks = [
        range(start, min(start + DOCUMENTS_PER_TASK, len(texts))) for start in range(0, len(texts), DOCUMENTS_PER_TASK)
    ]
    measure = partial(_measure, documents)
    total = Floor(0.0, 0, 0)
    with bar("the truth about held-out text", len(texts)) as advance:
        for task, part in zip(tasks, _map(measure, tasks, parallel=len(texts) >= PARALLEL_FROM), strict=True):
            total = Floor(total.nats + part.nats, total.words + part.words, total.size + part.size)
            advance(len(task))
    target.write_text(json.dumps(total._asdict()))


def _map(function: Callable[[range], Floor], tasks: list[range], parallel: bool) -> Iterator[Floor]:
    if not parallel:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks)


def _measure(documents: Documents, which: range) -> Floor:
    nats, words, size = 0.0, 0, 0
    for index in which:
        data = documents.validation[index]
        found = word_probabilities(data.decode())
        nats -= sum(map(math.log, found))
        words += len(found)
        size += len(data)
    return Floor(nats, words, size)
