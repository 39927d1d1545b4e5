"""Impressions: what was shown to whom, and what of it was clicked; with facts about the user and the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .features import ItemFeatures, mean_and_spread
from .ids import as_ids, id_lists
from .ragged import Ragged
from .tables import flat

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Feature", "Impressions", "any_ids", "encode_features", "learn_features", "read_columns"]

Columns = dict[str, "NDArray[Any]"]


class Impressions:
    """Histories, the candidates that were shown after each, and which of these were clicked.

    Parameters
    ----------
    histories : n lists of item ids, oldest first, or a `Ragged` of ids
        What the user had met before the impression; may be empty.
    candidates : n lists of item ids, or a `Ragged`
        Shown together, so that they share the work on the history. A list may have a single one.
    labels : n lists of 0 or 1, a `Ragged`, or one flat array in the order of the candidates
    user_ids : (n,) ids, optional
        For AUC within users; default: each impression for itself.
    user_features, context : mapping of name to (n,) array_like, optional
        Columns of text, bool or numbers about the user and about the moment of the request. Text and bools are
        categories (write whole numbers that mean categories as text), numbers are numbers. None, NaN and "" are
        missing.
    item_features : ItemFeatures, optional
        What is known of the items, candidates and events alike.

    Attributes
    ----------
    histories, candidates : Ragged of int64 or str
    labels : (n_candidates,) float32
    user_ids : (n,) int64 or str, or None
    user_features, context : dict of arrays
    item_features : ItemFeatures or None

    Raises
    ------
    ValueError
        Lengths that do not fit; a label other than 0 and 1 (NaN among them); a number that is infinite.
    TypeError
        Ids of mixed types or floats; a column that is neither text nor numbers; item features of another kind, or of
        items with ids of another type.

    Examples
    --------
    >>> shown = Impressions([["tea"], []], [["cup", "pot"], ["tea"]], [[1, 0], [0]])
    >>> len(shown), shown.labels.tolist()
    (2, [1.0, 0.0, 0.0])
    """

    def __init__(
        self,
        histories: Any,
        candidates: Any,
        labels: Any,
        *,
        user_ids: ArrayLike | None = None,
        user_features: Mapping[str, ArrayLike] | None = None,
        context: Mapping[str, ArrayLike] | None = None,
        item_features: ItemFeatures | None = None,
    ) -> None:
        self.candidates = any_ids("candidates", candidates)
        n = len(self.candidates)
        self.histories = any_ids("histories", histories, self.candidates.values)
        if len(self.histories) != n:
            raise ValueError(f"histories: expected {n} lists (as candidates), got {len(self.histories)}")
        self.labels = _labels(labels, self.candidates)
        self.user_ids = None if user_ids is None else np.asarray(user_ids)
        if self.user_ids is not None and self.user_ids.shape != (n,):
            raise ValueError(f"user_ids: expected {n} ids (as candidates), got shape {self.user_ids.shape}")
        self.user_features = read_columns("user_features", user_features, n)
        self.context = read_columns("context", context, n)
        if item_features is not None:
            if not isinstance(item_features, ItemFeatures):
                raise TypeError(f"item_features: expected ItemFeatures or None, got {type(item_features).__name__}")
            as_ids("item_features.item_ids", item_features.item_ids, self.candidates.values)
        self.item_features = item_features

    @classmethod
    def _request(cls, histories: Ragged, candidates: Ragged, user_features: Any, context: Any) -> Impressions:
        """What a model is asked: ids that are ready, no labels."""
        asked = object.__new__(cls)
        asked.histories, asked.candidates, asked.user_ids = histories, candidates, None
        asked.user_features = read_columns("user_features", user_features, len(histories))
        asked.context = read_columns("context", context, len(histories))
        asked.item_features = None
        return asked

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        n = len(self.labels)
        return f"Impressions({len(self):,}, {n:,} candidates, {int(self.labels.sum()):,} clicked)"

    def take(self, rows: ArrayLike) -> Impressions:
        """The given impressions, in the given order: (m,) integers or (n,) bool."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        part = object.__new__(Impressions)
        part.histories, part.candidates = self.histories.take(chosen), self.candidates.take(chosen)
        part.labels = Ragged(self.labels, self.candidates.offsets).take(chosen).values
        part.user_ids = None if self.user_ids is None else self.user_ids[chosen]
        part.user_features = {name: column[chosen] for name, column in self.user_features.items()}
        part.context = {name: column[chosen] for name, column in self.context.items()}
        part.item_features = self.item_features
        return part

    @property
    def groups(self) -> NDArray[Any]:
        """(n_candidates,): the user of each candidate, or the number of its impression."""
        row = self.candidates.row_of
        return row if self.user_ids is None else self.user_ids[row]


def any_ids(name: str, lists: Any, like: NDArray[Any] | None = None) -> Ragged:
    """Lists of ids, of the type of ``like`` or, without it, of their own first id."""
    if like is None or not len(like):
        flat_values: Any = lists.values if isinstance(lists, Ragged) else next((x for x in lists if np.size(x)), ())
        first = np.ravel(np.asarray(flat_values, object))[:1].tolist()
        like = np.empty(0, str if first and isinstance(first[0], str) else np.int64)
    ids, alone = id_lists(name, lists, like[:0])
    if alone and np.size(lists):
        raise ValueError(f"{name}: expected one list for each impression, got one flat list")
    return Ragged(ids.values, [0] * (len(lists) + 1)) if alone else ids


