"""Functions of tensors with gradients: what layers and subclassed models are written with.

Arguments are tensors, arrays or numbers; results are float32 tensors. Products and activations run in the kernels of
`regard.ops`, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops
from regard.nn.tape import Tensor, record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def floats(x: Any) -> Tensor:
    """As a float32 tensor; a tensor that is one already is returned itself."""
    tensor = x if isinstance(x, Tensor) else Tensor(x)
    return tensor if tensor.data.dtype == np.float32 else Tensor(tensor.data.astype(np.float32))


def _rows(x: Array) -> Array:
    """As the matrix of its last axis that kernels take."""
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1))


def _sum_to(dy: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an argument that was broadcast from `shape`."""
    if dy.shape == shape:
        return dy
    added = dy.ndim - len(shape)
    stretched = [added + i for i, n in enumerate(shape) if n == 1 and dy.shape[added + i] != 1]
    return np.asarray(dy.sum(axis=(*range(added), *stretched))).reshape(shape)


# ---- arithmetic, with NumPy's broadcasting ----


def add(a: Any, b: Any) -> Tensor:
    """``a + b``."""
    a, b = floats(a), floats(b)
    return record(a.data + b.data, (a, b), lambda dy: (_sum_to(dy, a.shape), _sum_to(dy, b.shape)))


def subtract(a: Any, b: Any) -> Tensor:
    """``a - b``."""
    a, b = floats(a), floats(b)
    return record(a.data - b.data, (a, b), lambda dy: (_sum_to(dy, a.shape), _sum_to(-dy, b.shape)))


def multiply(a: Any, b: Any) -> Tensor:
    """``a * b``, element by element."""
    a, b = floats(a), floats(b)
    x, y = a.data, b.data
    return record(x * y, (a, b), lambda dy: (_sum_to(dy * y, x.shape), _sum_to(dy * x, y.shape)))


def divide(a: Any, b: Any) -> Tensor:
    """``a / b``."""
    a, b = floats(a), floats(b)
    x, y = a.data, b.data
    result = x / y
    return record(result, (a, b), lambda dy: (_sum_to(dy / y, x.shape), _sum_to(-dy * result / y, y.shape)))


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product over the last two axes.

    Parameters
    ----------
    a : (..., n, m)
    b : (m, p), or (..., m, p) with the leading axes of `a`
    """
    a, b = floats(a), floats(b)
    fits = a.ndim >= 2 and b.ndim >= 2 and a.shape[-1] == b.shape[-2]
    if not fits or (b.ndim > 2 and a.shape[:-2] != b.shape[:-2]):
        raise ValueError(f"matmul: expected (..., n, m) and (m, p) or (..., m, p), got {a.shape} and {b.shape}")
    n, m, p = a.shape[-2], a.shape[-1], b.shape[-1]
    left = np.ascontiguousarray(a.data.reshape(1, -1, m) if b.ndim == 2 else a.data.reshape(-1, n, m))
    right = np.ascontiguousarray(np.swapaxes(b.data, -1, -2)).reshape(-1, p, m)  # the kernel computes x @ weight.T
    result = np.empty((*left.shape[:2], p), np.float32)
    for x, weight, y in zip(left, right, result, strict=True):
        ops.linear_forward(x, weight, out=y)

    def backward(dy: Array) -> tuple[Array, Array]:
        dleft, dright = np.zeros_like(left), np.zeros_like(right)
        slopes = np.ascontiguousarray(dy).reshape(result.shape)
        for one, x, weight, dx, dweight in zip(slopes, left, right, dleft, dright, strict=True):
            ops.linear_backward(one, x, weight, dx=dx, dweight=dweight)
        return dleft.reshape(a.shape), np.swapaxes(dright, -1, -2).reshape(b.shape)

    return record(result.reshape(*a.shape[:-1], p), (a, b), backward)


def linear(x: Any, kernel: Tensor, bias: Tensor | None = None, *, activation: ops.Activation = None) -> Tensor:
    """``activation(x @ kernel + bias)`` over the last axis of x.

    Parameters
    ----------
    x : (..., n_in)
    kernel : (n_in, ...)
        Axes after the first are one long axis of outputs.
    bias : shape of the outputs, optional
    activation : None, "relu", "gelu", "silu" or "sigmoid"
    """
    x = floats(x)
    rows = _rows(x.data)
    weight = np.ascontiguousarray(kernel.data.reshape(rows.shape[1], -1).T)
    b = None if bias is None else bias.data.reshape(-1)
    y, saved = ops.linear_forward(rows, weight, b, activation=activation)

    def backward(dy: Array) -> tuple[Array, ...]:
        dx, dweight, dbias = ops.linear_backward(_rows(dy), rows, weight, activation=activation, saved=saved)
        dkernel = np.ascontiguousarray(dweight.T).reshape(kernel.shape)
        return dx.reshape(x.shape), dkernel, *([] if bias is None else [dbias.reshape(bias.shape)])

    parents = (x, kernel) if bias is None else (x, kernel, bias)
    return record(y.reshape(*x.shape[:-1], -1), parents, backward)


# ---- element by element ----


def exp(x: Any) -> Tensor:
    """``e ** x``."""
    x = floats(x)
    y = np.exp(x.data)
    return record(y, (x,), lambda dy: (dy * y,))


def log(x: Any) -> Tensor:
    """Natural logarithm."""
    x = floats(x)
    return record(np.log(x.data), (x,), lambda dy: (dy / x.data,))


def square(x: Any) -> Tensor:
    """``x ** 2``."""
    x = floats(x)
    return record(x.data * x.data, (x,), lambda dy: (2 * dy * x.data,))


def sqrt(x: Any) -> Tensor:
    """Square root."""
    x = floats(x)
    y = np.sqrt(x.data)
    return record(y, (x,), lambda dy: (dy / (2 * y),))


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent."""
    x = floats(x)
    y = np.tanh(x.data)
    return record(y, (x,), lambda dy: (dy * (1 - y * y),))


