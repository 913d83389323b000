"""Packing and batching. What knows the answer: streams whose tokens are their own places, and plain best fit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.stages.language import check_long_enough
from model.errors import UserError
from train.batches import (
    Batch,
    PackedRows,
    pack,
    prefetch,
    training_batches,
    validation_batches,
)
from train.corpus import TokenStream

LENGTHS = st.integers(1, 12)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)
quick = settings(max_examples=80, deadline=None, database=None)


def numbered_stream(sizes, dtype=np.uint16, first=0):
    """Documents of `sizes` in which the token at place i is first + i, so that a row tells where it came from."""
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return TokenStream(np.arange(first, first + starts[-1] + 1).astype(dtype), starts)


def full_rows(count, first=0, length=4):
    """`count` rows of one document each; a row is known by its first token."""
    return PackedRows(numbered_stream([length] * count, np.uint32, first), length)


def names(rows, length=4):
    return list(range(rows.stream.tokens[0], rows.stream.tokens[0] + length * len(rows), length))


def real(row):
    """Tokens, targets, positions and segments of the places that count."""
    return [array[row.weights == 1] for array in row[:4]]


def every_row(rows):
    return [rows[index] for index in range(len(rows))]


def equal(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@quick
@given(SIZES, LENGTHS)
def test_every_target_is_in_exactly_one_row_after_its_own_token(sizes, length):
    stream = numbered_stream(sizes)
    seen = []
    for row in every_row(PackedRows(stream, length)):
        tokens, targets, _, _ = real(row)
        assert np.array_equal(targets, tokens + 1)
        seen.extend(targets.tolist())
    assert sorted(seen) == list(range(1, len(stream.tokens)))


@quick
@given(SIZES, LENGTHS)
def test_a_segment_is_one_run_of_one_document_with_positions_from_zero(sizes, length):
    stream = numbered_stream(sizes)
    for row in every_row(PackedRows(stream, length)):
        tokens, _, positions, segments = real(row)
        assert segments.tolist() == sorted(segments.tolist())
        for segment in np.unique(segments):
            piece = tokens[segments == segment]
            assert np.array_equal(piece, piece[0] + np.arange(len(piece)))
            assert len(set(np.searchsorted(stream.starts, piece, side="right"))) == 1
            assert np.array_equal(positions[segments == segment], np.arange(len(piece)))


@quick
@given(SIZES, LENGTHS)
def test_documents_that_fit_are_whole_and_others_are_cut_into_rows(sizes, length):
    stream = numbered_stream(sizes)
    pieces = {index: [] for index in range(len(sizes))}
    for row in every_row(PackedRows(stream, length)):
        tokens, _, _, segments = real(row)
        for segment in np.unique(segments):
            piece = tokens[segments == segment]
            pieces[int(np.searchsorted(stream.starts, piece[0], side="right")) - 1].append(len(piece))
    for index, size in enumerate(sizes):
        whole, rest = divmod(size, length)
        assert sorted(pieces[index], reverse=True) == [length] * whole + [rest] * (rest > 0)


@quick
@given(SIZES, LENGTHS)
def test_rows_have_their_length_and_padding_counts_for_nothing(sizes, length):
    for row in every_row(PackedRows(numbered_stream(sizes), length)):
        assert all(array.shape == (length,) for array in row)
        assert all(array.dtype == np.int32 for array in row[:4])
        assert row.weights.dtype == np.float32
        assert set(row.weights) <= {0.0, 1.0}
        assert np.array_equal(row.weights == 1, row.segments > 0)
        assert row.weights[0] == 1


def best_fit_decreasing(sizes, length):
    """The textbook: longest first, each to the fullest row with room."""
    rows = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row in rows if sum(row) + size <= length]
        if fitting:
            max(fitting, key=sum).append(size)
        else:
            rows.append([size])
    return rows


@quick
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.lists(st.integers(1, n), max_size=40), st.just(n))))
def test_packing_is_best_fit_decreasing(case):
    sizes, length = case
    order, starts = pack(np.array(sizes, np.int64), length)
    rows = [[sizes[piece] for piece in order[a:b]] for a, b in itertools.pairwise(starts)]
    assert sorted(order.tolist()) == list(range(len(sizes)))
    # Rows equally full are alike to the algorithm, so how full they end is what it determines.
    assert sorted(map(sum, rows)) == sorted(map(sum, best_fit_decreasing(sizes, length)))


def test_large_ids_survive_packing():
    row = PackedRows(numbered_stream([5], np.uint32, first=200_000), 5)[0]
    assert row.targets.tolist() == [200_001, 200_002, 200_003, 200_004, 200_005]


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_depends_on_seed_and_index_alone(weights, size):
    def fresh():
        return training_batches([full_rows(5), full_rows(8, first=1000)], weights, size, seed=7)

    in_order = fresh()
    expected = [in_order[index] for index in range(12)]
    assert all(isinstance(batch, Batch) and batch.tokens.shape == (size, 4) for batch in expected)
    backwards = fresh()
    for index in reversed(range(12)):
        assert equal(backwards[index], expected[index])
    for start in (0, 5):
        ahead = prefetch(fresh(), start)
        for index in range(start, start + 4):
            assert equal(next(ahead), expected[index])


def first_tokens(batches, count):
    return [int(token) for index in range(count) for token in batches[index].tokens[:, 0]]


@pytest.mark.parametrize("batch_size", [4, 5])
def test_without_weights_every_row_comes_once_an_epoch_in_a_new_order(batch_size):
    sources = [full_rows(5), full_rows(7, first=1000)]
    drawn = first_tokens(training_batches(sources, (), batch_size, seed=0), count=60 // batch_size)
    epochs = [drawn[start : start + 12] for start in range(0, 60, 12)]
    everything = sorted(names(sources[0]) + names(sources[1]))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert all(sorted(epoch[:5]) != names(sources[0]) for epoch in epochs)  # sources are mixed


def test_with_weights_shares_converge_and_no_row_is_preferred():
    sources = [full_rows(5), full_rows(40, first=1000)]
    drawn = first_tokens(training_batches(sources, (3.0, 1.0), batch_size=8, seed=0), count=40)
    small, large = [token for token in drawn if token < 1000], [token for token in drawn if token >= 1000]
    assert len(small) / 320 == pytest.approx(0.75, abs=0.01)
    for rows, part in zip(sources, (small, large), strict=True):
        counts = [part.count(name) for name in names(rows)]
        assert sum(counts) == len(part)
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("weights", [(), (1.0,)])
def test_seeds_give_different_orders(weights):
    orders = {
        tuple(first_tokens(training_batches([full_rows(30)], weights, 5, seed), count=6)) for seed in (0, 1, 2, 99)
    }
    assert len(orders) == 4


@pytest.mark.parametrize(("count", "batch_size"), [(11, 4), (3, 8), (8, 4)])
def test_validation_takes_every_row_once_and_fills_up_with_padding(count, batch_size):
    rows = full_rows(count)
    batches = validation_batches(rows, batch_size)
    assert len(batches) == -(-count // batch_size)
    kept = []
    for index in range(len(batches)):
        batch = batches[index]
        assert all(array.shape == (batch_size, 4) for array in batch)
        counts = batch.weights.sum(axis=1)
        assert np.all((counts == 4) | (counts == 0))
        kept.extend(batch.tokens[counts == 4, 0].tolist())
    assert sorted(kept) == names(rows)


def test_a_corpus_shorter_than_a_row_is_refused():
    stream = numbered_stream([3, 4])
    check_long_enough(stream, 7, "text:x")
    with pytest.raises(UserError, match=r"'text:x' has 7 training tokens.*sequence_length=8"):
        check_long_enough(stream, 8, "text:x")
