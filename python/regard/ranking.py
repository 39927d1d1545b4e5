"""Rows of scores: the best of them, ranks of targets, what is allowed; and lists of item rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .ragged import Ragged

BLOCK = 256  # users handed to a hook at a time, so that a (block x catalogue) matrix of scores stays small


def dense_rows(n_items: int) -> int:
    """How many rows of scores of the whole catalogue exist at a time: 64 MB of them."""
    return max(1, min(BLOCK, 2**24 // max(1, n_items)))


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Consecutive slices that cover ``range(n)``."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def take(ragged: Ragged | None, rows: np.ndarray) -> Ragged | None:
    """``ragged.take(rows)``, None staying None."""
    return None if ragged is None else ragged.take(rows)


def masked(scores: np.ndarray, allow: Ragged | None, deny: Ragged | None) -> np.ndarray:
    """Scores with -inf at items that are denied or not allowed, and in place of NaN; changes ``scores``."""
    scores[np.isnan(scores)] = -np.inf
    if allow is not None:
        outside = np.ones(scores.shape, bool)
        outside[allow.row_of, allow.values] = False
        scores[outside] = -np.inf
    if deny is not None:
        scores[deny.row_of, deny.values] = -np.inf
    return scores


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores of each row, ties to the lower column; columns of -inf are no candidates.

    Parameters
    ----------
    scores : (n, n_items) float32 without NaN
    k : int
        May exceed ``n_items``.

    Returns
    -------
    columns : (n, k) int32, padded with -1
    scores : (n, k) float32, padded with -inf
    """
    n, n_items = scores.shape
    found = min(k, n_items)
    columns = np.full((n, k), -1, np.int32)
    highest = np.full((n, k), -np.inf, np.float32)
    if not n or not found:
        return columns, highest
    threshold = -np.partition(-scores, found - 1, axis=1)[:, found - 1, None]  # from below it is slow with many ties
    above, equal = scores > threshold, scores == threshold
    # exactly `found` in each row: all above the threshold, then the first of those equal to it
    equal &= np.cumsum(equal, axis=1, dtype=np.int32) <= found - above.sum(axis=1, keepdims=True)
    chosen = np.nonzero(above | equal)[1].reshape(n, found)
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    highest[:, :found] = np.take_along_axis(values, order, axis=1)
    columns[:, :found] = np.take_along_axis(chosen, order, axis=1)
    columns[highest == -np.inf] = -1
    return columns, highest


def expected_ranks(scores: np.ndarray, targets: Ragged) -> np.ndarray:
    """``1 + above + equal / 2`` of each target among the scores of its row, the target itself not counted."""
    ranks = np.empty(len(targets.values))
    rows = targets.row_of
    for block in blocks(len(ranks), dense_rows(scores.shape[1])):
        row = rows[block]
        target = scores[row, targets.values[block], None]
        above = (scores[row] > target).sum(axis=1)
        equal = (scores[row] == target).sum(axis=1) - 1
        ranks[block] = 1 + above + equal / 2
    return ranks


def union(n_items: int, *parts: Ragged) -> Ragged:
    """Row by row, the sorted union of ragged item rows (at least one part), without repeats."""
    n = len(parts[0])
    keys = np.sort(np.concatenate([part.row_of * n_items + part.values for part in parts]))
    keys = keys[np.diff(keys, prepend=-1) > 0]  # what np.unique does by hashing, several times slower
    offsets = np.searchsorted(keys, np.arange(n + 1) * n_items)
    return Ragged((keys % max(n_items, 1)).astype(np.int32), offsets)
