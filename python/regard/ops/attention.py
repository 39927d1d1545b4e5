"""Softmax attention within each sequence of a ragged batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regard.ops.arguments import Align, Dropout, choice, placed, shape_of
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from regard.ops.arguments import Doubles, Floats, Offsets


_ALIGN = {"end": False, "start": True}


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
    time_bias: Floats | None = None,
    times_q: Offsets | None = None,
    times_k: Offsets | None = None,
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Doubles]:
    """Softmax attention within each sequence of a ragged batch.

    ``out[i] = sum_j a[i, j] v[j]`` with ``a[i, j] = exp(z[i, j]) / sum_k exp(z[i, k])`` and
    ``z[i, j] = softmax_scale * q[i]·k[j] + bias[distance(i, j)] + time_bias[bucket(i, j)]``, j over the keys of
    i's sequence.

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
    time_bias : (n_heads, n_buckets) float32, optional
        Added to the scores by the time from the key to the query, ``dt = times_q[i] - times_k[j]``: with ``x = 1 +
        max(dt, 0)`` in float32, ``bucket = min((bits(x) - bits(1.0)) >> 21, n_buckets - 1)``: four buckets to a
        doubling of x, linear within it. 1 to 128 buckets; the last takes all beyond.
    times_q, times_k : (total_q,), (total_k,) int64
        Whole seconds since any moment; in any order. What is more than 68 years after the earliest of its sequence
        counts as 68 years. Where the next event is predicted the query's time is that of the next event.
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
    core, workspace = placed(q, workspace)
    lse = None
    if workspace is not NEW:  # else the compiled module makes the arrays
        shape = shape_of("q", q, 3)
        out = workspace.empty(shape) if out is None else out
        lse = workspace.empty(shape[:2], np.float64)
    start = causal_align != "end" and choice("causal_align", causal_align, _ALIGN)
    # One by one: unpacking tuples takes a fortieth of the time of a short history.
    # fmt: off
    found: tuple[Floats, Doubles] = core.attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal, start, bias, dropout, time_bias, times_q, times_k,
        None, out, lse,
    )
    # fmt: on
    return found


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
    time_bias: Floats | None = None,
    times_q: Offsets | None = None,
    times_k: Offsets | None = None,
    dbias: Floats | None = None,
    dtime_bias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats, Floats | None]:
    """Gradients of :func:`attention_forward`, from its result and ``lse`` alone.

    Parameters
    ----------
    dout : (total_q, n_heads, head_dim) float32
        Gradient of the loss by ``out``. The other arguments are those of the forward call.
    dbias : (n_heads, n_distances) float32, optional
        Added to. Made when ``bias`` is given and this is not.
    dtime_bias : (n_heads, n_buckets) float32, optional
        Added to; the gradient by ``time_bias`` is computed only if this is given.

    Returns
    -------
    dq, dk, dv, dbias
        Shaped as ``q``, ``k``, ``v``, ``bias``; ``dbias`` is None without a bias.
    """
    core, workspace = placed(dout, workspace)
    dq = dk = dv = None
    if workspace is not NEW:
        dq, k_shape = workspace.empty(shape_of("q", q, 3)), shape_of("k", k, 3)
        dk, dv = workspace.empty(k_shape), workspace.empty(k_shape)
    if bias is not None and dbias is None:
        dbias = workspace.zeros(shape_of("bias", bias, 2))
    start = causal_align != "end" and choice("causal_align", causal_align, _ALIGN)
    # fmt: off
    dq, dk, dv = core.attention_backward(
        dout, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal, start, bias, dropout, time_bias,
        times_q, times_k, dq, dk, dv, dbias, dtime_bias,
    )
    # fmt: on
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
    time_bias: Floats | None = None,
    times_q: Offsets | None = None,
    times_k: Offsets | None = None,
) -> list[Floats]:
    """The weights ``a[i, j]`` themselves, for looking at: one (n_heads, n_q, n_k) array per sequence.

    Rows sum to 1, or to 0 for a query that sees no key.

    Parameters as in :func:`attention_forward`. This is the only function that stores them.
    """
    core, _ = placed(q)
    heads = shape_of("q", q, 3)[1]
    n_q, n_k = np.diff(cu_seqlens_q), np.diff(cu_seqlens_k)
    weights = np.zeros(int((n_q * n_k).sum()) * heads, np.float32)
    start = causal_align != "end" and choice("causal_align", causal_align, _ALIGN)
    how = (softmax_scale, causal, start, bias, None, time_bias, times_q, times_k)
    core.attention_forward(q, k, k, cu_seqlens_q, cu_seqlens_k, *how, weights, None, None)
    ends = np.cumsum(n_q * n_k * heads)
    shapes = zip(n_q.tolist(), n_k.tolist(), strict=True)
    return [w.reshape(heads, *shape) for w, shape in zip(np.split(weights, ends)[:-1], shapes, strict=True)]
