"""Rows of different length, one after another in one array.

A batch of histories, of candidates or of items to exclude is written this way from the data loader to the kernels:
no padding, no mask. Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Ragged"]


class Ragged:
    """An array of rows of different length.

    Parameters
    ----------
    values : (total,) array
        All rows, one after another. Not copied.
    offsets : (n_rows + 1,) integers
        Where each row starts, and the end: first 0, never falling, last ``len(values)``. Kept as int64.

    Raises
    ------
    ValueError
        If the offsets do not describe rows of `values`: "offsets: expected the last to be 5 (len(values)), got 4".

    Examples
    --------
    >>> r = Ragged.from_lists([[3, 1, 2], [], [7]])
    >>> len(r), r[0], r.tail(1).tolist()
    (3, array([3, 1, 2]), [[2], [], [7]])
    """

    __slots__ = ("offsets", "values")
    __hash__ = None  # type: ignore[assignment]  # the arrays can change

    def __init__(self, values: ArrayLike, offsets: ArrayLike) -> None:
        self.values: NDArray[Any] = np.asarray(values)
        given = np.asarray(offsets)
        if self.values.ndim != 1:
            raise ValueError(f"values: expected one dimension, got shape {self.values.shape}")
        if given.ndim != 1 or len(given) == 0 or given.dtype.kind not in "iu":
            raise ValueError(f"offsets: expected (n_rows + 1,) integers, got shape {given.shape} of {given.dtype}")
        self.offsets: NDArray[np.int64] = np.ascontiguousarray(given, np.int64)
        if self.offsets[0] != 0:
            raise ValueError(f"offsets: expected the first to be 0, got {self.offsets[0]}")
        falls = np.flatnonzero(self.offsets[1:] < self.offsets[:-1])
        if len(falls):
            i = int(falls[0])
            raise ValueError(f"offsets: must never fall, got {self.offsets[i]} before {self.offsets[i + 1]} at {i + 1}")
        if (end := self.offsets[-1]) != len(self.values):
            raise ValueError(f"offsets: expected the last to be {len(self.values)} (len(values)), got {end}")

    @classmethod
    def from_lists(cls, rows: Iterable[ArrayLike], dtype: DTypeLike | None = None) -> Ragged:
        """Rows from an iterable of lists or 1-D arrays.

        Parameters
        ----------
        rows : iterable of 1-D array_like
        dtype : default None
            Type of `values`; None takes what NumPy makes of the rows that are not empty, and int64 if all are empty.
        """
        arrays = [np.asarray(row) for row in rows]
        for i, row in enumerate(arrays):
            if row.ndim != 1:
                raise ValueError(f"rows: expected one dimension in row {i}, got shape {row.shape}")
        full = [row for row in arrays if len(row)]
        if len(kinds := {"number" if row.dtype.kind in "biuf" else row.dtype.kind for row in full}) > 1:
            raise TypeError(f"rows: expected one type in all rows, got kinds {sorted(kinds)}")  # or 1 would become "1"
        values = np.concatenate(full) if full else np.empty(0, np.int64 if dtype is None else dtype)
        return cls.from_lengths(values if dtype is None else values.astype(dtype), [len(row) for row in arrays])

    @classmethod
    def from_lengths(cls, values: ArrayLike, lengths: ArrayLike) -> Ragged:
        """Rows from all values and the length of each row, (n_rows,) integers."""
        return cls(values, np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]))

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (n_rows,) int64."""
        return np.diff(self.offsets)

    @property
    def row_of(self) -> NDArray[np.int64]:
        """For each value the number of its row, (total,) int64."""
        return np.repeat(np.arange(self.n_rows), self.lengths)

    @property
    def ages(self) -> NDArray[np.int64]:
        """For each value how many come after it in its row, (total,) int64."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.values))

    def __len__(self) -> int:
        return self.n_rows

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Ragged: ...
    def __getitem__(self, index: int | np.integer[Any] | slice) -> NDArray[Any] | Ragged:
        """Row `index` as a view, or the rows of a slice as a `Ragged` (values are a view where the step is 1)."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self.n_rows)
            if step != 1:
                return self.take(np.arange(start, stop, step))
            first, offsets = self.offsets[start], self.offsets[start : max(start, stop) + 1]
            return Ragged(self.values[first : offsets[-1]], offsets - first)
        i = int(index) + (self.n_rows if index < 0 else 0)
        if not 0 <= i < self.n_rows:
            raise IndexError(f"row {index} of {self.n_rows}")
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        bounds = self.offsets.tolist()
        return (self.values[a:b] for a, b in pairwise(bounds))

    def pieces(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        """The pieces ``values[starts[i]:starts[i] + lengths[i]]`` as rows, wherever rows begin."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(self.values[places], offsets)

    def pick(self, places: Ragged, rows: NDArray[Any]) -> Ragged:
        """The values at these places; row i of the places belongs to row ``rows[i]``."""
        return Ragged(self.values[places.values], places.offsets)

    def with_values(self, values: NDArray[Any]) -> Ragged:
        """Rows of the same lengths with other values."""
        return Ragged(values, self.offsets)

    def take(self, rows: ArrayLike) -> Ragged:
        """The given rows, in the given order.

        Parameters
        ----------
        rows : (n,) integers, negative ones count from the end, or (n_rows,) bool
        """
        chosen = np.asarray(rows)
        if chosen.dtype == bool and chosen.shape != (self.n_rows,):
            raise ValueError(f"rows: expected a mask of shape ({self.n_rows},), got {chosen.shape}")
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        return self.pieces(self.offsets[:-1][chosen], self.lengths[chosen])

    def head(self, n: int | ArrayLike) -> Ragged:
        """The first `n` values of each row, `n` an int or (n_rows,) integers; all of a shorter row."""
        return self.pieces(self.offsets[:-1], np.minimum(self.lengths, _counts(n)))

    def tail(self, n: int | ArrayLike) -> Ragged:
        """The last `n` values of each row, `n` an int or (n_rows,) integers; all of a shorter row."""
        lengths = np.minimum(self.lengths, _counts(n))
        return self.pieces(self.offsets[1:] - lengths, lengths)

    def drop_last(self, k: int | ArrayLike = 1) -> Ragged:
        """Each row without its last `k` values, `k` an int or (n_rows,) integers; empty where it has no more."""
        return self.head(np.maximum(self.lengths - _counts(k, "k"), 0))

    def tolist(self) -> list[list[Any]]:
        """The rows as lists of Python values."""
        return [row.tolist() for row in self]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ragged):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.values, other.values)

    def __repr__(self) -> str:
        shown = ", ".join(str(row.tolist()) for row in self[:3]) if len(self.values) < 100 else "..."
        return f"Ragged({self.n_rows} rows, {len(self.values)} values of {self.values.dtype}: {shown})"

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one after another (at least one part)."""
        return cls.from_lengths(np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts]))


def _counts(n: int | ArrayLike, name: str = "n") -> NDArray[np.int64]:
    counts = np.asarray(n)
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"{name}: expected integers of 0 or more, got {n!r}")
    return counts.astype(np.int64)