def _activation(x: Any, kind: ops.Activation) -> Tensor:
    x = floats(x)
    values = np.asarray(x.data, order="C")

    def backward(dy: Array) -> tuple[Array]:
        return (ops.activation_backward(np.asarray(dy, order="C"), values, activation=kind),)

    return record(ops.activation_forward(values, activation=kind), (x,), backward)


def relu(x: Any) -> Tensor:
    """``max(x, 0)``."""
    return _activation(x, "relu")


def sigmoid(x: Any) -> Tensor:
    """``1 / (1 + e ** -x)``."""
    return _activation(x, "sigmoid")


def gelu(x: Any) -> Tensor:
    """``x Phi(x)``, exact."""
    return _activation(x, "gelu")


def silu(x: Any) -> Tensor:
    """``x sigmoid(x)``."""
    return _activation(x, "silu")


def softmax(x: Any, *, visible: NDArray[np.bool_] | None = None) -> Tensor:
    """Softmax over the last axis.

    Parameters
    ----------
    x : (..., n)
    visible : bool, broadcast to the shape of x, optional
        Only these take part; the others get 0, and so does a row with none.
    """
    x = floats(x)
    z = x.data if visible is None else np.where(visible, x.data, np.float32(-np.inf))
    top = z.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(z - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total == 0, 1, total)

    def backward(dy: Array) -> tuple[Array]:
        return (weights * (dy - (dy * weights).sum(axis=-1, keepdims=True)),)

    return record(weights, (x,), backward)


def keep_where(visible: NDArray[np.bool_], x: Any) -> Tensor:
    """x where `visible`, else 0, even in place of NaN."""
    x = floats(x)
    zero = np.float32(0)
    return record(np.where(visible, x.data, zero), (x,), lambda dy: (np.where(visible, dy, zero),))


def dropout(x: Any, rate: ops.Dropout) -> Tensor:
    """Elements set to 0 with probability ``rate.p``, the others times ``1 / (1 - p)``."""
    x = floats(x)
    y = ops.dropout(_rows(x.data), rate).reshape(x.shape)
    return record(y, (x,), lambda dy: (ops.dropout(_rows(dy), rate).reshape(x.shape),))


# ---- shapes ----


def reshape(x: Any, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape; one entry may be -1."""
    x = floats(x)
    return record(x.data.reshape(tuple(shape)), (x,), lambda dy: (dy.reshape(x.shape),))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """Axes in another order, by default the last two swapped."""
    x = floats(x)
    order = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2] if axes is None else [axis % x.ndim for axis in axes]
    return record(x.data.transpose(order), (x,), lambda dy: (dy.transpose(np.argsort(order)),))


def concatenate(parts: Sequence[Any], axis: int = -1) -> Tensor:
    """Parts one after another along an axis."""
    tensors = tuple(floats(part) for part in parts)
    ends = np.cumsum([tensor.shape[axis] for tensor in tensors])[:-1]
    data = np.concatenate([tensor.data for tensor in tensors], axis=axis)
    return record(data, tensors, lambda dy: tuple(np.split(dy, ends, axis=axis)))


def part(x: Tensor, index: Any) -> Tensor:
    """``x[index]`` with integers, slices, None and ... ; for arrays of row numbers see `gather`."""
    keys = index if isinstance(index, tuple) else (index,)
    if not all(key is None or isinstance(key, int | np.integer | slice | EllipsisType) for key in keys):
        raise TypeError("index: expected integers, slices, None or ...; for arrays of row numbers use regard.nn.gather")

    def backward(dy: Array) -> tuple[Array]:
        dx = np.zeros_like(x.data)
        dx[index] = dy
        return (dx,)

    return record(x.data[index], (x,), backward)


def gather(x: Any, ids: Any) -> Tensor:
    """``x[ids]``: rows of the first axis.

    Parameters
    ----------
    x : (n, ...)
    ids : integers of any shape, from 0 to n - 1

    Returns
    -------
    Tensor, ids.shape + x.shape[1:]
    """
    x = floats(x)
    places = np.asarray(ids.data if isinstance(ids, Tensor) else ids)
    if places.dtype.kind not in "iu":
        raise TypeError(f"ids: expected integers, got {places.dtype}")
    if places.size and not 0 <= (worst := int(places.min() if places.min() < 0 else places.max())) < len(x):
        raise ValueError(f"ids: expected from 0 to {len(x) - 1}, got {worst}")
    table = np.ascontiguousarray(x.data.reshape(len(x), -1))
    flat = np.ascontiguousarray(places.reshape(-1), np.int32)

    def backward(dy: Array) -> tuple[Array]:
        dtable = np.zeros_like(table)
        ops.embedding_backward(np.ascontiguousarray(dy).reshape(len(flat), -1), flat, dtable)
        return (dtable.reshape(x.shape),)

    return record(ops.embedding_forward(table, flat).reshape(*places.shape, *x.shape[1:]), (x,), backward)


# ---- sums ----


def sum(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Sum over one axis, several, or all."""
    x = floats(x)

    def backward(dy: Array) -> tuple[Array]:
        wide = dy if keepdims or axis is None else np.expand_dims(dy, axis)
        return (np.broadcast_to(wide, x.shape).copy(),)

    return record(np.sum(x.data, axis=axis, keepdims=keepdims), (x,), backward)


def mean(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Mean over one axis, several, or all."""
    x = floats(x)
    total = sum(x, axis, keepdims)
    return multiply(total, builtins.float(total.data.size) / builtins.max(x.data.size, 1))
