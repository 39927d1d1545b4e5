"""What goes with what is counted: scores are a weighted sum over the events of a history.

``scores[t] = sum_i decay**age_i * table[item_i, t]``; the models differ in the table alone. An event's age is 0 for the
last one, 1 for the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regard import ops
from regard.baselines.tables import (
    DenseTable,
    SparseTable,
    Table,
    common_users,
    items_and_users,
    n_users_of_items,
    table_from_file,
    table_from_pairs,
    table_from_rows,
)
from regard.ragged import Ragged
from regard.recommender import Recommender, plain

if TYPE_CHECKING:
    from regard.data import Interactions
    from regard.model_file import Content


class Popularity(Recommender):
    """The items with most events in training, the same for everyone."""

    def fit(self, data: Interactions) -> Self:
        """Count the events of each item."""
        self._set_catalogue(data)
        return self

    def _scores(self, histories: Ragged) -> np.ndarray:
        return self._popularity_scores(len(histories))

    def _file(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"kind": "popularity", "settings": {}, "steps": []}, {}

    @classmethod
    def _from_file(cls, content: Content) -> Self:
        model = cls()
        model._restore_catalogue(content)
        return model


class _Decayed(Recommender):
    """Scores are a decayed sum of the table's rows over the last events of a history."""

    kind: ClassVar[str]  # in the model file
    table_: Table
    decay: float
    history: int | None = None

    #: Parameters that only change the query: candidates of `tune` that differ in these alone share one fit.
    query_params = ("decay", "history")
    #: What `tune` tries: values of each parameter, those that need a new fit first.
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def _scores(self, histories: Ragged) -> np.ndarray:
        if self.history is not None:
            histories = histories.tail(self.history)
        return self.table_.weighted_sums(histories, self.decay**histories.ages)

    def _item_similarities(self, rows: np.ndarray) -> np.ndarray:
        alone = Ragged.from_lengths(rows, np.ones(len(rows), np.int64))
        scores = self.table_.weighted_sums(alone, np.ones(len(rows)))
        scores[scores == 0] = -np.inf  # never seen together
        return scores

    def _file(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        settings = {name: plain(value) for name, value in self.get_params().items()}
        return {"kind": self.kind, "settings": settings, "steps": []}, self.table_.tensors()

    @classmethod
    def _from_file(cls, content: Content) -> Self:
        model = cls(**content.header["settings"])
        model._restore_catalogue(content)
        model.table_ = table_from_file(content)
        return model


class SequentialRules(_Decayed):
    """What followed the latest items in other histories.

    ``table[s, t]`` is the sum of 1 / distance over the events t that follow an event s by at most ``window`` places,
    divided by ``events_of(s) ** source_exponent * events_of(t) ** target_exponent``. A strong baseline: it knows
    order, costs one pass, and with the defaults has nothing to tune.

    Parameters
    ----------
    window : int, default 20
        How far ahead of an event others count as its followers.
    decay : float, default 0.6
        Weight of an event per step back in the history.
    history : int or None, default 50
        How many of the last events are looked at; None for all.
    source_exponent, target_exponent : float, default 0.5 and 0.0
        How much frequent items are held back.
    backward : float, default 0.0
        Weight of an event t that comes before s; 1 looks at nearness alone, not at order.
    """

    kind = "sequential_rules"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "backward": (0.0, 0.3, 1.0),
        "target_exponent": (0.0, 0.2, 0.4),
        "decay": (0.5, 0.6, 0.7, 0.8, 0.9),
    }

    def __init__(
        self,
        *,
        window: int = 20,
        decay: float = 0.6,
        history: int | None = 50,
        source_exponent: float = 0.5,
        target_exponent: float = 0.0,
        backward: float = 0.0,
    ) -> None:
        self.window = window
        self.decay = decay
        self.history = history
        self.source_exponent = source_exponent
        self.target_exponent = target_exponent
        self.backward = backward

    def fit(self, data: Interactions) -> Self:
        """Count the pairs of each distance up to ``window``."""
        self._set_catalogue(data)
        events = np.maximum(self.popularity_, 1.0)
        source_weight, target_weight = events**-self.source_exponent, events**-self.target_exponent
        values, user = data.sequences.values, data.sequences.row_of

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for distance in range(1, min(self.window, len(values) - 1) + 1):
                same = user[distance:] == user[:-distance]
                earlier, later = values[:-distance][same], values[distance:][same]
                yield earlier, later, source_weight[earlier] * target_weight[later] / distance
                if self.backward:
                    yield later, earlier, self.backward * source_weight[later] * target_weight[earlier] / distance

        self.table_ = table_from_pairs(
            pairs(), data.n_items, n_pairs=len(values) * self.window * (2 if self.backward else 1)
        )
        return self


