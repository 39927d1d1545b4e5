"""What streams the catalogue past query rows: losses, best items, ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regard import _core
from regard.ops.arguments import Precision, SampledLoss, choice, placed, shape_of
from regard.workspace import NEW, Workspace, aligned

if TYPE_CHECKING:
    from regard.ops.arguments import Bytes, Doubles, Floats, Ints, Offsets
    from regard.ragged import Ragged

_PRECISIONS = {"highest": 0, "high": 1, "medium": 2}


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
    core, workspace = placed(h, workspace)
    lse = workspace.empty(shape_of("h", h, 2)[:1], np.float64)
    return core.cross_entropy_forward(h, item_vectors, targets, row_weights, lse), lse


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
    core, workspace = placed(h, workspace)
    dh = workspace.zeros(shape_of("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    core.cross_entropy_backward(h, item_vectors, targets, lse, row_weights, dloss, dh, ditem_vectors)
    return dh, ditem_vectors


def cross_entropy_value_and_grad(
    h: Floats,
    item_vectors: Floats,
    targets: Ints,
    row_weights: Floats | None = None,
    *,
    precision: Precision = "highest",
    seen: Ragged | None = None,
    cu_seqlens: Offsets | None = None,
    ditem_vectors: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[float, Floats, Floats]:
    """Loss and both gradients in one call; what training uses.

    ``seen``, Ragged of int32 rows of ``item_vectors``, and ``cu_seqlens``, (batch + 1,) int64, say what rows leave out
    of their softmax: a history per sequence, oldest event first, whose last events are at the sequence's rows. A row
    leaves out the items of the history up to its own event, though never its target. None: every item counts.

    Up to 65,536 items (131,072 in bfloat16) the probabilities of a block of rows are kept, at most 32 MB, and the
    scores are computed once; above that this is the pair, in float32.

    ``precision`` allows bfloat16 products where the machine has them (AMX, or AVX-512 BF16 on AMD), with sums and the
    target's own term in float32; elsewhere all three give float32. Errors against the float64 formula, for scores of a
    few units and rows in which no item but the target has more than about a tenth of the probability (on real data a
    third of these); otherwise gradients lose up to one bfloat16 rounding, 4e-3:

    ========= ===================================================== ============ ==============================
    precision products                                              ``lse``      gradients (Frobenius, relative)
    ========= ===================================================== ============ ==============================
    highest   float32                                               float32's    float32's
    high      scores as in float32, or of split operands (hi + lo); 2e-5         5e-4
              gradients in bfloat16
    medium    bfloat16                                              2e-2         5e-3
    ========= ===================================================== ============ ==============================
    """
    core, workspace = placed(h, workspace)
    how = choice("precision", precision, _PRECISIONS)
    dh = workspace.zeros(shape_of("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    arrays = (dh, ditem_vectors, *_lists(seen), cu_seqlens)
    loss = core.cross_entropy_value_and_grad(h, item_vectors, targets, row_weights, how, *arrays)
    return loss, dh, ditem_vectors


def sampled_loss_value_and_grad(
    h: Floats,
    item_vectors: Floats,
    targets: Ints,
    negatives: Ints,
    *,
    loss: SampledLoss = "softmax",
    log_expected: Floats | None = None,
    beta: float = 1.0,
    ditem_vectors: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[float, Floats, Floats]:
    """Loss and gradients of every row's target against k sampled items that all rows share.

    With ``s[j] = h[i]·item_vectors[negatives[j]]`` and ``t = h[i]·item_vectors[targets[i]]``, j over the negatives that
    are not the row's own target, the loss is the mean over rows of

    - ``"softmax"``: ``log(exp(t) + sum_j exp(s[j] - log_expected[j])) - t``;
    - ``"bce"``: ``-(beta * log sigmoid(t) + sum_j log sigmoid(-s[j])) / (1 + number of j)``.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    targets : (n,) int32, rows of ``item_vectors``
    negatives : (k,) int32, rows of ``item_vectors``, k from 1 to 16,384
        An item that stands there twice counts twice.
    loss : "softmax" (default) or "bce"
    log_expected : (k,) float32, finite, optional
        For softmax: log of how many times each negative is drawn on average. The sum then estimates that over the whole
        catalogue without bias. The target is not drawn, so not corrected. None means 0 everywhere.
    beta : float, default 1
        For bce: below 1 it makes up for negatives that are fewer than in the catalogue (gBCE); 1 is plain BCE.
    ditem_vectors : (n_items, dim) float32, optional
        Added to at targets and negatives, the rest left alone.

    Returns
    -------
    loss : float
        0 without rows.
    dh : (n, dim) float32
    ditem_vectors : (n_items, dim) float32

    Notes
    -----
    Importance correction: Bengio and Senécal 2008, "Adaptive importance sampling to accelerate training of a neural
    probabilistic language model". gBCE: Petrov and Macdonald 2023, arXiv:2308.07192. Memory beside the results: k x dim
    three times and once more for each of at most 16 parts of the rows, and the scores of 48 rows per thread.
    """
    binary = choice("loss", loss, {"softmax": 0, "bce": 1}) == 1
    dh = workspace.zeros(shape_of("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    value = _core.sampled_loss_value_and_grad(
        h, item_vectors, targets, negatives, binary, log_expected, beta, dh, ditem_vectors
    )
    return value, dh, ditem_vectors


def pointer_loss_value_and_grad(
    h: Floats,
    item_vectors: Floats,
    targets: Ints,
    items: Ints,
    by_age: Floats,
    cu_seqlens: Offsets,
    *,
    negatives: Ints | None = None,
    log_expected: Floats | None = None,
    precision: Precision = "highest",
    ditem_vectors: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[float, Floats, Floats, Floats]:
    """Softmax cross-entropy where the items of a history have a second way to be the answer.

    A last attention over the events, whose weights go to the events' items: event k of a sequence adds, at every place
    t >= k, ``exp(by_age[t, t - k])`` to the part of the softmax that its item has. So an item j has the score

        ``log(exp(h[t]·item_vectors[j]) + sum over its events k of exp(by_age[t, t - k]))``

    and the loss is the mean cross-entropy of these scores.

    Parameters
    ----------
    h : (n, dim) float32
        At every place of all sequences, one sequence after another.
    item_vectors : (n_items, dim) float32
    targets, items : (n,) int32, rows of ``item_vectors``
        What is foretold at each place, and the event that is there.
    by_age : (n, n_ages) float32
        ``n_ages`` is at least the length of the longest sequence.
    cu_seqlens : (batch + 1,) int64
        Where each sequence starts, and the end: first 0, never falling.
    negatives, log_expected
        The sum over the catalogue is one over the target and these, as in `sampled_loss_value_and_grad`.
    precision
        As of `cross_entropy_value_and_grad`; not read where there are negatives.
    ditem_vectors : (n_items, dim) float32, optional
        Added to.

    Returns
    -------
    loss : float
    dh : (n, dim) float32
    ditem_vectors : (n_items, dim) float32
    dby_age : (n, n_ages) float32

    Notes
    -----
    Pointer: Vinyals et al. 2015, arXiv:1506.03134. Beside a vocabulary: See et al. 2017, arXiv:1704.04368, there with
    two softmaxes and a learned share of each; in one, as here, the shares follow from the scores. For recommendation
    compare RepeatNet, Ren et al. 2019, arXiv:1812.02646.
    """
    how = choice("precision", precision, _PRECISIONS)
    dh, dby_age = workspace.zeros(shape_of("h", h, 2)), workspace.empty(shape_of("by_age", by_age, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(shape_of("item_vectors", item_vectors, 2))
    arrays = (h, item_vectors, targets, items, by_age, cu_seqlens)
    value = _core.pointer_loss_value_and_grad(*arrays, how, negatives, log_expected, dh, ditem_vectors, dby_age)
    return value, dh, ditem_vectors, dby_age


def quantize_items(item_vectors: Floats) -> Bytes:
    """An 8-bit copy of the item vectors, with bounds of its error: `topk` reads it in their place.

    Parameters
    ----------
    item_vectors : (n_items, dim) float32, dim at most 16,384

    Returns
    -------
    quantized : (n_blocks, n_bytes) uint8
        A row is 256 items: 65 bytes each where dim is 64. It is worth nothing once the vectors have changed.

    Notes
    -----
    Sixteen items share one scale. For them the longest item and the longest difference from its copy are kept: by
    Cauchy and Schwarz these bound how far a score of the copy can be from that of the item.
    """
    n_blocks, n_bytes = _core.quantized_shape(*shape_of("item_vectors", item_vectors, 2))
    quantized = aligned(n_blocks * n_bytes)[: n_blocks * n_bytes].reshape(n_blocks, n_bytes)
    _core.quantize_items(item_vectors, quantized)
    return quantized


def topk(
    h: Floats,
    item_vectors: Floats,
    k: int,
    allow: Ragged | None = None,
    deny: Ragged | None = None,
    *,
    quantized: Bytes | None = None,
) -> tuple[Ints, Floats]:
    """The k items with the highest ``h[i]·item_vectors[v]``, best first, equal scores by lower row. Exact.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    k : int, at least 1; may exceed the number of items
    allow, deny : Ragged of int32 rows, one list per query, optional
        Only these, never these. An empty allow list allows nothing.
    quantized : uint8, optional
        What `quantize_items` made of these ``item_vectors``. Items that cannot be among the k best are then told by
        their 8-bit copies, and only the others are looked at. It pays from about 500 items on; the answer is the same
        to the bit. Not used where ``allow`` is given.

    Returns
    -------
    items : (n, k) int32, -1 where fewer than k items are allowed
    scores : (n, k) float32, -inf there
    """
    core, _ = placed(h)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    shape = (shape_of("h", h, 2)[0], k)
    items, scores = np.empty(shape, np.int32), np.empty(shape, np.float32)
    core.topk(h, item_vectors, k, *_lists(allow), *_lists(deny), items, scores, quantized)
    return items, scores


def rank_counts(
    h: Floats,
    item_vectors: Floats,
    targets: Ragged,
    deny: Ragged | None = None,
    gains: tuple[Ragged, Floats] | None = None,
) -> tuple[Offsets, Offsets]:
    """How many items score above each target, and how many equal it, without itself and denied items.

    Parameters
    ----------
    h : (n, dim) float32
    item_vectors : (n_items, dim) float32
    targets : Ragged of int32 rows, one list per query
    deny : Ragged of int32 rows, optional
    gains : Ragged of int32 rows, and float32 of the same number, optional
        Items, each once in its list, of which exp of the score gains exp of these.

    Returns
    -------
    above, equal : (targets.values.size,) int64
    """
    core, _ = placed(h)
    gaining = () if gains is None else (*_lists(gains[0]), gains[1])
    above, equal = np.empty(len(targets.values), np.int64), np.empty(len(targets.values), np.int64)
    core.rank_counts(h, item_vectors, targets.offsets, targets.values, *_lists(deny), above, equal, *gaining)
    return above, equal


def _lists(ragged: Ragged | None) -> tuple[Offsets | None, Ints | None]:
    return (None, None) if ragged is None else (ragged.offsets, ragged.values)
