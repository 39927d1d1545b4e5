"""Scores that a network gives to every (query, key) pair of a sequence, and sums weighted by them.

The scores z of a ragged batch are one flat array: for each sequence its (n_q, n_k) block, one after another.
:func:`additive_scores_forward` and :func:`activation_unit_forward` make z, :func:`weighted_sum_forward` uses it.

Dot products need no array of scores: :func:`regard.ops.attention_forward`. Neither do bilinear scores ``q W k``, the
dot product of keys and linearly mapped queries (Luong et al. 2015, arXiv:1508.04025). For a weight (dim_k, dim_q)::

    mapped, _ = ops.linear_forward(q, weight)
    out, lse = ops.attention_forward(mapped[:, None], k[:, None], v[:, None], cu_q, cu_k, softmax_scale=1.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from regard import _core
from regard.ops.arguments import Activation, choice, shape_of
from regard.ops.layers import ACTIVATIONS, linear_backward, linear_forward
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from regard.ops.arguments import Floats, Offsets

Normalize = Literal["softmax", "none"]

_NORMALIZE = {"softmax": True, "none": False}


def _n_pairs(cu_seqlens_q: Offsets, cu_seqlens_k: Offsets) -> int:
    """Of all sequences; the compiled module checks the rest."""
    lengths = []
    for name, offsets in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        shape_of(name, offsets, 1)
        lengths.append(np.diff(offsets))
        if (lengths[-1] < 0).any():
            raise ValueError(f"{name}: expected offsets that never fall, got {offsets.tolist()}")
    n = min(map(len, lengths))
    return int(lengths[0][:n] @ lengths[1][:n])


def additive_scores_forward(
    q: Floats,
    k: Floats,
    v: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> Floats:
    """``z[i, j] = v·tanh(q[i] + k[j])`` for every query and key of a sequence.

    Bahdanau, Cho and Bengio 2014, arXiv:1409.0473: their q and k are linear maps of the two vectors, which
    :func:`regard.ops.linear_forward` makes, once per row.

    Parameters
    ----------
    q : (total_q, dim) float32, C-contiguous
    k : (total_k, dim) float32
    v : (dim,) float32
    cu_seqlens_q, cu_seqlens_k : (batch + 1,) int64
        Where each sequence starts, and the end: first 0, never falling. Sequences may be empty.
    out : (n_pairs,) float32, optional

    Returns
    -------
    z : (n_pairs,) float32
        The (n_q, n_k) blocks of all sequences.
    """
    z = workspace.empty((_n_pairs(cu_seqlens_q, cu_seqlens_k),)) if out is None else out
    _core.additive_scores_forward(q, k, v, cu_seqlens_q, cu_seqlens_k, z)
    return z


def additive_scores_backward(
    dz: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    dv: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of :func:`additive_scores_forward`.

    Parameters
    ----------
    dz : (n_pairs,) float32
        Gradient of the loss by ``z``. The other arguments are those of the forward call.
    dv : (dim,) float32, optional
        Added to.

    Returns
    -------
    dq, dk, dv
        Shaped as ``q``, ``k``, ``v``; 0 for a query without keys and a key without queries.
    """
    _n_pairs(cu_seqlens_q, cu_seqlens_k)
    dq, dk = workspace.empty(shape_of("q", q, 2)), workspace.empty(shape_of("k", k, 2))
    dv = workspace.zeros(shape_of("v", v, 1)) if dv is None else dv
    _core.additive_scores_backward(dz, q, k, v, cu_seqlens_q, cu_seqlens_k, dq, dk, dv)
    return dq, dk, dv


class ActivationUnit(NamedTuple):
    """Parameters of an activation unit, or their gradients: three linear layers on ``[q, k, q - k, q * k]``.

    Attributes
    ----------
    weight1 : (hidden1, 4 dim) float32
        Its four blocks of columns belong to q, k, q - k and q * k.
    bias1 : (hidden1,) float32
    weight2 : (hidden2, hidden1) float32
    bias2 : (hidden2,) float32
    weight3 : (hidden2,) float32
    bias3 : (1,) float32
    """

    weight1: Floats
    bias1: Floats
    weight2: Floats
    bias2: Floats
    weight3: Floats
    bias3: Floats


class _FirstLayer(NamedTuple):
    """``W1 q + W2 k + W3 (q - k) + W4 (q * k)`` as ``of_q q + of_k k + product (q * k)``."""

    of_q: Floats
    of_k: Floats
    product: Floats


def _first_layer(weight1: Floats, q: Floats) -> _FirstLayer:
    dim, (hidden, width) = shape_of("q", q, 2)[1], shape_of("weight1", weight1, 2)
    if weight1.dtype != np.float32:
        raise TypeError(f"weight1: expected a float32 array ({hidden}, {4 * dim}), got {weight1.dtype}")
    if width != 4 * dim:
        raise ValueError(f"weight1: expected 4 columns for each of q's {dim}, got shape {weight1.shape}")
    w1, w2, w3, w4 = np.split(weight1, 4, axis=1)
    return _FirstLayer(w1 + w3, w2 - w3, w4.copy())


