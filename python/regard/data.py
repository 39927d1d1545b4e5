"""Interactions: who met which item, when.

Ids of any type become rows of a sorted catalogue; a user's events become one row of a `Ragged`, oldest first. Rows of
the input that cannot be used are never dropped in silence: they are counted by reason, shown by example and warned of.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import html
from .features import ItemFeatures
from .frames import frame_columns, library_of, make_frame
from .ids import as_ids, rows_of
from .ragged import Ragged
from .tables import (
    EXAMPLES,
    BadRows,
    Column,
    encode,
    event_order,
    flat,
    plain_integers,
    read_ids,
    read_text,
    read_times,
    read_weights,
    resolve,
    whole,
)
from .timed import TimedHistories

__all__ = ["BadRows", "DataReport", "Interactions", "RegardDataWarning"]


class RegardDataWarning(UserWarning):
    """Some rows of the input could not be used."""


@dataclass(frozen=True)
class DataReport:
    """What became of the rows of the input.

    Attributes
    ----------
    n_rows, n_used : int
        Rows read; rows kept.
    bad : tuple of BadRows
        The others by reason, each row under the first reason that holds.
    unit : str
        What the numbers of the examples count: "row" from 0 in arrays and frames, "line" from 1 in files.
    """

    n_rows: int
    n_used: int
    bad: tuple[BadRows, ...] = ()
    unit: str = "row"

    @property
    def n_bad(self) -> int:
        """Rows left out."""
        return self.n_rows - self.n_used

    def __str__(self) -> str:
        lines = [f"{self.n_used:,} of {self.n_rows:,} rows used"]
        for bad in self.bad:
            shown = "; ".join(f"{self.unit} {number}: {content}" for number, content in bad.examples)
            more = "; ..." if bad.count > len(bad.examples) else ""
            lines.append(f"{bad.count:,} left out, {bad.reason} ({shown}{more})")
        return "\n  ".join(lines)


class Interactions:
    """Events of users with items, as one sequence of item rows for each user, oldest first.

    Parameters
    ----------
    user_id, item_id : (n,) array_like
        Ids: all integers (kept as int64), or all of one other type (kept as str). Whole floats count as integers,
        since data frames make floats of integer columns with gaps. None, NaN and "" are missing.
    datetime : (n,) array_like, default None
        Unix seconds, `numpy.datetime64`, `datetime.datetime` or ISO 8601 strings; without a time zone they are UTC.
        Equal times keep the order of the rows. None: the rows of each user are in order already.
    weight : (n,) array_like of finite numbers, default None
    titles : mapping of item id to str, default None
        Names to show; an item without one shows its id.

    Attributes
    ----------
    user_ids, item_ids : (n_users,), (n_items,) int64 or str
        Sorted, unique. The *row* of an item is its place here.
    sequences : Ragged of int32
        Item rows of each user, oldest first.
    times : Ragged of int64 (whole seconds) or float64, or None
    weights : Ragged of float32, or None
    titles : (n_items,) str, or None
    features : ItemFeatures, or None
        What is known of the items; see `with_features`.
    report : DataReport
        Rows that could not be used, by reason, with the first examples.
    library : "polars", "pandas", "pyarrow", or None
        Where the frame that this was made of came from; what `to_frame` gives by default.

    Raises
    ------
    TypeError
        Ids of mixed types; bools or fractions as ids.
    ValueError
        Columns of unequal length, no rows, or no usable row.

    Warns
    -----
    RegardDataWarning
        Once, if any row was left out: an id is missing, a time or weight is missing, not finite or not understood.

    Examples
    --------
    >>> data = Interactions(["ann", "bob", "ann"], ["tea", "tea", "cup"], datetime=[2, 1, 1])
    >>> data.item_ids[data.sequences[0]].tolist()
    ['cup', 'tea']
    """

    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    sequences: Ragged
    times: Ragged | None
    weights: Ragged | None
    titles: NDArray[np.str_] | None
    report: DataReport
    library: str | None = None
    features: ItemFeatures | None = None

    def __init__(
        self,
        user_id: ArrayLike,
        item_id: ArrayLike,
        datetime: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        *,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        given = {"user_id": user_id, "item_id": item_id, "datetime": datetime, "weight": weight}
        self._build({name: flat(name, v) for name, v in given.items() if v is not None}, titles=titles)

    @classmethod
    def from_frame(cls, frame: Any, *, columns: Mapping[str, str] | None = None) -> Self:
        """Interactions from a data frame.

        Parameters
        ----------
        frame : data frame
            pandas, Polars (also a LazyFrame), a pyarrow Table or what else narwhals knows; without narwhals (extra
            ``frames``) pandas, a Polars DataFrame or anything with `columns` and ``frame[name]``. It has the columns
            user_id, item_id and, if there, datetime and weight. Common spellings such as userId, movie or timestamp
            are understood (see ``regard.tables.ALIASES``); other columns are ignored.
        columns : mapping, default None
            Name in the frame → our name, e.g. ``{"who": "user_id"}``.

        Raises
        ------
        ValueError
            Columns not found; and as for `Interactions`.
        ImportError
            A LazyFrame or a Table without narwhals.
        """
        self = cls.__new__(cls)
        self._build(frame_columns(frame, lambda names: resolve(names, columns)))
        self.library = library_of(frame)
        return self

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        columns: Mapping[str, str] | Sequence[str | None] | None = None,
        separator: str | None = None,
    ) -> Self:
        """Interactions from a CSV, TSV or other text file, also gzipped (``.gz``), or from a Parquet file.

        Parameters
        ----------
        path : path
            UTF-8 text with a header line, or ``.parquet`` (needs the extra ``files``).
        columns : mapping or sequence, default None
            A mapping renames as in `from_frame`. A sequence names the columns of a file without a header, in order,
            None for those to ignore: ``["user_id", "item_id", None, "datetime"]``.
        separator : str, default None
            None: tab, comma, semicolon, ``|`` or blank, the first that the first line has. Any string such as "::".

        Notes
        -----
        Ids in a text file are int64 if all are plain integers ("12", not "012"), else str. Times are numbers (Unix
        seconds) or ISO 8601. Empty lines are ignored; lines with a wrong number of fields are reported as bad rows.

        Raises
        ------
        ValueError
            Damaged or cut-off file, text that is not UTF-8, columns not found; and as for `Interactions`.
        ImportError
            Parquet without Polars.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            try:
                import polars  # noqa: PLC0415
            except ImportError:
                raise ImportError("reading Parquet needs Polars: pip install 'regard[files]'") from None
            if columns is not None and not isinstance(columns, Mapping):
                raise ValueError("columns: expected a mapping for a Parquet file, which has a header")
            try:
                frame = polars.read_parquet(path)
            except polars.exceptions.PolarsError as error:
                raise ValueError(f"{path}: damaged, or not a Parquet file ({error})") from None
            return cls.from_frame(frame, columns=columns)
        texts, numbers, broken = read_text(path, columns, separator)
        for name in ("user_id", "item_id"):
            texts[name] = plain_integers(texts[name])
        self = cls.__new__(cls)
        self._build(texts, numbers=numbers, broken=broken, unit="line")
        return self

    @classmethod
    def from_sequences(
        cls,
        user_ids: NDArray[Any],
        item_ids: NDArray[Any],
        sequences: Ragged,
        *,
        times: Ragged | None = None,
        weights: Ragged | None = None,
        titles: NDArray[np.str_] | None = None,
        features: ItemFeatures | None = None,
    ) -> Self:
        """Interactions from sequences that are ready, keeping a given catalogue.

        Parameters
        ----------
        user_ids : (n_users,) int64 or str
            Sorted, unique; row i of the other arguments belongs to user i.
        item_ids : (n_items,) int64 or str
            Sorted, unique; may hold items that no sequence has.
        sequences : Ragged of item rows, oldest first
        times, weights : Ragged with the same offsets, default None
        titles : (n_items,) str, default None
        features : ItemFeatures, default None
        """
        user_ids, item_ids = (
            ids.astype(np.int64, copy=False) if (ids := np.asarray(given)).dtype.kind == "i" else ids
            for given in (user_ids, item_ids)
        )
        for name, ids in (("user_ids", user_ids), ("item_ids", item_ids)):
            if ids.dtype.kind not in "iU" or (ids[1:] <= ids[:-1]).any():
                raise ValueError(f"{name}: expected sorted, unique int64 or str, got {ids.dtype}")
        if len(sequences) != len(user_ids):
            raise ValueError(f"sequences: expected {len(user_ids)} rows (as user_ids), got {len(sequences)}")
        rows = sequences.values
        if rows.dtype.kind not in "iu" or (len(rows) and not 0 <= rows.min() <= rows.max() < len(item_ids)):
            raise ValueError(f"sequences: expected item rows from 0 to {len(item_ids) - 1}")
        for name, other in (("times", times), ("weights", weights)):
            if other is not None and not np.array_equal(other.offsets, sequences.offsets):
                raise ValueError(f"{name}: expected the offsets of sequences")
        if titles is not None and len(titles) != len(item_ids):
            raise ValueError(f"titles: expected {len(item_ids)} (as item_ids), got {len(titles)}")
        self = cls.__new__(cls)
        self.user_ids, self.item_ids, self.titles = user_ids, item_ids, titles
        self.sequences = Ragged(rows.astype(np.int32, copy=False), sequences.offsets)
        self.times, self.weights, self.features = times, weights, features
        self.report = DataReport(len(rows), len(rows))
        return self

    def with_features(self, features: ItemFeatures | None) -> Self:
        """The same interactions, with what is known of the items: models read it unless told not to.

        Parameters
        ----------
        features : ItemFeatures, or None
            May have items that no interaction has, and lack some.

        Raises
        ------
        TypeError
            Not `ItemFeatures`, or of items with ids of another type.
        """
        if features is not None:
            if not isinstance(features, ItemFeatures):
                raise TypeError(f"features: expected ItemFeatures or None, got {type(features).__name__}")
            as_ids("features.item_ids", features.item_ids, self.item_ids)
        other = copy.copy(self)
        other.features = features
        return other

    def take(self, users: ArrayLike) -> Self:
        """Some of the users and the items that they have: a sample to try things on.

        Parameters
        ----------
        users : (n,) integers, or (n_users,) bool
            Places in `user_ids`; a range will do.
        """
        chosen = np.asarray(users)
        rows = np.unique(np.arange(self.n_users)[chosen if chosen.size else chosen.astype(np.int64)])
        sequences = self.sequences.take(rows)
        had, places = np.unique(sequences.values, return_inverse=True)
        sample = type(self).from_sequences(
            self.user_ids[rows],
            self.item_ids[had],
            sequences.with_values(places),
            times=None if self.times is None else self.times.take(rows),
            weights=None if self.weights is None else self.weights.take(rows),
            titles=None if self.titles is None else self.titles[had],
            features=self.features,
        )
        sample.library = self.library
        return sample

    @property
    def timed_sequences(self) -> Ragged:
        """The sequences with their times, where every time is known; else as they are."""
        if self.times is None or not np.isfinite(self.times.values).all():
            return self.sequences
        return TimedHistories(self.sequences.values, self.sequences.offsets, self.times.values, 0)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Number of interactions."""
        return len(self.sequences.values)

    def __len__(self) -> int:
        return self.n_events

    def _repr_html_(self) -> str:
        density = self.n_events / (self.n_users * self.n_items)
        rows = [("users", self.n_users), ("items", self.n_items), ("events", self.n_events), ("density", density)]
        return html.table("Interactions", [*rows, ("rows left out", self.report.n_bad)])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events)"

    def popularity(self) -> NDArray[np.int64]:
        """Number of events of each item row, (n_items,) int64."""
        return np.bincount(self.sequences.values, minlength=self.n_items)

    def rows_of(self, ids: ArrayLike) -> NDArray[np.int32]:
        """Rows of the given item ids, int32, −1 for unknown ones. TypeError for ids of another type."""
        return rows_of(as_ids("ids", ids, self.item_ids), self.item_ids)

    def to_frame(self, library: str | None = None) -> Any:
        """One line for each event: ``user_id``, ``item_id`` and, where known, ``datetime`` and ``weight``.

        Parameters
        ----------
        library : "polars", "pandas" or "pyarrow", default None
            None: `library`, else the first of these that is installed.

        Returns
        -------
        data frame
            Sorted by user, oldest event first; `datetime` as in `times`, Unix seconds, so that `from_frame` gives the
            same interactions again.

        Raises
        ------
        ModuleNotFoundError
            The library is missing.
        """
        columns = {
            "user_id": np.repeat(self.user_ids, self.sequences.lengths),
            "item_id": self.item_ids[self.sequences.values],
        }
        for name, known in (("datetime", self.times), ("weight", self.weights)):
            if known is not None:
                columns[name] = known.values
        return make_frame(columns, library or self.library)

    def _build(
        self,
        given: Mapping[str, NDArray[Any] | Column],
        *,
        titles: Mapping[Any, str] | None = None,
        numbers: NDArray[np.int64] | None = None,
        broken: BadRows | None = None,
        unit: str = "row",
    ) -> None:
        for name in ("user_id", "item_id"):
            if given.get(name) is None:
                raise TypeError(f"{name}: expected an id for each event, got None")
        n = len(given["user_id"])
        for name, values in given.items():
            if len(values) != n:
                raise ValueError(f"{name}: expected {n} values (as user_id), got {len(values)}")
        n_read = n + (broken.count if broken else 0)
        if n_read == 0:
            raise ValueError("user_id: expected at least one row, got 0")
        parse: dict[str, Callable[..., Any]] = {
            "user_id": read_ids,
            "item_id": read_ids,
            "datetime": read_times,
            "weight": read_weights,
        }
        reasons = {
            "user_id": "user_id is missing",
            "item_id": "item_id is missing",
            "datetime": "datetime is missing or not a finite time",
            "weight": "weight is missing or not a finite number",
        }
        columns: dict[str, Any] = {}
        usable = np.ones(n, bool)
        found = [broken] if broken and broken.count else []
        for name, values in given.items():
            columns[name], bad = parse[name](name, values)
            bad &= usable
            if bad.any():
                examples = tuple(
                    (int(i if numbers is None else numbers[i]), ", ".join(f"{k}={v[i]}" for k, v in given.items()))
                    for i in np.flatnonzero(bad)[:EXAMPLES]
                )
                found.append(BadRows(reasons[name], int(bad.sum()), examples))
                usable &= ~bad
        self.report = DataReport(n_read, int(usable.sum()), tuple(found), unit)
        if not usable.any():
            raise ValueError(f"no usable rows: {self.report}")
        if found:
            warnings.warn(str(self.report), RegardDataWarning, stacklevel=3)
            columns = {name: values[usable] for name, values in columns.items()}
        self.user_ids, users = encode(columns.pop("user_id"))
        self.item_ids, items = encode(columns.pop("item_id"))
        times, weights = columns.get("datetime"), columns.get("weight")
        order = event_order(users, times)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users))])
        self.sequences = Ragged(items[order].astype(np.int32, copy=False), offsets)
        self.times = None if times is None else Ragged(whole(times[order]), offsets)
        self.weights = None if weights is None else Ragged(weights[order], offsets)
        self.titles = None
        if titles is not None:
            self.titles = np.array([titles.get(i, str(i)) for i in self.item_ids.tolist()], str)
