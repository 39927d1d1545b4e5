"""Linear layers, activations, norms, embeddings, dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from regard.ops.arguments import Activation, Dropout, choice, flat, placed, shape_of
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from regard.ops.arguments import Floats, Ints, Offsets

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "silu": 3, "sigmoid": 4}


def linear_forward(
    x: Floats,
    weight: Floats,
    bias: Floats | None = None,
    *,
    activation: Activation = None,
    dropout: Dropout | None = None,
    residual: Floats | None = None,
    out: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats | None]:
    """``y = dropout(activation(x @ weight.T + bias)) + residual`` in one pass over the rows.

    Parameters
    ----------
    x : (n, n_in) float32
    weight : (n_out, n_in) float32
    bias : (n_out,) float32, optional
    activation : None, "relu", "gelu" (exact, by erf), "silu" or "sigmoid"
    dropout : Dropout, optional
        To the bits as :func:`dropout` on the result.
    residual : (n, n_out) float32, optional

    Returns
    -------
    y : (n, n_out) float32
    saved : what :func:`linear_backward` needs besides
        None without activation; ``y`` for relu without residual; else the value before the activation.
    """
    core, workspace = placed(x, workspace)
    code = choice("activation", activation, ACTIVATIONS)
    shape = (shape_of("x", x, 2)[0], shape_of("weight", weight, 2)[0])
    y = workspace.empty(shape) if out is None else out
    y_serves = activation == "relu" and residual is None
    before = None if activation is None or y_serves else workspace.empty(shape)
    core.linear_forward(x, [weight], [bias], code, dropout, residual, [before], [y])
    return y, y if y_serves else before


def linear_backward(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    activation: Activation = None,
    saved: Floats | None = None,
    dropout: Dropout | None = None,
    dx: Floats | None = None,
    dweight: Floats | None = None,
    dbias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of :func:`linear_forward`: ``dx`` (n, n_in), ``dweight`` (n_out, n_in), ``dbias`` (n_out,).

    They are added to what is given. That of the residual is ``dy`` itself.
    """
    core, workspace = placed(dy, workspace)
    code, add_to_dx = choice("activation", activation, ACTIVATIONS), dx is not None
    if activation is not None and saved is None:
        raise ValueError("saved: expected the array that linear_forward returned, got None")
    n_out, n_in = shape_of("weight", weight, 2)
    dx = workspace.empty(shape_of("x", x, 2)) if dx is None else dx
    dweight = workspace.zeros((n_out, n_in)) if dweight is None else dweight
    dbias = workspace.zeros((n_out,)) if dbias is None else dbias
    core.linear_backward([dy], x, [weight], code, dropout, [saved], dx, add_to_dx, [dweight], [dbias])
    return dx, dweight, dbias


def linear_maps_forward(
    x: Floats, weights: Sequence[Floats], biases: Sequence[Floats | None], *, workspace: Workspace = NEW
) -> list[Floats]:
    """``[x @ weight.T + bias, ...]`` for weights of one shape, reading x once: queries, keys and values, say."""
    core, workspace = placed(x, workspace)
    n, nothing = shape_of("x", x, 2)[0], [None] * len(weights)
    results = [workspace.empty((n, shape_of("weight", weight, 2)[0])) for weight in weights]
    core.linear_forward(x, weights, biases, 0, None, None, nothing, results)
    return results


def linear_maps_backward(
    dys: Sequence[Floats],
    x: Floats,
    weights: Sequence[Floats],
    *,
    dweights: Sequence[Floats],
    dbiases: Sequence[Floats | None],
    workspace: Workspace = NEW,
) -> Floats:
    """Gradients of :func:`linear_maps_forward`: adds to ``dweights`` and ``dbiases``, gives ``dx`` (n, n_in)."""
    core, workspace = placed(x, workspace)
    dx, nothing = workspace.empty(shape_of("x", x, 2)), [None] * len(weights)
    core.linear_backward(dys, x, weights, 0, None, nothing, dx, False, dweights, dbiases)
    return dx


