"""The ids that users write, and the rows of the catalogue that the library computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .frames import frame_columns, is_frame
from .ragged import Ragged
from .tables import Column, encode, event_order, objects, read_ids, read_times
from .timed import TimedHistories

__all__ = ["as_ids", "drop_unknown", "frame_lists", "id_lists", "ids_of", "rows_of"]


def rows_of(ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Positions of ids in the sorted ``item_ids``, int32, -1 where there is none."""
    if not len(item_ids):
        return np.full(len(ids), -1, np.int32)
    rows = np.minimum(np.searchsorted(item_ids, ids), len(item_ids) - 1).astype(np.int32)
    return np.where(item_ids[rows] == ids, rows, np.int32(-1))


def ids_of(rows: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Ids of rows of the catalogue, of any shape; -1 becomes the padding, -1 or ""."""
    ids: np.ndarray = item_ids[rows]
    ids[rows < 0] = -1 if item_ids.dtype.kind == "i" else ""
    return ids


def drop_unknown(rows: Ragged) -> Ragged:
    """Rows without the values that are -1."""
    known = rows.values >= 0
    places = Ragged(np.flatnonzero(known), np.concatenate([[0], np.cumsum(known)])[rows.offsets])
    return rows.pick(places, np.arange(len(rows)))


def as_ids(name: str, values: Any, item_ids: np.ndarray, *, known: bool = False) -> np.ndarray:
    """A flat array of ids of the catalogue's type; nothing is converted that could change an id.

    With ``known`` only ids of the catalogue matter. A text that cannot be one of them may then come back as another
    that is none either: NumPy gives every text of an array the room of the longest, and drops NULs at its end.

    Raises
    ------
    TypeError
        Another type than the catalogue's, or mixed types.
    """
    expected = "int64" if item_ids.dtype.kind == "i" else "str"
    if isinstance(values, str | bytes):
        raise TypeError(f"{name}: expected a list of item ids, got {type(values).__name__} {values!r}")
    # NumPy would turn [1, "a"] into strings and [True] into a number: a list is looked at element by element
    listed = isinstance(values, Sequence) and not isinstance(values, np.ndarray)
    array = np.fromiter(values, object, len(values)) if listed else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a flat list of ids, got an array of shape {array.shape}")
    if not array.size:
        return np.empty(0, item_ids.dtype)
    if array.dtype.kind in "OT":
        kinds = sorted({_kind(value) for value in array.tolist()})
        got = " and ".join(kinds)
        fits = kinds == [expected]
    else:
        got = {"i": "int64", "u": "int64", "U": "str"}.get(array.dtype.kind, str(array.dtype))
        fits = got == expected
    if not fits:
        hint = " (are there missing values?)" if array.dtype.kind == "f" or "float" in got else ""
        raise TypeError(f"{name}: expected {expected} item ids, got {got}{hint}")
    if expected == "str":
        if known and array.dtype.kind == "O":
            longest = item_ids.dtype.itemsize // 4
            none = "\uffff" * (longest + 1)
            array = objects(none if len(text) > longest or text[-1:] == "\0" else text for text in array.tolist())
        return array.astype(str)
    try:
        beyond = array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max
        ids = array.astype(np.int64)
    except OverflowError:
        beyond = True
    if beyond:
        raise ValueError(f"{name}: an item id is beyond the range of int64")
    return ids


def id_lists(name: str, values: Any, item_ids: np.ndarray, *, known: bool = False) -> tuple[Ragged, bool]:
    """One list of ids for each row, from all the forms that users write; and whether it was one flat list."""
    if isinstance(values, Ragged):
        return values.with_values(as_ids(name, values.values, item_ids, known=known)), False
    if is_frame(values):
        return frame_lists(name, values, item_ids)[1], False
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list of item ids or a list of lists, got {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.ndim == 2:
        ids = as_ids(name, values.ravel(), item_ids, known=known)
        return Ragged.from_lengths(ids, [values.shape[1]] * len(values)), False
    if not isinstance(values, np.ndarray) or values.dtype.kind == "O":
        values = values if isinstance(values, Sequence) else list(values)
        nested = [not isinstance(value, (str, bytes)) and isinstance(value, Iterable) for value in values]
        if any(nested):
            if not all(nested):
                raise TypeError(f"{name}: expected a flat list or a list of lists, got a mix of both")
            lists = [as_ids(name, value, item_ids, known=known) for value in values]
            return Ragged.from_lengths(np.concatenate(lists), [len(ids) for ids in lists]), False
    ids = as_ids(name, values, item_ids, known=known)
    return Ragged(ids, [0, len(ids)]), True


def frame_lists(name: str, frame: Any, item_ids: np.ndarray) -> tuple[np.ndarray, Ragged]:
    """Users and histories of a data frame: in the order of the users' first lines, each history in the order of time.

    With a column ``datetime`` the histories have times, and the moment that is asked about is now.

    Raises
    ------
    ValueError
        No column ``user_id`` or ``item_id``; missing users or times.
    TypeError
        Item ids of another type than the catalogue's, or missing ones.
    """
    columns = frame_columns(frame, lambda names: _history_columns(name, names))
    items = columns["item_id"]
    if isinstance(items, Column):
        if items.missing.any():
            raise TypeError(f"{name}: column 'item_id' has missing values")
        items = items.values if items.words is None else np.array(items.words, str)[items.values]
    ids = as_ids(name, items, item_ids)
    if not len(ids):
        return np.empty(0, np.int64), Ragged(ids, [0])
    users, times = _whole_column(name, columns, read_ids, "user_id"), None
    if "datetime" in columns:
        times = _whole_column(name, columns, read_times, "datetime")
    user_ids, user = encode(users)
    first = np.full(len(user_ids), len(ids))
    np.minimum.at(first, user, np.arange(len(ids)))
    appearance = np.argsort(first)
    place = np.empty_like(appearance)
    place[appearance] = np.arange(len(appearance))
    user = place[user]
    order = event_order(user, times)
    histories = Ragged.from_lengths(ids[order], np.bincount(user))
    if times is not None:
        histories = TimedHistories(histories.values, histories.offsets, times[order])
    return user_ids[appearance], histories


def _history_columns(name: str, found: list[str]) -> dict[str, str]:
    for column in ("user_id", "item_id"):
        if column not in found:
            raise ValueError(f"{name}: the data frame has no column {column!r}, only {', '.join(found)}")
    return {column: column for column in ("user_id", "item_id", "datetime") if column in found}


def _whole_column(name: str, columns: dict[str, Any], read: Callable[..., tuple[Any, Any]], column: str) -> Any:
    values, bad = read(f"{name}: {column}", columns[column])
    if bad.any():
        raise ValueError(f"{name}: column {column!r} has missing values")
    return values


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool)):
        return "bool"
    if isinstance(value, (int, np.integer)):
        return "int64"
    return "str" if isinstance(value, str) else type(value).__name__
