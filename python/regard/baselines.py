"""Recommenders without learning by gradient: what an attention model has to beat.

All are deterministic, fit in seconds and use NumPy only. A model's scores are a weighted sum over the events of a
history, ``scores[t] = sum_i decay**age_i * table[item_i, t]``, and they differ in the table alone; an event's age is
0 for the last one, 1 for the one before. A score of 0 says that nothing is known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from .metrics import evaluate
from .ragged import Ragged
from .ranking import union
from .recommender import Recommender

if TYPE_CHECKING:
    from .data import Interactions
    from .splits import Split

__all__ = ["EASE", "ItemKNN", "Popularity", "SequentialRules", "tune"]


class Popularity(Recommender):
    """The items with most events in training, the same for everyone."""

    def fit(self, data: Interactions) -> Self:
        """Count the events of each item."""
        self._set_catalogue(data)
        return self

    def _scores(self, histories: Ragged) -> np.ndarray:
        return self._popularity_scores(len(histories))


class _Decayed(Recommender):
    """Scores are a decayed sum of the table's rows over the last events of a history."""

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
        age = histories.offsets[1:][histories.row_of] - 1 - np.arange(len(histories.values))
        return self.table_.weighted_sums(histories, self.decay**age)

    def _item_similarities(self, rows: np.ndarray) -> np.ndarray:
        alone = Ragged.from_lengths(rows, np.ones(len(rows), np.int64))
        scores = self.table_.weighted_sums(alone, np.ones(len(rows)))
        scores[scores == 0] = -np.inf  # never seen together
        return scores


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
        events = np.maximum(self.popularity_, 1)
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
        users = np.maximum(n_users_of_items(data), 1)
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
        The largest catalogue to accept: time grows with its cube, memory with its square.

    Raises
    ------
    ValueError
        In ``fit``: more items than ``max_items``, with the memory that they would need.

    Notes
    -----
    Steck 2019, arXiv:1905.03375. The counts in G are exact; the inverse is LAPACK's, so its last bits may depend on
    the library and the number of threads that NumPy was built and started with.
    """

    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "regularization": (300.0, 100.0, 1000.0),
        "decay": (1.0, 0.9, 0.8, 0.7, 0.6),
    }

    def __init__(self, *, regularization: float = 300.0, decay: float = 1.0, max_items: int = 20_000) -> None:
        self.regularization = regularization
        self.decay = decay
        self.max_items = max_items

    def fit(self, data: Interactions) -> Self:
        """Count common users and invert."""
        n = data.n_items
        if n > self.max_items:
            raise ValueError(
                f"EASE: {n:,} items would need about {3 * 4 * n * n / 2**30:.1f} GiB of memory; "
                f"the limit is max_items={self.max_items:,}"
            )
        self._set_catalogue(data)
        gram = np.empty((n, n), np.float32)
        for item, together in enumerate(common_users(data)):
            gram[item] = together
        gram[np.diag_indices(n)] += self.regularization
        table = np.linalg.inv(gram)
        table /= -table.diagonal()
        table[np.diag_indices(n)] = 0
        self.table_ = DenseTable(table)
        return self


def tune(
    candidates: type[Recommender] | Iterable[Recommender], split: Split, *, metric: str = "ndcg@10"
) -> Recommender:
    """Fit each candidate on the training part and return the best on the validation part, fitted.

    The test part is not looked at. Of equal candidates the first wins.

    Parameters
    ----------
    candidates : a class of this module, for its own ``grid``; or models, not fitted
        Candidates that differ only in what they do with a history (``decay``, ``history``) share one fit.
    split : Split
    metric : str, default "ndcg@10"

    Examples
    --------
    >>> model = tune(SequentialRules, split)  # doctest: +SKIP
    >>> model = tune([EASE(decay=decay) for decay in (1.0, 0.9, 0.8)], split)  # doctest: +SKIP
    """
    if split.validation is None:
        raise ValueError("split: expected one with a validation part to choose by")
    if isinstance(candidates, type):
        grid = getattr(candidates, "grid", {})
        candidates = [candidates(**dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    cutoff = int(metric.partition("@")[2] or 10)
    winner, highest = None, -np.inf
    fitted: dict[tuple[object, ...], Recommender] = {}
    for candidate in candidates:
        params = candidate.get_params()
        query = getattr(candidate, "query_params", ())
        key = (type(candidate), *((name, value) for name, value in params.items() if name not in query))
        if key not in fitted:
            fitted = {key: candidate.fit(split.train)}  # one at a time: tables are large
        model = copy.copy(fitted[key]).set_params(**params)
        value = evaluate(model, split.validation, k=cutoff, coverage=False)[metric]
        if winner is None or value > highest:
            winner, highest = model, value
    if winner is None:
        raise ValueError("candidates: expected at least one model")
    return winner


# ---- counting -----------------------------------------------------------------------------------------------------


def n_users_of_items(data: Interactions) -> np.ndarray:
    """(n_items,) int64: users with at least one event of the item."""
    return np.bincount(union(data.n_items, data.sequences).values, minlength=data.n_items)


def common_users(data: Interactions) -> Iterator[np.ndarray]:
    """For each item in turn, (n_items,) int64: users who had both it and the other item; its own users at itself.

    One row at a time: the whole matrix is the caller's choice. Counts are integers and so exact.
    """
    items_of_user = union(data.n_items, data.sequences)
    users = items_of_user.row_of[np.argsort(items_of_user.values, kind="stable")]  # by item
    ends = np.cumsum(np.bincount(items_of_user.values, minlength=data.n_items))
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        yield np.bincount(items_of_user.take(users[start:end]).values, minlength=data.n_items)


class Table(Protocol):
    """Weights between items, (n_items, n_items), and the sums that models take of its rows.

    Sums are added in the order of the events, without BLAS, so they do not depend on the number of threads.
    """

    def weighted_sums(self, rows: Ragged, weights: np.ndarray) -> np.ndarray:
        """Sum of the weighted table rows for each list of rows: (n, n_items) float32."""


class DenseTable:
    """All weights; for small or well filled tables, where adding whole rows is faster than following indices."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def weighted_sums(self, rows: Ragged, weights: np.ndarray) -> np.ndarray:
        """As `Table.weighted_sums`, in float32."""
        sums = np.empty((len(rows), len(self.weights)), np.float32)
        weights = weights.astype(np.float32)
        for row, out in enumerate(sums):
            events = slice(rows.offsets[row], rows.offsets[row + 1])
            np.einsum("i,ij->j", weights[events], self.weights[rows.values[events]], out=out)
        return sums