def activation_forward(x: Floats, *, activation: Activation, workspace: Workspace = NEW) -> Floats:
    """relu, gelu, silu or sigmoid of every element.

    gelu is ``x Phi(x)`` (Hendrycks and Gimpel 2016, arXiv:1606.08415), silu ``x sigmoid(x)`` (Elfwing et al. 2017,
    arXiv:1702.03118).
    """
    core, workspace = placed(x, workspace)
    code, values = choice("activation", activation, ACTIVATIONS), flat("x", x)
    y = workspace.empty(x.shape)
    core.activation_forward(code, values, y.reshape(-1))
    return y


def activation_backward(dy: Floats, x: Floats, *, activation: Activation, workspace: Workspace = NEW) -> Floats:
    """``dy`` times the slope at ``x`` (for relu the result serves as well as the input)."""
    core, workspace = placed(dy, workspace)
    code, gradient, values = choice("activation", activation, ACTIVATIONS), flat("dy", dy), flat("x", x)
    dx = workspace.empty(x.shape)
    core.activation_backward(code, gradient, values, dx.reshape(-1))
    return dx


def gate_forward(gate: Floats, value: Floats, *, activation: Activation, workspace: Workspace = NEW) -> Floats:
    """``activation(gate) * value``, element by element.

    With silu the middle of a SwiGLU layer (Shazeer 2020, arXiv:2002.05202), with sigmoid the gate of a residual
    connection (Parisotto et al. 2019, arXiv:1910.06764).

    Parameters
    ----------
    gate, value : (n, dim) float32
    activation : None, "relu", "gelu", "silu" or "sigmoid"

    Returns
    -------
    y : (n, dim) float32
    """
    core, workspace = placed(gate, workspace)
    y = workspace.empty(shape_of("gate", gate, 2))
    core.gate_forward(choice("activation", activation, ACTIVATIONS), gate, value, y)
    return y


def gate_backward(
    dy: Floats, gate: Floats, value: Floats, *, activation: Activation, workspace: Workspace = NEW
) -> tuple[Floats, Floats]:
    """Gradients of :func:`gate_forward`: ``dgate`` and ``dvalue`` (n, dim)."""
    core, workspace = placed(dy, workspace)
    shape = shape_of("gate", gate, 2)
    dgate, dvalue = workspace.empty(shape), workspace.empty(shape)
    core.gate_backward(choice("activation", activation, ACTIVATIONS), dy, gate, value, dgate, dvalue)
    return dgate, dvalue


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
    core, workspace = placed(x, workspace)
    n, dim = shape_of("x", x, 2)
    y, mean, rstd = workspace.empty((n, dim)), workspace.empty((n,)), workspace.empty((n,))
    core.layer_norm_forward(x, weight, bias, eps, y, mean, rstd)
    return y, mean, rstd


