"""Counts of items that go together, and tables of weights between items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from regard import model_file
from regard.ragged import Ragged
from regard.ranking import union

if TYPE_CHECKING:
    from regard.data import Interactions


def items_and_users(data: Interactions) -> tuple[Ragged, Ragged]:
    """The items of each user and the users of each item, all sorted, without repeats."""
    items = union(data.n_items, data.sequences)
    users = items.row_of[np.argsort(items.values, kind="stable")]
    return items, Ragged.from_lengths(users, np.bincount(items.values, minlength=data.n_items))


def n_users_of_items(data: Interactions) -> np.ndarray:
    """(n_items,) int64: users with at least one event of the item."""
    return np.bincount(union(data.n_items, data.sequences).values, minlength=data.n_items)


def common_users(data: Interactions) -> Iterator[np.ndarray]:
    """For each item in turn, (n_items,) int64: users who had both it and the other item; its own users at itself.

    One row at a time: the whole matrix is the caller's choice. Counts are integers and so exact.
    """
    items, users = items_and_users(data)
    for of_item in users:
        yield np.bincount(items.take(of_item).values, minlength=data.n_items)


WEIGHTS = "table.weights"


class Table(Protocol):
    """Weights between items, (n_items, n_items), and the sums that models take of its rows.

    Sums are added in the order of the events, without BLAS, so they do not depend on the number of threads.
    """

    def weighted_sums(self, rows: Ragged, weights: np.ndarray) -> np.ndarray:
        """Sum of the weighted table rows for each list of rows: (n, n_items) float32."""

    def tensors(self) -> dict[str, np.ndarray]:
        """What a model file keeps of it."""


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

    def tensors(self) -> dict[str, np.ndarray]:
        """As `Table.tensors`."""
        return {WEIGHTS: self.weights}


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

    def tensors(self) -> dict[str, np.ndarray]:
        """As `Table.tensors`."""
        columns, offsets = model_file.TABLE
        return {columns: self.columns.values, offsets: self.columns.offsets, WEIGHTS: self.weights.values}


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


def table_from_file(content: model_file.Content) -> Table:
    """The table whose tensors a model file has.

    Raises
    ------
    ValueError
        Weights are missing, or do not fit the catalogue or the columns.
    """
    n_items, columns = len(content.item_ids), content.columns
    expected = (n_items, n_items) if columns is None else (len(columns.values),)
    model_file.check_shapes(content, {WEIGHTS: expected})
    weights = content.params[WEIGHTS]
    if columns is None:
        return DenseTable(weights)
    if len(columns) != n_items or (len(weights) and not 0 <= columns.values.min() <= columns.values.max() < n_items):
        raise ValueError(f"{content.path}: {model_file.TABLE[0]}: expected rows of the catalogue: the file is damaged")
    return SparseTable(columns, weights)