class SparseTable:
    """The filled places of each row and their weights."""

    def __init__(self, columns: Ragged, weights: np.ndarray) -> None:
        self.columns, self.weights = columns, Ragged(weights, columns.offsets)

    def weighted_sums(self, rows: Ragged, weights: np.ndarray) -> np.ndarray:
        """As `Table.weighted_sums`, added in float64."""
        n_items = len(self.columns)
        columns = self.columns.take(rows.values)
        cells = np.repeat(rows.row_of * n_items, columns.lengths) + columns.values
        parts = np.repeat(weights, columns.lengths) * self.weights.take(rows.values).values
        return np.bincount(cells, parts, len(rows) * n_items).reshape(len(rows), n_items).astype(np.float32)


def is_dense(n_items: int, n_filled: int) -> bool:
    """Whether a table is small (at most 256 MiB in full) and filled to a twentieth or more."""
    return n_items**2 <= min(2**26, 20 * n_filled)


def table_from_rows(columns: list[np.ndarray], weights: list[np.ndarray]) -> Table:
    """From the filled columns of each row and their weights."""
    filled = Ragged.from_lengths(np.concatenate(columns), [len(row) for row in columns])
    n_items = len(filled)
    if not is_dense(n_items, len(filled.values)):
        return SparseTable(filled, np.concatenate(weights))
    dense = np.zeros((n_items, n_items), np.float32)
    dense[filled.row_of, filled.values] = np.concatenate(weights)
    return DenseTable(dense)


def table_from_pairs(pairs: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], n_items: int, n_pairs: int) -> Table:
    """From chunks of sources, targets and weights, at most ``n_pairs`` in all: the sum of the weights of each pair."""
    cells = ((source * np.int64(n_items) + target, weight) for source, target, weight in pairs)
    if is_dense(n_items, n_pairs):
        sums = np.zeros(n_items**2)
        for cell, weight in cells:
            np.add.at(sums, cell, weight)
        return DenseTable(sums.reshape(n_items, n_items).astype(np.float32))
    chunks = [(np.empty(0, np.int64), np.empty(0)), *cells]
    filled, place = np.unique(np.concatenate([cell for cell, _ in chunks]), return_inverse=True)
    weights = np.bincount(place, np.concatenate([weight for _, weight in chunks]), len(filled))
    columns = Ragged((filled % n_items).astype(np.int32), np.searchsorted(filled, np.arange(n_items + 1) * n_items))
    return SparseTable(columns, weights.astype(np.float32))
