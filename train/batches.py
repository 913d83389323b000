"""Packed batches: batch n is a pure function of the seed and n, so the position in the data is the step."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import grain
import numpy as np
from jaxtyping import Array, Float, Int

from train.corpus import TokenStream

Batches: TypeAlias = grain.MapDataset  # of `Batch`: length and random access
AnyArray = np.ndarray | Array  # made on the host, then placed on devices


class Batch(NamedTuple):
    """Rows of tokens. `weights` is 1 where the target counts, 0 on padding and on what is read but not learned.

    `segments` number the documents of a row from 1; padding has 0.
    """

    tokens: Int[AnyArray, "B T"]
    targets: Int[AnyArray, "B T"]
    positions: Int[AnyArray, "B T"]
    segments: Int[AnyArray, "B T"]
    weights: Float[AnyArray, "B T"]


class PackedRows:
    """Rows of `length` tokens made of whole documents where they fit; random access by row.

    A document longer than a row is cut into pieces of a row each. Pieces share a row without seeing each other:
    positions start anew and segments differ. Every target of the stream appears in exactly one row.
    """

    def __init__(self, stream: TokenStream, length: int) -> None:
        self.stream, self.length = stream, length
        starts, lengths = cut_pieces(stream.starts, length)
        order, self._row_starts = pack(lengths, length)
        self._starts, self._lengths = starts[order], lengths[order]

    def __len__(self) -> int:
        return len(self._row_starts) - 1

    def __getitem__(self, row: int) -> Batch:
        """Row `row` as a batch without its leading axis."""
        tokens, targets, positions, segments = (np.zeros(self.length, np.int32) for _ in range(4))
        weights = np.zeros(self.length, np.float32)
        at = 0
        for segment, piece in enumerate(range(self._row_starts[row], self._row_starts[row + 1]), 1):
            start, size = self._starts[piece], self._lengths[piece]
            text = self.stream.tokens[start : start + size + 1]
            here = slice(at, at + size)
            tokens[here], targets[here] = text[:-1], text[1:]
            positions[here], segments[here] = np.arange(size), segment
            learned = self.stream.learned
            weights[here] = 1 if learned is None else learned[start + 1 : start + size + 1]
            at += size
        return Batch(tokens, targets, positions, segments, weights)


def cut_pieces(
    starts: Int[np.ndarray, "starts"], length: int
) -> tuple[Int[np.ndarray, "pieces"], Int[np.ndarray, "pieces"]]:
    """Start and size of the pieces, at most `length` long, that documents are cut into."""
    sizes = np.diff(starts)
    counts = -(-sizes // length)
    first = np.cumsum(counts) - counts
    index = np.arange(counts.sum()) - np.repeat(first, counts)
    piece_starts = np.repeat(starts[:-1], counts) + index * length
    return piece_starts, np.minimum(length, np.repeat(starts[1:], counts) - piece_starts)


def pack(
    sizes: Int[np.ndarray, "pieces"], length: int
) -> tuple[Int[np.ndarray, "pieces"], Int[np.ndarray, "row_starts"]]:
    """Best fit, longest first: each piece goes to the fullest row that still has room for it.

    Returns:
        Pieces in the order of their rows, and where in that order each row starts.
    """
    row_of = np.empty(len(sizes), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by room left
    has_rows = 0  # bit r: some row has room r; the lowest bit from `size` on is the best fit
    rows = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = has_rows >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                has_rows &= ~(1 << room)
        else:
            row, room, rows = rows, length, rows + 1
        row_of[piece] = row
        if room > size:
            open_rows[room - size].append(row)
            has_rows |= 1 << (room - size)
    order = np.argsort(row_of, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])


def training_batches(sources: Sequence[PackedRows], weights: Sequence[float], batch_size: int, seed: int) -> Batches:
    """Endless batches of shuffled rows, by index.

    Args:
        weights: share of rows from each source; empty to take all rows of all sources equally often.
    """
    shuffled = [grain.MapDataset.source(rows).shuffle(seed=seed + index) for index, rows in enumerate(sources)]
    if weights:
        mixed = grain.MapDataset.mix([rows.repeat() for rows in shuffled], weights=list(weights))
    else:
        mixed = grain.MapDataset.concatenate(shuffled).shuffle(seed=seed).repeat()
    return mixed[: 2**62].batch(batch_size)  # of rows without end, batches of one are more than Grain can count


def validation_batches(rows: PackedRows, batch_size: int) -> Batches:
    """Every held-out row once; the last batch is filled up with padding.

    Packing puts long documents first, so rows come in a fixed shuffled order: the first few batches are a fair
    sample of all.
    """

    def fill(rows: Batch) -> Batch:
        missing = batch_size - len(rows.tokens)
        return Batch(*(np.pad(array, ((0, missing), (0, 0))) for array in rows))

    return grain.MapDataset.source(rows).shuffle(seed=0).batch(batch_size).map(fill)


def prefetch(batches: Batches, start: int) -> Iterator[Batch]:
    """Batches `start`, `start + 1`, ... made by a thread ahead of their use."""
    return iter(batches[start:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