class ItemKNN(_Decayed):
    """Items that the same users had.

    ``table[s, t] = users_of(s and t) / (users_of(s) ** source_exponent * users_of(t) ** target_exponent)``; with both
    exponents 0.5 it is the cosine. A lower target exponent favours popular items.

    Parameters
    ----------
    source_exponent, target_exponent : float, default 0.5
    decay : float, default 1.0
        Weight of an event per step back in the history; 1 looks at all events alike.
    neighbours : int or None, default None
        Keep only that many targets of each source, those of the highest weight; None keeps all.
    """

    kind = "item_knn"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "target_exponent": (0.5, 0.2, 0.0),
        "decay": (1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
    }

    def __init__(
        self,
        *,
        source_exponent: float = 0.5,
        target_exponent: float = 0.5,
        decay: float = 1.0,
        neighbours: int | None = None,
    ) -> None:
        self.source_exponent = source_exponent
        self.target_exponent = target_exponent
        self.decay = decay
        self.neighbours = neighbours

    def fit(self, data: Interactions) -> Self:
        """Count common users of each pair of items."""
        self._set_catalogue(data)
        users = np.maximum(n_users_of_items(data), 1.0)
        source_weight, target_weight = users**-self.source_exponent, users**-self.target_exponent
        columns, weights = [], []
        for item, together in enumerate(common_users(data)):
            together[item] = 0
            weight = (together * target_weight * source_weight[item]).astype(np.float32)
            kept = np.flatnonzero(weight)
            if self.neighbours is not None and len(kept) > self.neighbours:
                kept = np.sort(kept[np.argsort(-weight[kept], kind="stable")[: self.neighbours]])
            columns.append(kept.astype(np.int32))
            weights.append(weight[kept])
        self.table_ = table_from_rows(columns, weights)
        return self


class EASE(_Decayed):
    """Each item as the best linear combination of a user's other items, in closed form.

    With G the matrix of common users of two items and ``P = inv(G + regularization * I)``:
    ``table[s, t] = -P[s, t] / P[t, t]``, 0 on the diagonal.

    Parameters
    ----------
    regularization : float, default 300
    decay : float, default 1.0
        Weight of an event per step back in the history; 1 is the published model, lower values are often better.
    max_items : int, default 20_000
        The largest catalogue to accept: memory grows with its square, time with the cube of the number of items or
        users, whichever is less.

    Raises
    ------
    ValueError
        In ``fit``: more items than ``max_items``, with the memory that they would need.

    Notes
    -----
    Steck 2019, arXiv:1905.03375. The counts in G are exact; the inverse is LAPACK's, so its last bits may depend on
    the library and the number of threads that NumPy was built and started with.
    """

    kind = "ease"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "regularization": (300.0, 100.0, 1000.0),
        "decay": (1.0, 0.9, 0.8, 0.7, 0.6),
    }

    def __init__(self, *, regularization: float = 300.0, decay: float = 1.0, max_items: int = 20_000) -> None:
        self.regularization = regularization
        self.decay = decay
        self.max_items = max_items

    def fit(self, data: Interactions) -> Self:
        """Count common users, or where users are fewer than items common items, and invert."""
        n = data.n_items
        if n > self.max_items:
            raise ValueError(
                f"EASE: {n:,} items would need about {3 * 4 * n * n / 2**30:.1f} GiB of memory; "
                f"the limit is max_items={self.max_items:,}"
            )
        self._set_catalogue(data)
        table = self._inverse_by_users(data) if data.n_users < n else self._inverse(data)
        table /= -table.diagonal()
        table[np.diag_indices(n)] = 0
        self.table_ = DenseTable(table)
        return self

    def _inverse(self, data: Interactions) -> np.ndarray:
        gram = np.empty((data.n_items, data.n_items), np.float32)
        for item, together in enumerate(common_users(data)):
            gram[item] = together
        gram[np.diag_indices(data.n_items)] += self.regularization
        return np.linalg.inv(gram)

    def _inverse_by_users(self, data: Interactions) -> np.ndarray:
        """The same, times the regularization (which cancels): ``I - X.T @ inv(X @ X.T + regularization * I) @ X``."""
        items, users_of = items_and_users(data)
        users, offsets = users_of.values.astype(np.int32), users_of.offsets
        gram = np.empty((data.n_users, data.n_users), np.float32)
        for user, row in enumerate(items):
            gram[user] = np.bincount(users_of.take(row).values, minlength=data.n_users)
        gram[np.diag_indices(data.n_users)] += self.regularization
        ones = np.ones(len(users), np.float32)
        half = ops.embedding_bag_forward(np.linalg.inv(gram), users, ones, offsets)
        table = ops.embedding_bag_forward(np.ascontiguousarray(half.T), users, ones, offsets)
        np.negative(table, out=table)
        table[np.diag_indices(data.n_items)] += 1
        return table


class Repeats(_Decayed):
    """What the history holds: often and lately had items first, everything else alike.

    Where people come back to the same items this is the method to beat; it is of use only where ``exclude_seen`` is
    False.

    Parameters
    ----------
    decay : float, default 0.9
        Weight of an event per step back in the history; 1 counts, 0.5 and less is the order of the last occurrence.
    """

    kind = "repeats"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"decay": (0.9, 1.0, 0.95, 0.8, 0.5)}

    def __init__(self, *, decay: float = 0.9) -> None:
        self.decay = decay

    def fit(self, data: Interactions) -> Self:
        """Take the catalogue; there is nothing to learn."""
        self._set_catalogue(data)
        each = np.arange(data.n_items + 1)
        self.table_ = SparseTable(Ragged(each[:-1].astype(np.int32), each), np.ones(data.n_items, np.float32))
        return self