def layer_norm_backward(
    dy: Floats,
    x: Floats,
    weight: Floats,
    mean: Floats,
    rstd: Floats,
    *,
    dx: Floats | None = None,
    dweight: Floats | None = None,
    dbias: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of :func:`layer_norm_forward`: ``dx`` (n, dim), ``dweight`` and ``dbias`` (dim,), added to if given."""
    core, workspace = placed(dy, workspace)
    n, dim = shape_of("x", x, 2)
    dx = workspace.zeros((n, dim)) if dx is None else dx
    dweight = workspace.zeros((dim,)) if dweight is None else dweight
    dbias = workspace.zeros((dim,)) if dbias is None else dbias
    core.layer_norm_backward(dy, x, weight, mean, rstd, dx, dweight, dbias)
    return dx, dweight, dbias


def rms_norm_forward(
    x: Floats, weight: Floats, *, eps: float = 1e-5, workspace: Workspace = NEW
) -> tuple[Floats, Floats]:
    """``y = x * rstd * weight``, ``rstd = 1 / sqrt(mean(x**2) + eps)`` (Zhang and Sennrich 2019, arXiv:1910.07467).

    Parameters
    ----------
    x : (n, dim) float32
    weight : (dim,) float32
    eps : float, default 1e-5, added to the mean square

    Returns
    -------
    y : (n, dim) float32
    rstd : (n,) float32
    """
    core, workspace = placed(x, workspace)
    n, dim = shape_of("x", x, 2)
    y, rstd = workspace.empty((n, dim)), workspace.empty((n,))
    core.rms_norm_forward(x, weight, eps, y, rstd)
    return y, rstd


def rms_norm_backward(
    dy: Floats,
    x: Floats,
    weight: Floats,
    rstd: Floats,
    *,
    dx: Floats | None = None,
    dweight: Floats | None = None,
    workspace: Workspace = NEW,
) -> tuple[Floats, Floats]:
    """Gradients of :func:`rms_norm_forward`: ``dx`` (n, dim) and ``dweight`` (dim,), added to if given."""
    core, workspace = placed(dy, workspace)
    n, dim = shape_of("x", x, 2)
    dx = workspace.zeros((n, dim)) if dx is None else dx
    dweight = workspace.zeros((dim,)) if dweight is None else dweight
    core.rms_norm_backward(dy, x, weight, rstd, dx, dweight)
    return dx, dweight


def embedding_forward(table: Floats, ids: Ints, *, scale: float = 1.0, workspace: Workspace = NEW) -> Floats:
    """``scale * table[ids]``: (n, dim) float32 for ids (n,) int32; an id outside the table raises ``ValueError``."""
    core, workspace = placed(table, workspace)
    y = workspace.empty((*shape_of("ids", ids, 1), shape_of("table", table, 2)[1]))
    core.embedding_forward(table, ids, scale, y)
    return y


def embedding_backward(dy: Floats, ids: Ints, dtable: Floats, *, scale: float = 1.0) -> Floats:
    """``dtable[ids[i]] += scale * dy[i]`` for i in order; each row of ``dtable`` belongs to one worker."""
    core, _ = placed(dy)
    core.embedding_backward(dy, ids, scale, dtable)
    return dtable


def embedding_bag_forward(
    table: Floats, ids: Ints, weights: Floats, cu_seqlens: Offsets, *, out: Floats | None = None
) -> Floats:
    """Weighted sums of rows: ``out[i] += sum_j weights[j] * table[ids[j]]``, j from ``cu_seqlens[i]`` on.

    Parameters
    ----------
    table : (n_rows, dim) float32
    ids : (total,) int32
    weights : (total,) float32
    cu_seqlens : (n + 1,) int64
        Where each bag begins; a bag may be empty.
    out : (n, dim) float32, default zeros

    Raises
    ------
    ValueError
        An id outside the table; offsets that do not fit ``ids``.
    """
    core, _ = placed(table)
    if out is None:
        out = np.zeros((shape_of("cu_seqlens", cu_seqlens, 1)[0] - 1, shape_of("table", table, 2)[1]), np.float32)
    core.embedding_bag_forward(table, ids, weights, cu_seqlens, out)
    return out


def embedding_bag_backward(dy: Floats, ids: Ints, weights: Floats, cu_seqlens: Offsets, dtable: Floats) -> Floats:
    """``dtable[ids[j]] += weights[j] * dy[i]``, each row in the order of j; see :func:`embedding_bag_forward`."""
    core, _ = placed(dy)
    core.embedding_bag_backward(dy, ids, weights, cu_seqlens, dtable)
    return dtable


def dropout(x: Floats, rate: Dropout, *, workspace: Workspace = NEW) -> Floats:
    """``x * keep / (1 - p)`` for x (n, dim); the gradient is the same function of ``dy``."""
    core, workspace = placed(x, workspace)
    y = workspace.empty(shape_of("x", x, 2))
    core.dropout(x, rate, y)
    return y
