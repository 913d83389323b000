"""A source's documents as one stream of token ids on disk, tokenized once for each tokenizer."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from model.chat import ChatTemplate
from model.errors import UserError
from model.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from train.cache import build_once, cache_root
from train.chats import Chat, Chats
from train.files import hash_text
from train.progress import bar
from train.sources import Documents

TOKENIZER_TRAINING_BYTES = 100_000_000
DOCUMENTS_PER_TASK = 1000
PARALLEL_FROM_BYTES = 8_000_000
Task = tuple[Sequence[bytes], int, int, str]  # documents, first, one past the last, tokenizer.json


@dataclass(frozen=True)
class TokenStream:
    """Documents end to end, each opened by the document-end token, one more of it at the very end.

    Document i is predicted from `tokens[starts[i]:starts[i+1]]`, and its targets are the same moved on by one:
    every token of it and the document end that follows, each exactly once.
    """

    tokens: Integer[np.ndarray, "N"]
    starts: Integer[np.ndarray, "starts"]
    learned: Integer[np.ndarray, "N"] | None = None
    """1 on the tokens that a loss counts as targets, 0 on the others; None: it counts all."""


def train_tokenizer_once(config: TokenizerConfig, sources: Sequence[Documents]) -> Tokenizer:
    """The tokenizer of a run, trained on the training splits (100 MB of them at most) and cached."""
    if config.kind == "file":
        return train_tokenizer(config, ())
    directory = cache_root() / "tokenizers" / hash_text(f"{config} {[source.key for source in sources]}")

    def build(target: Path) -> None:
        total = sum(len(source.train) for source in sources)
        with bar("training the tokenizer", total) as advance:
            trained = train_tokenizer(config, _texts(sources, advance))
        (target / "tokenizer.json").write_text(trained.to_json(), encoding="utf-8")

    build_once(directory, build)
    return Tokenizer.load(directory / "tokenizer.json")


def tokenize(documents: Documents, split: str, tokenizer: Tokenizer) -> TokenStream:
    """One split as tokens, from the cache if it was tokenized with this tokenizer before."""
    spec = tokenizer.to_json()
    directory = cache_root() / "tokens" / hash_text(f"{documents.key} {split} {spec}")
    sequence: Sequence[bytes] = getattr(documents, split)

    def build(target: Path) -> None:
        documents_ids = _tokenized(sequence, spec, f"tokenizing {documents.spec} ({split})")
        _write_stream(target, tokenizer, ((ids, None) for ids in documents_ids))

    build_once(directory, build)
    stream = _read_stream(directory)
    if len(stream.tokens) == len(stream.starts):
        raise UserError(f"source {documents.spec!r} is too small for a held-out split: its {split} part has no text.")
    return stream


def tokenize_chats(chats: Chats, split: str, tokenizer: Tokenizer, template: ChatTemplate) -> TokenStream:
    """One split of chats as tokens, of which the assistant's are learned; from the cache where it is there."""
    directory = cache_root() / "tokens" / hash_text(f"{chats.key} {split} {template.text} {tokenizer.to_json()}")
    sequence: Sequence[Chat] = getattr(chats, split)

    def build(target: Path) -> None:
        with bar(f"tokenizing {chats.spec} ({split})", len(sequence)) as advance:

            def encoded() -> Iterator[tuple[list[int], list[bool]]]:
                for index in range(len(sequence)):
                    yield template.encode(tokenizer, sequence[index])
                    advance()

            _write_stream(target, tokenizer, encoded())

    build_once(directory, build)
    return _read_stream(directory)


def _write_stream(target: Path, tokenizer: Tokenizer, documents: Iterable[tuple[list[int], list[bool] | None]]) -> None:
    """Write documents end to end: their ids, and which of them are learned where not all are."""
    dtype = np.uint16 if tokenizer.size <= 1 << 16 else np.uint32
    starts, length = [0], 0
    with (target / "tokens.bin").open("wb") as file, (target / "learned.bin").open("wb") as learned_file:
        for ids, learned in documents:
            np.array([tokenizer.document_end, *ids], dtype).tofile(file)
            if learned is not None:
                np.array([False, *learned], np.uint8).tofile(learned_file)
            length += 1 + len(ids)
            starts.append(length)
        np.array([tokenizer.document_end], dtype).tofile(file)
        if learned_file.tell():
            np.zeros(1, np.uint8).tofile(learned_file)
    np.save(target / "starts.npy", np.array(starts, np.int64))
    (target / "dtype").write_text(np.dtype(dtype).name)


def _read_stream(directory: Path) -> TokenStream:
    tokens = np.memmap(directory / "tokens.bin", dtype=(directory / "dtype").read_text(), mode="r")
    learned = directory / "learned.bin"
    weighted = learned.exists() and learned.stat().st_size > 0
    return TokenStream(
        tokens, np.load(directory / "starts.npy"), np.memmap(learned, dtype=np.uint8, mode="r") if weighted else None
    )


def _tokenized(documents: Sequence[bytes], spec: str, description: str) -> Iterator[list[int]]:
    """Ids of each document in order, by worker processes where there is enough text to pay for starting them.

    A document is the work of one process, however long.
    """
    count, workers = len(documents), os.cpu_count() or 1
    step = max(1, min(DOCUMENTS_PER_TASK, -(-count // (4 * workers))))
    tasks = [(documents, start, min(start + step, count), spec) for start in range(0, count, step)]
    probes = [len(documents[index]) for index in range(0, count, max(1, count // 16))]
    with bar(description, count) as advance:
        if sum(probes) / max(1, len(probes)) * count < PARALLEL_FROM_BYTES:
            results: Iterator[list[list[int]]] = map(_tokenize_task, tasks)
        else:
            results = _in_processes(tasks, workers)
        for result in results:
            yield from result
            advance(len(result))


def _in_processes(tasks: Iterable[Task], workers: int) -> Iterator[list[list[int]]]:
    """Results in order, with no more of them waiting than a few for each worker."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        pending: deque[Future[list[list[int]]]] = deque()
        for task in tasks:
            pending.append(pool.submit(_tokenize_task, task))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


def _tokenize_task(task: Task) -> list[list[int]]:
    documents, start, stop, spec = task
    tokenizer = Tokenizer.from_json(spec)
    return tokenizer.encode_many([documents[index].decode(errors="replace") for index in range(start, stop)])


def _texts(sources: Sequence[Documents], advance: Callable[..., None]) -> Iterator[str]:
    """Training documents of each source in turn, up to an equal share of the byte limit each."""
    for source in sources:
        left = TOKENIZER_TRAINING_BYTES // len(sources)
        for index in range(len(source.train)):
            if left <= 0:
                break
            data = source.train[index][:left]
            left -= len(data)
            advance()
            yield data.decode(errors="ignore")