def _labels(labels: Any, candidates: Ragged) -> NDArray[np.float32]:
    if not isinstance(labels, Ragged):
        nested = np.ndim(labels) == 2 if isinstance(labels, np.ndarray) else any(np.ndim(row) for row in labels)
        labels = Ragged.from_lists(labels) if nested else np.asarray(labels)
    if isinstance(labels, Ragged):
        if not np.array_equal(labels.lengths, candidates.lengths):
            n, m = len(labels), len(candidates)
            row = int(np.argmax(labels.lengths != candidates.lengths)) if n == m else min(n, m)
            raise ValueError(f"labels: expected one for each candidate, got other numbers from impression {row} on")
        labels = labels.values
    if labels.shape != candidates.values.shape:
        raise ValueError(f"labels: expected {len(candidates.values)} (one for each candidate), got {labels.shape}")
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"labels: expected 0 or 1, got {labels.dtype}")
    if (wrong := ~((labels == 0) | (labels == 1))).any():
        raise ValueError(f"labels: expected 0 or 1, got {labels[wrong][0]} for candidate {int(np.argmax(wrong))}")
    return np.asarray(labels, np.float32)


# ---- columns ------------------------------------------------------------------------------------------------------


def read_columns(name: str, columns: Mapping[str, ArrayLike] | None, n: int) -> Columns:
    """Each column as (n,) float64, NaN where missing, or as (n,) str objects, None where missing."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise TypeError(f"{name}: expected a mapping of names to columns, got {type(columns).__name__}")
    return {key: _column(f"{name}: {key!r}", values, n) for key, values in columns.items()}


def _column(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    array = flat(name, values)
    if len(array) != n:
        raise ValueError(f"{name}: expected {n} values, got {len(array)}")
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in array.tolist()]
    missing = [cell is None or cell == "" or cell != cell for cell in cells]  # noqa: PLR0124  # NaN
    kinds = {type(cell) for cell, lacks in zip(cells, missing, strict=True) if not lacks}
    if kinds <= {int, float} and array.dtype.kind != "U":
        numbers = np.array([np.nan if lacks else cell for cell, lacks in zip(cells, missing, strict=True)], float)
        if np.isinf(numbers).any():
            raise ValueError(f"{name}: expected finite numbers, got {numbers[np.isinf(numbers)][0]}")
        return numbers
    if kinds <= {str} or kinds <= {bool}:
        words = np.empty(n, object)
        words[:] = [None if lacks else str(cell) for cell, lacks in zip(cells, missing, strict=True)]
        return words
    raise TypeError(f"{name}: expected text, bools or numbers, got {' and '.join(sorted(k.__name__ for k in kinds))}")


class Feature(dict[str, Any]):
    """What a model remembers of a column: ``name`` and either ``words`` (sorted) or ``mean`` and ``std``; JSON."""

    @property
    def is_category(self) -> bool:
        return "words" in self


def learn_features(columns: Columns) -> list[Feature]:
    """Words of each column of text, mean and standard deviation (1 if it is 0) of each column of numbers."""
    features = []
    for name, column in columns.items():
        if column.dtype == object:
            features.append(Feature(name=name, words=sorted({word for word in column if word is not None})))
            continue
        mean, std = mean_and_spread(column[~np.isnan(column)])
        features.append(Feature(name=name, mean=mean, std=std))
    return features


def encode_features(
    argument: str, columns: Columns, features: list[Feature], n: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Places of the words, (n, n_categories), the last place for unknown ones; standardised numbers, 0 if missing.

    Raises
    ------
    ValueError
        A column is missing, or unknown.
    TypeError
        Text where training had numbers, or numbers where it had text.
    """
    names = [feature["name"] for feature in features]
    if set(columns) != set(names):
        given = ", ".join(sorted(columns)) or "none"
        raise ValueError(f"{argument}: expected the columns {', '.join(sorted(names)) or 'none'}, got {given}")
    codes: list[NDArray[Any]] = []
    numbers: list[NDArray[Any]] = []
    for feature in features:
        column = columns[feature["name"]]
        if all_missing := len(column) > 0 and column.dtype != object and bool(np.isnan(column).all()):
            column = np.full(n, None, object)  # neither text nor numbers: fits both
        if feature.is_category:
            if column.dtype != object:
                raise TypeError(f"{argument}: {feature['name']!r}: expected text, as in training, got numbers")
            place = {word: i for i, word in enumerate(feature["words"])}
            codes.append(np.array([place.get(word, len(place)) for word in column], np.int32))
        else:
            if column.dtype == object and not all_missing and any(word is not None for word in column):
                raise TypeError(f"{argument}: {feature['name']!r}: expected numbers, as in training, got text")
            values = np.full(n, np.nan) if column.dtype == object else column
            numbers.append(np.nan_to_num((values - feature["mean"]) / feature["std"]))
    return (
        np.stack(codes, axis=1).astype(np.int32) if codes else np.empty((n, 0), np.int32),
        np.stack(numbers, axis=1).astype(np.float32) if numbers else np.empty((n, 0), np.float32),
    )
