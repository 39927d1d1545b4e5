"""Items that are like those of the history, by what is known of the items alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regard import ops
from regard.features import EncodedFeatures
from regard.ragged import Ragged
from regard.recommender import Recommender

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions


class ContentBased(Recommender):
    """Cosine between the features of an item and the mean of those of the history, events weighted by age.

    An item is a vector of length 1 made of its categories, weighted by tf-idf (``1 / sqrt(values of the item)`` times
    ``log(items / items with the value)``, then brought to length 1), its numbers, standardised and divided by the
    square root of how many there are, and its own vectors, scaled to a mean square length of 1. Users' events serve
    only to tell which items there are, so an item nobody had yet can be recommended.

    Parameters
    ----------
    decay : float, default 0.8
        Weight of an event per step back in the history.

    Raises
    ------
    ValueError
        In ``fit``: the data have no item features.

    Notes
    -----
    Items without features, and histories of such items, score 0.
    """

    #: Candidates of `tune` that differ in these alone share one fit.
    query_params = ("decay",)
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"decay": (0.8, 1.0, 0.9, 0.6, 0.4)}

    def __init__(self, *, decay: float = 0.8) -> None:
        self.decay = decay

    def fit(self, data: Interactions) -> Self:
        """Weigh the features of the items."""
        if data.features is None:
            raise ValueError("data: ContentBased needs item features (Interactions.with_features), got none")
        self._set_catalogue(data)
        features = EncodedFeatures.fit(data.features, data.item_ids)
        n_values = sum(len(values) for values in features.how["categories"].values())
        keys = features.entries.row_of * n_values + features.entries.values
        _, once = np.unique(keys, return_index=True)  # an item may list a value twice
        item = features.entries.row_of[once]
        entries = Ragged.from_lengths(features.entries.values[once], np.bincount(item, minlength=data.n_items))
        n_items_of = np.maximum(np.bincount(entries.values, minlength=n_values), 1)
        weights = features.weights[once] * np.log(data.n_items / n_items_of)[entries.values]
        weights /= _lengths(np.bincount(item, weights**2, data.n_items))[item]
        dense = features.dense.astype(np.float64)
        n_numbers = len(features.how["numbers"])
        dense[:, :n_numbers] /= np.sqrt(max(n_numbers, 1))
        length = _lengths(np.bincount(item, weights**2, data.n_items) + np.square(dense).sum(axis=1))
        self.weights_ = (weights / length[item]).astype(np.float32)
        self.dense_ = (dense / length[:, None]).astype(np.float32)
        self.entries_, self.n_values_ = entries, n_values
        return self

    def _scores(self, histories: Ragged) -> np.ndarray:
        return self._cosines(histories, self.decay**histories.ages)

    def _item_similarities(self, rows: np.ndarray) -> np.ndarray:
        scores = self._cosines(Ragged.from_lengths(rows, np.ones(len(rows), np.int64)), np.ones(len(rows)))
        scores[scores == 0] = -np.inf  # nothing in common
        return scores

    def _cosines(self, items: Ragged, weights: NDArray[Any]) -> np.ndarray:
        """(n, n_items) float32: of each item with the weighted sum of each row of items."""
        n, n_items = len(items), len(self.item_ids_)
        parts = self.entries_.take(items.values)
        cells = np.repeat(items.row_of, parts.lengths) + parts.values.astype(np.int64) * n
        of_parts = Ragged(self.weights_, self.entries_.offsets).take(items.values).values
        amounts = np.repeat(weights, parts.lengths) * of_parts
        scores = np.zeros((n_items, n), np.float32)
        square = np.zeros(n)
        if self.n_values_:
            wanted = np.bincount(cells, amounts, self.n_values_ * n).reshape(self.n_values_, n).astype(np.float32)
            square += np.square(wanted, dtype=np.float64).sum(axis=0)
            ops.embedding_bag_forward(wanted, self.entries_.values, self.weights_, self.entries_.offsets, out=scores)
        if self.dense_.shape[1]:
            mean = ops.embedding_bag_forward(
                self.dense_, items.values.astype(np.int32), weights.astype(np.float32), items.offsets
            )
            square += np.square(mean, dtype=np.float64).sum(axis=1)
            scores += ops.linear_forward(self.dense_, mean)[0]
        return np.ascontiguousarray((scores / _lengths(square).astype(np.float32)).T)


def _lengths(squares: NDArray[Any]) -> NDArray[np.float64]:
    """Square roots to divide by: 1 where nothing is known."""
    roots: NDArray[np.float64] = np.sqrt(squares)
    roots[roots == 0] = 1
    return roots
