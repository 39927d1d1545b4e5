"""What streams the catalogue past query rows: losses, best items, ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regard import _core
from regard.ops.arguments import Precision, choice, shape_of
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from regard.ops.arguments import Doubles, Floats, Ints, Offsets
    from regard.ragged import Ragged


def _check_precision(value: str) -> None:
    choice("precision", value, {"highest": 0, "high": 1, "medium": 2})


def cross_entropy_forward(
    h: Floats, item_vectors: Floats, targets: Ints, row_weights: Floats | None = None, *, workspace: Workspace = NEW
) -> tuple[float, Doubles]:
    """Softmax cross-entropy over the whole catalogue: the weighted mean of ``lse[i] - h[i]·item_vectors[targets[i]]``.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    targets : (n,) int32, rows of ``item_vectors``
    row_weights : (n,) float32, optional
        Not negative; all 1 by default. If they sum to 0 the loss is 0.

    Returns
    -------
    loss : float
    lse : (n,) float64
        ``log sum_v exp(h[i]·item_vectors[v])``.

    Notes
    -----
    No (n, n_items) array exists: memory beside the result is one tile of items and one block of rows per thread.
    """
    lse = workspace.empty(shape_of("h", h, 2)[:1], np.float64)
    return _core.cross_entropy_forward(h, item_vectors, targets, row_weights, lse), lse


def cross_entropy_backward(
    h: Floats,
    item_vectors: Floats,
    targets: Ints,
    lse: Doubles,
    row_weights: Floats | None = None,
    dloss: float = 1.0,
    *,
    ditem_vectors: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats]:
    """``dh`` (n, dim) and ``ditem_vectors`` (n_items, dim), the latter added to when given, else new."""
    dh = workspace.zeros(shape_of("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    _core.cross_entropy_backward(h, item_vectors, targets, lse, row_weights, dloss, dh, ditem_vectors)
    return dh, ditem_vectors


def cross_entropy_value_and_grad(
    h: Floats,
    item_vectors: Floats,
    targets: Ints,
    row_weights: Floats | None = None,
    *,
    precision: Precision = "highest",
    ditem_vectors: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[float, Floats, Floats]:
    """Loss and both gradients in one call; what training uses.

    Up to 16,384 items the probabilities of one block of rows are kept (3 MB per thread) and the scores are computed
    once; above that this is the pair. ``precision="high"`` and ``"medium"`` allow bfloat16 tiles where the machine has
    them; no instruction set of this version does, so all three give float32.
    """
    _check_precision(precision)
    dh = workspace.zeros(shape_of("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    loss = _core.cross_entropy_value_and_grad(h, item_vectors, targets, row_weights, dh, ditem_vectors)
    return loss, dh, ditem_vectors


def topk(
    h: Floats, item_vectors: Floats, k: int, allow: Ragged | None = None, deny: Ragged | None = None
) -> tuple[Ints, Floats]:
    """The k items with the highest ``h[i]·item_vectors[v]``, best first, equal scores by lower row. Exact.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    k : int, at least 1; may exceed the number of items
    allow, deny : Ragged of int32 rows, one list per query, optional
        Only these, never these. An empty allow list allows nothing.

    Returns
    -------
    items : (n, k) int32, -1 where fewer than k items are allowed
    scores : (n, k) float32, -inf there
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    shape = (shape_of("h", h, 2)[0], k)
    items, scores = np.empty(shape, np.int32), np.empty(shape, np.float32)
    _core.topk(h, item_vectors, k, *_lists(allow), *_lists(deny), items, scores)
    return items, scores


def rank_counts(
    h: Floats, item_vectors: Floats, targets: Ragged, deny: Ragged | None = None
) -> tuple[Offsets, Offsets]:
    """How many items score above each target, and how many equal it, without itself and denied items.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    targets : Ragged of int32 rows, one list per query
    deny : Ragged of int32 rows, optional

    Returns
    -------
    above, equal : (targets.values.size,) int64
    """
    above, equal = np.empty(len(targets.values), np.int64), np.empty(len(targets.values), np.int64)
    _core.rank_counts(h, item_vectors, targets.offsets, targets.values, *_lists(deny), above, equal)
    return above, equal


def _lists(ragged: Ragged | None) -> tuple[Offsets | None, Ints | None]:
    return (None, None) if ragged is None else (ragged.offsets, ragged.values)
