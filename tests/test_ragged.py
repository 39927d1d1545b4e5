import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(-100, 100), max_size=5), max_size=8)


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged.from_lists(rows, dtype=np.int64)


def test_rows_are_views_of_the_values() -> None:
    r = Ragged(np.arange(5), [0, 2, 2, 5])
    assert (len(r), r.n_rows, r.lengths.tolist(), r.tolist()) == (3, 3, [2, 0, 3], [[0, 1], [], [2, 3, 4]])
    r[2][0] = 7
    assert r.values[2] == 7
    assert r[-1].tolist() == [7, 3, 4]
    assert r.row_of.tolist() == [0, 0, 2, 2, 2]
    assert r.offsets.dtype == np.int64


def test_a_row_that_is_not_there_is_an_index_error() -> None:
    for i in (2, -3):
        with pytest.raises(IndexError):
            Ragged.from_lists([[1], [2]])[i]


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        ([1, 2], [0, 1], r"offsets: expected the last to be 2 \(len\(values\)\), got 1"),
        ([1, 2], [1, 2], "offsets: expected the first to be 0, got 1"),
        ([1, 2], [0, 2, 1, 2], "offsets: must never fall, got 2 before 1 at 2"),
        ([1, 2], [], "offsets: expected"),
        ([1, 2], [0.0, 2.0], "offsets: expected"),
        ([[1, 2]], [0, 2], r"values: expected one dimension, got shape \(1, 2\)"),
    ],
)
def test_wrong_offsets_are_refused_with_what_was_expected(values: list, offsets: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ragged(values, offsets)


def test_numbers_and_strings_do_not_mix() -> None:
    with pytest.raises(TypeError, match="expected one type in all rows"):
        Ragged.from_lists([[1], ["a"]])


@given(ROWS, st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_cutting_rows_is_cutting_lists(rows: list[list[int]], n: int) -> None:
    r = ragged(rows)
    assert r.tolist() == rows == [row.tolist() for row in r]
    assert r.head(n).tolist() == [row[:n] for row in rows]
    assert r.tail(n).tolist() == [row[max(len(row) - n, 0) :] for row in rows]
    assert r.drop_last(n).tolist() == [row[: max(len(row) - n, 0)] for row in rows]
    each = np.arange(len(rows))
    assert r.tail(each).tolist() == [row[max(len(row) - i, 0) :] for i, row in enumerate(rows)]
    assert r == ragged(rows)
    assert Ragged.concatenate([r, r]).tolist() == rows + rows


@given(ROWS, st.slices(8), st.randoms())
@settings(max_examples=30, deadline=None)
def test_choosing_rows_is_choosing_lists(rows: list[list[int]], part: slice, random) -> None:
    r = ragged(rows)
    assert r[part].tolist() == rows[part]
    chosen = [random.randrange(-len(rows), len(rows)) for _ in range(5)] if rows else []
    assert r.take(chosen).tolist() == [rows[i] for i in chosen]
    mask = np.array([random.random() < 0.5 for _ in rows], bool)
    assert r.take(mask).tolist() == [row for row, kept in zip(rows, mask, strict=True) if kept]


def test_equality_needs_the_same_rows_not_only_the_same_values() -> None:
    assert Ragged.from_lists([[1], [2]]) != Ragged.from_lists([[1, 2]])
    assert Ragged.from_lists([[1]]) != [[1]]


def test_counts_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="n: expected integers of 0 or more, got -1"):
        Ragged.from_lists([[1]]).tail(-1)
    with pytest.raises(ValueError, match="k: expected"):
        Ragged.from_lists([[1]]).drop_last(-1)
