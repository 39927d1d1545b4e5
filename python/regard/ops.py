"""Kernels on NumPy arrays: every ``x_forward`` beside its ``x_backward``.

Arrays are float32, C-contiguous and never converted: a wrong type, shape or order raises ``TypeError`` or
``ValueError`` that names the argument, what was expected and what came. Batches are ragged: the rows of all sequences
one after another, plus offsets. Backward functions *add* into the gradients given as ``d...=`` arguments; without them
they make new ones. ``workspace=`` takes result arrays from a :class:`regard.workspace.Workspace` instead of new memory.

Results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from regard import _core
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.ragged import Ragged

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int32]
    Offsets = NDArray[np.int64]

Align = Literal["end", "start"]
Activation = Literal["relu", "gelu"] | None
Precision = Literal["highest", "high", "medium"]

_ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}


class Dropout(NamedTuple):
    """Which elements are dropped: decided by ``(seed, step, site)`` and the element's place alone.

    Philox4x32-10 (Salmon et al. 2011) with the element's place as counter: (row, column) of an activation, (sequence,
    head, query, key) of an attention weight. So a mask is the same for any number of threads and any instruction set,
    and the backward pass makes it again instead of keeping it.

    Attributes
    ----------
    p : float
        Probability of dropping, in [0, 1). Kept elements are multiplied by ``1 / (1 - p)``.
    seed, step, site : int
        Non-negative, below 2**64: the run, the optimiser step, the place in the model.
    """

    p: float
    seed: int = 0
    step: int = 0
    site: int = 0


def _shape(name: str, array: Any, dimensions: int) -> tuple[int, ...]:
    """Of an argument that results are made from, before the compiled module has looked at it."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    if array.ndim != dimensions:
        raise ValueError(f"{name}: expected {dimensions} dimensions, got shape {array.shape}")
    return tuple(array.shape)


def _choice(name: str, value: str | None, allowed: Mapping[Any, int]) -> int:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
    return allowed[value]


def _align_start(value: str) -> bool:
    return _choice("causal_align", value, {"end": 0, "start": 1}) == 1


def _check_precision(value: str) -> None:
    _choice("precision", value, {"highest": 0, "high": 1, "medium": 2})


def _scale(softmax_scale: float | None, q: Floats) -> float:
    return 1.0 / math.sqrt(max(q.shape[-1], 1)) if softmax_scale is None else float(softmax_scale)


def attention_forward(
    q: Floats,
    k: Floats,
    v: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_align: Align = "end",
    bias: Floats | None = None,
    dropout: Dropout | None = None,
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Doubles]:
    """Softmax attention within each sequence of a ragged batch.

    ``out[i] = sum_j a[i, j] v[j]`` with ``a[i, j] = exp(z[i, j]) / sum_k exp(z[i, k])`` and
    ``z[i, j] = softmax_scale * q[i]·k[j] + bias[distance(i, j)]``, j over the keys of i's sequence.

    Parameters
    ----------
    q : (total_q, n_heads, head_dim) float32, C-contiguous
        ``head_dim`` from 1 to 256.
    k, v : (total_k, n_heads, head_dim) float32
    cu_seqlens_q, cu_seqlens_k : (batch + 1,) int64
        Where each sequence starts, and the end: first 0, never falling. Sequences may be empty.
    softmax_scale : float, default ``1 / sqrt(head_dim)``
    causal : bool, default False
        Query i of n sees key j of m only if ``j - i <= m - n`` (``causal_align="end"``, the last query sees all keys)
        or ``j <= i`` (``"start"``).
    bias : (n_heads, n_distances) float32, optional
        Added to the scores by distance = place of the query minus place of the key, under the same alignment. Causal:
        entry d for distance d. Not causal: an odd number of entries, the middle one for distance 0. Farther keys use
        the last entry on their side.
    dropout : Dropout, optional
        On the weights, after the softmax.
    out : (total_q, n_heads, head_dim) float32, optional

    Returns
    -------
    out : (total_q, n_heads, head_dim) float32
        0 for a query that sees no key.
    lse : (total_q, n_heads) float64
        ``log sum_j exp(z[i, j])``, -inf for a query that sees no key.

    Notes
    -----
    Online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; tiles: Dao et al. 2022, arXiv:2205.14135. Memory
    beside the result: one tile per thread.
    """
    shape = _shape("q", q, 3)
    out = workspace.empty(shape) if out is None else out
    lse = workspace.empty(shape[:2], np.float64)
    how = (_scale(softmax_scale, q), causal, _align_start(causal_align), bias)
    _core.attention_forward(q, k, v, cu_seqlens_q, cu_seqlens_k, *how, dropout, None, out, lse)
    return out, lse


