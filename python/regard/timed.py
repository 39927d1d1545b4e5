"""Histories whose events have times, asked about a moment."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ragged import Ragged
from .tables import seconds

__all__ = ["TimedHistories"]


class TimedHistories(Ragged):
    """Rows of events with the time of each, and for each row the moment at which the next event is foretold.

    What takes histories takes these; a model that knows no times reads the items alone. Rows stay together with their
    times in `take`, `head`, `tail` and slices.

    Parameters
    ----------
    values, offsets : as of `Ragged`
    times : (total,) Unix seconds
        Fractions are cut off.
    asked_at : (n_rows,) Unix seconds, or one for all, default now

    Raises
    ------
    ValueError
        Not one time for each event or not one moment for each row; NaN among them.

    Examples
    --------
    >>> histories = TimedHistories.from_lists([["tea", "cup"], ["pot"]], times=[[10, 20], [15]], asked_at=30)
    >>> histories.tail(1).times.tolist()
    [20, 15]
    """

    __slots__ = ("asked_at", "times")
    __hash__ = None  # as `Ragged`

    def __init__(self, values: ArrayLike, offsets: ArrayLike, times: ArrayLike, asked_at: Any = None) -> None:
        super().__init__(values, offsets)
        self.times = whole_seconds("times", times, len(self.values))
        if asked_at is None or np.ndim(asked_at) == 0:
            asked_at = np.full(len(self), moment(asked_at))
        self.asked_at = whole_seconds("asked_at", asked_at, len(self))

    @classmethod
    def from_lists(  # type: ignore[override]
        cls, rows: Iterable[ArrayLike], *, times: Iterable[ArrayLike], asked_at: Any = None
    ) -> Self:
        """From a list of events and a list of times for each row.

        Raises
        ------
        ValueError
            A row with another number of times than events.
        """
        events, moments = Ragged.from_lists(rows), Ragged.from_lists(times, np.float64)
        if not np.array_equal(events.offsets, moments.offsets):
            raise ValueError("times: expected a list for each history, with a time for each event")
        return cls(events.values, events.offsets, moments.values, asked_at)

    @property
    def next_times(self) -> NDArray[np.int64]:
        """For each event the time of the one after it, for the last of a row the moment that is asked about."""
        after = np.append(self.times[1:], 0)[: len(self.times)]
        full = np.flatnonzero(self.lengths)
        after[self.offsets[1:][full] - 1] = self.asked_at[full]
        return after

    def with_values(self, values: NDArray[Any]) -> TimedHistories:
        """The same times with other names of the items."""
        return TimedHistories(values, self.offsets, self.times, self.asked_at)

    def pick(self, places: Ragged, rows: NDArray[Any]) -> TimedHistories:
        """See `Ragged.pick`."""
        at = places.values
        return TimedHistories(self.values[at], places.offsets, self.times[at], self.asked_at[rows])

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return super().__getitem__(index)
        return self.take(np.arange(len(self))[index])

    def take(self, rows: ArrayLike) -> TimedHistories:
        """See `Ragged.take`."""
        chosen = np.asarray(rows)
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        return self.pick(self._places().take(chosen), np.arange(len(self))[chosen])

    def head(self, n: int | ArrayLike) -> TimedHistories:
        """See `Ragged.head`."""
        return self.pick(self._places().head(n), np.arange(len(self)))

    def tail(self, n: int | ArrayLike) -> TimedHistories:
        """See `Ragged.tail`."""
        return self.pick(self._places().tail(n), np.arange(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimedHistories):
            return NotImplemented
        same = np.array_equal(self.times, other.times) and np.array_equal(self.asked_at, other.asked_at)
        return same and super().__eq__(other)

    @classmethod
    def concatenate(cls, parts: Sequence[TimedHistories]) -> TimedHistories:  # type: ignore[override]
        """See `Ragged.concatenate`."""
        whole = Ragged.concatenate(parts)
        times, asked_at = (np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "asked_at"))
        return cls(whole.values, whole.offsets, times, asked_at)

    def _places(self) -> Ragged:
        return Ragged(np.arange(len(self.values)), self.offsets)


def moment(asked_at: Any) -> int:
    """Whole Unix seconds of a time, or of now; ValueError or TypeError as of `regard.tables.seconds`."""
    at = time.time() if asked_at is None else seconds(asked_at)
    return int(whole_seconds("asked_at", [at], 1)[0])


def whole_seconds(name: str, times: ArrayLike, n: int) -> NDArray[np.int64]:
    """A row of n times as whole Unix seconds, fractions cut off; ValueError otherwise."""
    array = np.asarray(times)
    if array.shape != (n,) or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected {n} numbers (Unix seconds), got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or an infinite one")
    return np.floor(array).astype(np.int64) if array.dtype.kind == "f" else array.astype(np.int64, copy=False)