def activation_unit_forward(
    q: Floats,
    k: Floats,
    unit: ActivationUnit,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    activation: Activation = "sigmoid",
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> Floats:
    """Scores by a network with two hidden layers on ``[q, k, q - k, q * k]``, as in the Deep Interest Network.

    ``z[i, j] = weight3·act(weight2 act(weight1 [q, k, q - k, q * k] + bias1) + bias2) + bias3`` with ``q = q[i]`` and
    ``k = k[j]`` (Zhou et al. 2017, arXiv:1706.06978; the difference and the product as in the authors' code). The
    vector in brackets is never made: what the first layer does with q alone and with k alone is computed once per row.

    Parameters
    ----------
    q : (total_q, dim) float32, C-contiguous
        The candidates.
    k : (total_k, dim) float32
        The events of the histories.
    unit : ActivationUnit
    cu_seqlens_q, cu_seqlens_k : (batch + 1,) int64
        Where each sequence starts, and the end: first 0, never falling. Sequences may be empty.
    activation : None, "relu", "gelu", "silu" or "sigmoid", default "sigmoid"
        Of both hidden layers.
    out : (n_pairs,) float32, optional

    Returns
    -------
    z : (n_pairs,) float32
        The (n_q, n_k) blocks of all sequences.
    """
    code, first = choice("activation", activation, ACTIVATIONS), _first_layer(unit.weight1, q)
    z = workspace.empty((_n_pairs(cu_seqlens_q, cu_seqlens_k),)) if out is None else out
    q_part, _ = linear_forward(q, first.of_q, unit.bias1, workspace=workspace)
    k_part, _ = linear_forward(k, first.of_k, workspace=workspace)
    arrays = (q, k, q_part, k_part, first.product, *unit[2:])
    _core.activation_unit_forward(*arrays, code, cu_seqlens_q, cu_seqlens_k, z)
    return z


def activation_unit_backward(
    dz: Floats,
    q: Floats,
    k: Floats,
    unit: ActivationUnit,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    activation: Activation = "sigmoid",
    dunit: ActivationUnit | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, ActivationUnit]:
    """Gradients of :func:`activation_unit_forward`. The hidden layers are computed again, not kept.

    Parameters
    ----------
    dz : (n_pairs,) float32
        Gradient of the loss by ``z``. The other arguments are those of the forward call.
    dunit : ActivationUnit, optional
        Its arrays are added to.

    Returns
    -------
    dq, dk, dunit
        Shaped as ``q``, ``k``, ``unit``; ``dq`` is 0 for a query without keys and ``dk`` for a key without queries.
    """
    code, first = choice("activation", activation, ACTIVATIONS), _first_layer(unit.weight1, q)
    _n_pairs(cu_seqlens_q, cu_seqlens_k)
    dunit = ActivationUnit(*(workspace.zeros(x.shape) for x in unit)) if dunit is None else dunit
    for name, gradient, parameter in zip(unit._fields, dunit, unit, strict=True):
        if gradient.shape != parameter.shape:
            raise ValueError(f"d{name}: expected shape {parameter.shape}, got {gradient.shape}")
    q_part, _ = linear_forward(q, first.of_q, unit.bias1, workspace=workspace)
    k_part, _ = linear_forward(k, first.of_k, workspace=workspace)
    dq, dk, dq_part, dk_part = (workspace.empty(x.shape) for x in (q, k, q_part, k_part))
    dfirst = _FirstLayer(*(workspace.zeros(x.shape) for x in first))
    arrays = (dz, q, k, q_part, k_part, first.product, *unit[2:])
    results = (dq, dk, dq_part, dk_part, dfirst.product, dunit.weight2, dunit.bias2, dunit.weight3)
    _core.activation_unit_backward(*arrays, code, cu_seqlens_q, cu_seqlens_k, *results)
    linear_backward(dq_part, q, first.of_q, dx=dq, dweight=dfirst.of_q, dbias=dunit.bias1, workspace=workspace)
    linear_backward(dk_part, k, first.of_k, dx=dk, dweight=dfirst.of_k, workspace=workspace)
    dunit.weight1[...] += np.hstack((dfirst.of_q, dfirst.of_k, dfirst.of_q - dfirst.of_k, dfirst.product))
    dunit.bias3[0] += dz.sum(dtype=np.float64)
    return dq, dk, dunit


def weighted_sum_forward(
    z: Floats,
    v: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    normalize: Normalize = "softmax",
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> Floats:
    """``out[i] = sum_j a[i, j] v[j]`` over the keys of i's sequence, a made of scores z.

    Parameters
    ----------
    z : (n_pairs,) float32
        The (n_q, n_k) blocks of all sequences.
    v : (total_k, dim) float32, C-contiguous
    cu_seqlens_q, cu_seqlens_k : (batch + 1,) int64
        Where each sequence starts, and the end: first 0, never falling. Sequences may be empty.
    normalize : "softmax" or "none", default "softmax"
        ``a[i, j] = exp(z[i, j]) / sum_k exp(z[i, k])``, or z itself, as in the Deep Interest Network: the size of the
        sum then tells how much of the history speaks for the query.
    out : (total_q, dim) float32, optional

    Returns
    -------
    out : (total_q, dim) float32
        0 for a query without keys.
    """
    softmax = choice("normalize", normalize, _NORMALIZE)
    _n_pairs(cu_seqlens_q, cu_seqlens_k)
    total_q = int(cu_seqlens_q[-1]) if len(cu_seqlens_q) else 0
    out = workspace.empty((total_q, shape_of("v", v, 2)[1])) if out is None else out
    _core.weighted_sum_forward(z, v, cu_seqlens_q, cu_seqlens_k, softmax, out)
    return out


def weighted_sum_backward(
    dout: Floats,
    z: Floats,
    v: Floats,
    cu_seqlens_q: Offsets,
    cu_seqlens_k: Offsets,
    *,
    normalize: Normalize = "softmax",
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats]:
    """Gradients of :func:`weighted_sum_forward`: ``dz`` (n_pairs,) and ``dv`` (total_k, dim)."""
    softmax = choice("normalize", normalize, _NORMALIZE)
    dz, dv = workspace.empty((_n_pairs(cu_seqlens_q, cu_seqlens_k),)), workspace.empty(shape_of("v", v, 2))
    _core.weighted_sum_backward(dout, z, v, cu_seqlens_q, cu_seqlens_k, softmax, dz, dv)
    return dz, dv