def attention_backward(
    dout: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    out: Floats,
    lse: Doubles,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_align: Align = "end",
    bias: Floats | None = None,
    dropout: Dropout | None = None,
    dbias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats, Floats | None]:
    """Gradients of :func:`attention_forward`, from its result and ``lse`` alone.

    Parameters
    ----------
    dout : (total_q, n_heads, head_dim) float32
        Gradient of the loss by ``out``. The other arguments are those of the forward call.
    dbias : (n_heads, n_distances) float32, optional
        Added to. Made when ``bias`` is given and this is not.

    Returns
    -------
    dq, dk, dv, dbias
        Shaped as ``q``, ``k``, ``v``, ``bias``; ``dbias`` is None without a bias.
    """
    dq, dk, dv = (workspace.zeros(_shape(name, x, 3)) for name, x in (("q", q), ("k", k), ("v", v)))
    if bias is not None and dbias is None:
        dbias = workspace.zeros(_shape("bias", bias, 2))
    how = (_scale(softmax_scale, q), causal, _align_start(causal_align), bias)
    _core.attention_backward(dout, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, *how, dropout, dq, dk, dv, dbias)
    return dq, dk, dv, dbias


def attention_weights(
    q: Floats,
    k: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_align: Align = "end",
    bias: Floats | None = None,
) -> list[Floats]:
    """The weights ``a[i, j]`` themselves, for looking at: one (n_heads, n_q, n_k) array per sequence.

    Rows sum to 1, or to 0 for a query that sees no key.

    Parameters as in :func:`attention_forward`. This is the only function that stores them.
    """
    heads = _shape("q", q, 3)[1]
    n_q, n_k = np.diff(cu_seqlens_q), np.diff(cu_seqlens_k)
    weights = np.zeros(int((n_q * n_k).sum()) * heads, np.float32)
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float64)
    how = (_scale(softmax_scale, q), causal, _align_start(causal_align), bias)
    _core.attention_forward(q, k, k, cu_seqlens_q, cu_seqlens_k, *how, None, weights, out, lse)
    ends = np.cumsum(n_q * n_k * heads)
    shapes = zip(n_q.tolist(), n_k.tolist(), strict=True)
    return [w.reshape(heads, *shape) for w, shape in zip(np.split(weights, ends)[:-1], shapes, strict=True)]


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
    lse = workspace.empty(_shape("h", h, 2)[:1], np.float64)
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
    dh = workspace.zeros(_shape("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(_shape("item_vectors", item_vectors, 2))
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
    dh = workspace.zeros(_shape("h", h, 2))
    if ditem_vectors is None:
        ditem_vectors = workspace.zeros(_shape("item_vectors", item_vectors, 2))
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
    shape = (_shape("h", h, 2)[0], k)
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


def linear_forward(
    x: Floats,
    weight: Floats,
    bias: Floats | None = None,
    *,
    activation: Activation = None,
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats | None]:
    """``y = activation(x @ weight.T + bias)``.

    Parameters
    ----------
    x : (n, n_in) float32
    weight : (n_out, n_in) float32
    bias : (n_out,) float32, optional
    activation : None, "relu" or "gelu" (exact, by erf)

    Returns
    -------
    y : (n, n_out) float32
    saved : what :func:`linear_backward` needs besides
        None without activation; ``y`` for relu; the value before the activation for gelu.
    """
    code = _choice("activation", activation, _ACTIVATIONS)
    shape = (_shape("x", x, 2)[0], _shape("weight", weight, 2)[0])
    y = workspace.empty(shape) if out is None else out
    before = workspace.empty(shape) if activation == "gelu" else None
    _core.linear_forward(x, weight, bias, code, before, y)
    return y, y if activation == "relu" else before


def linear_backward(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    activation: Activation = None,
    saved: Floats | None = None,
    dx: Floats | None = None,
    dweight: Floats | None = None,
    dbias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of :func:`linear_forward`: ``dx`` (n, n_in), ``dweight`` (n_out, n_in), ``dbias`` (n_out,)."""
    if activation is not None:
        if saved is None:
            raise ValueError("saved: expected the array that linear_forward returned, got None")
        dy = activation_backward(dy, saved, activation=activation, workspace=workspace)
    n_out, n_in = _shape("weight", weight, 2)
    dx = workspace.zeros(_shape("x", x, 2)) if dx is None else dx
    dweight = workspace.zeros((n_out, n_in)) if dweight is None else dweight
    dbias = workspace.zeros((n_out,)) if dbias is None else dbias
    _core.linear_backward(dy, x, weight, dx, dweight, dbias)
    return dx, dweight, dbias


def activation_forward(x: Floats, *, activation: Activation, workspace: Workspace = NEW) -> Floats:
    """relu or gelu of every element; gelu is ``x Phi(x)`` (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    y = workspace.empty(x.shape)
    _core.activation_forward(_choice("activation", activation, _ACTIVATIONS), x.reshape(-1), y.reshape(-1))
    return y


def activation_backward(dy: Floats, x: Floats, *, activation: Activation, workspace: Workspace = NEW) -> Floats:
    """``dy`` times the slope at ``x`` (for relu the result serves as well as the input)."""
    dx = workspace.empty(x.shape)
    code = _choice("activation", activation, _ACTIVATIONS)
    _core.activation_backward(code, dy.reshape(-1), x.reshape(-1), dx.reshape(-1))
    return dx


def layer_norm_forward(
    x: Floats, weight: Floats, bias: Floats, *, eps: float = 1e-5, workspace: Workspace = NEW
) -> tuple[Floats, Floats, Floats]:
    """``y = (x - mean) * rstd * weight + bias`` over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Parameters
    ----------
    x : (n, dim) float32
    weight, bias : (dim,) float32
    eps : float, default 1e-5, added to the variance

    Returns
    -------
    y : (n, dim) float32
    mean, rstd : (n,) float32
    """
    n, dim = _shape("x", x, 2)
    y, mean, rstd = workspace.empty((n, dim)), workspace.empty((n,)), workspace.empty((n,))
    _core.layer_norm_forward(x, weight, bias, eps, y, mean, rstd)
    return y, mean, rstd


def layer_norm_backward(
    dy: Floats,
    x: Floats,
    weight: Floats,
    mean: Floats,
    rstd: Floats,
    *,
    dweight: Floats | None = None,
    dbias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of :func:`layer_norm_forward`: ``dx`` (n, dim), ``dweight`` and ``dbias`` (dim,)."""
    n, dim = _shape("x", x, 2)
    dx = workspace.zeros((n, dim))
    dweight = workspace.zeros((dim,)) if dweight is None else dweight
    dbias = workspace.zeros((dim,)) if dbias is None else dbias
    _core.layer_norm_backward(dy, x, weight, mean, rstd, dx, dweight, dbias)
    return dx, dweight, dbias


def embedding_forward(table: Floats, ids: Ints, *, scale: float = 1.0, workspace: Workspace = NEW) -> Floats:
    """``scale * table[ids]``: (n, dim) float32 for ids (n,) int32; an id outside the table raises ``ValueError``."""
    y = workspace.empty((*_shape("ids", ids, 1), _shape("table", table, 2)[1]))
    _core.embedding_forward(table, ids, scale, y)
    return y


def embedding_backward(dy: Floats, ids: Ints, dtable: Floats, *, scale: float = 1.0) -> Floats:
    """``dtable[ids[i]] += scale * dy[i]`` for i in order; each row of ``dtable`` belongs to one worker."""
    _core.embedding_backward(dy, ids, scale, dtable)
    return dtable


def dropout(x: Floats, rate: Dropout, *, workspace: Workspace = NEW) -> Floats:
    """``x * keep / (1 - p)`` for x (n, dim); the gradient is the same function of ``dy``."""
    y = workspace.empty(_shape("x", x, 2))
    _core.dropout(x, rate, y)
    return y


def adam(
    weight: Floats,
    grad: Floats,
    m: Floats,
    v: Floats,
    *,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """One step of Adam (arXiv:1412.6980), or of AdamW (arXiv:1711.05101) with ``decoupled=True``, in place.

    Parameters
    ----------
    weight, grad, m, v : arrays of one shape, float32, C-contiguous
        ``m`` and ``v`` are the moments, zeros before step 1.
    step : int, from 1
    grad_scale : float, default 1
        The gradient is multiplied by it first (gradient clipping).
    """
    flat = (weight.reshape(-1), grad.reshape(-1), m.reshape(-1), v.reshape(-1))
    _core.adam(*flat, step, learning_rate, beta1, beta2, eps, weight_decay, decoupled, grad_scale)


def sum_squares(x: Floats) -> float:
    """Sum of squares of all elements, added up in an order that does not depend on the number of threads."""
    return _core.sum_squares(x.reshape(-1))
