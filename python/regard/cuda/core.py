"""The functions of the compiled module that `regard.ops` calls, for arrays on the device.

Names, arguments and checks are those of ``regard._core``. Numbers that say where things lie (ids, offsets, lists) may
be NumPy arrays, as in the training loop: they are checked and copied to the device; those that are there already are
taken as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from regard.cuda import library
from regard.cuda.array import NEW, DeviceArray, asarray, empty
from regard.cuda.array import DeviceWorkspace as Workspace
from regard.cuda.library import call, pointer

__all__ = ["NEW", "Workspace"]  # where results are made

_ANY = -1


def __getattr__(name: str) -> Any:
    """For what is missing here."""
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(f"{name}: not written for arrays on a CUDA device; use NumPy arrays")


# ---- arguments ----


def _array(name: str, array: Any, shape: Sequence[int], dtype: Any = np.float32) -> Any:
    """The array, if it is on the device and as expected."""
    wanted = np.dtype(dtype)
    if not isinstance(array, DeviceArray):
        raise TypeError(f"{name}: expected an array on the CUDA device, got {type(array).__name__}")
    if array.ndim == len(shape):
        shape = tuple(m if n == _ANY else n for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != wanted:
        raise TypeError(f"{name}: expected a {wanted} array {tuple(shape)}, got {array.dtype} {array.shape}")
    if array.ndim != len(shape):
        raise ValueError(f"{name}: expected {len(shape)} dimensions, got shape {array.shape}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


def _optional(name: str, array: Any, shape: Sequence[int], dtype: Any = np.float32) -> Any:
    return None if array is None else _array(name, array, shape, dtype)


def _on_host(name: str, array: Any, dtype: Any, n: int) -> Any:
    """A NumPy array of integers, checked."""
    if array.dtype != np.dtype(dtype):
        raise TypeError(f"{name}: expected a {np.dtype(dtype)} array ({n},), got {array.dtype} {array.shape}")
    if array.ndim != 1 or n not in (_ANY, len(array)):
        raise ValueError(f"{name}: expected shape ({n},), got {array.shape}")
    return array


def _check_ids(name: str, array: Any, n_ids: int) -> None:
    wrong = np.flatnonzero((array < 0) | (array >= n_ids))
    if len(wrong):
        raise ValueError(f"{name}: expected rows from 0 to {n_ids - 1}, got {array[wrong[0]]} at place {wrong[0]}")


def _ids(name: str, array: Any, n: int, n_ids: int) -> DeviceArray:
    if not isinstance(array, DeviceArray):
        _check_ids(name, _on_host(name, array, np.int32, n), n_ids)
        return asarray(array)
    checked: DeviceArray = _array(name, array, (n,), np.int32)
    return checked


def _offsets(name: str, array: Any, n: int, values: int) -> DeviceArray:
    if isinstance(array, DeviceArray):
        checked: DeviceArray = _array(name, array, (n,), np.int64)
        return checked
    _on_host(name, array, np.int64, n)
    if len(array) == 0:
        raise ValueError(f"{name}: expected at least one offset, got none")
    if array[0] != 0:
        raise ValueError(f"{name}: expected to start with 0, got {array[0]}")
    falls = np.flatnonzero(array[1:] < array[:-1])
    if len(falls):
        i = falls[0]
        raise ValueError(f"{name}: expected offsets that never fall, got {array[i]} before {array[i + 1]} at {i}")
    if array[-1] != values:
        raise ValueError(f"{name}: expected to end with {values}, got {array[-1]}")
    return asarray(array)


def _dropout(rate: Any) -> library.Dropout | None:
    if rate is None:
        return None
    if not 0 <= rate[0] < 1:
        raise ValueError(f"dropout: expected a rate from 0 to below 1, got {rate[0]:f}")
    return library.Dropout(*rate)


def _address(structure: Any) -> int | None:
    return None if structure is None else ctypes.addressof(structure)


# ---- attention ----


def _attention(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, scale: Any, causal: bool, start: bool, bias: Any, dropout: Any
) -> tuple[Any, list[Any]]:
    """The struct, and what must outlive the call."""
    total_q, n_heads, dim = _array("q", q, (_ANY, _ANY, _ANY)).shape
    total_k = _array("k", k, (_ANY, n_heads, dim)).shape[0]
    _array("v", v, (total_k, n_heads, dim))
    cu_q = _offsets("cu_seqlens_q", cu_q, _ANY, total_q)
    cu_k = _offsets("cu_seqlens_k", cu_k, len(cu_q), total_k)
    rate = _dropout(dropout)
    a = library.Attention(struct_size=library.Attention.v.offset, n_heads=n_heads, head_dim=dim, batch=len(cu_q) - 1)
    a.q, a.k, a.v, a.cu_seqlens_q, a.cu_seqlens_k = map(pointer, (q, k, v, cu_q, cu_k))
    a.softmax_scale = max(dim, 1) ** -0.5 if scale is None else scale
    a.causal, a.causal_align_start, a.dropout = causal, start, _address(rate)
    if bias is not None:
        a.bias, a.bias_len = pointer(_array("bias", bias, (n_heads, _ANY))), bias.shape[1]
        if a.bias_len < 1 or (not causal and a.bias_len % 2 == 0):
            wanted = "at least 1 distance" if causal else "an odd number of distances"
            raise ValueError(f"bias: expected {wanted}, got {a.bias_len}")
    return a, [cu_q, cu_k, rate]


def _untimed(time_bias: Any, weights: Any = None) -> None:
    for name, array in (("time_bias", time_bias), ("weights", weights)):
        if array is not None:
            raise NotImplementedError(f"{name}: not written for arrays on a CUDA device; use NumPy arrays")


def attention_forward(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, scale: Any, causal: bool, start: bool, bias: Any, dropout: Any,
    time_bias: Any, times_q: Any, times_k: Any, weights: Any, out: Any, lse: Any,
) -> tuple[Any, Any]:  # fmt: skip
    _untimed(time_bias, weights)
    a, kept = _attention(q, k, v, cu_q, cu_k, scale, causal, start, bias, dropout)
    a.out, a.lse = pointer(_array("out", out, q.shape)), pointer(_array("lse", lse, q.shape[:2], np.float64))
    call("attention_forward", a, len(q))
    del kept
    return out, lse


def attention_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, cu_q: Any, cu_k: Any, scale: Any, causal: bool, start: bool,
    bias: Any, dropout: Any, time_bias: Any, times_q: Any, times_k: Any, dq: Any, dk: Any, dv: Any, dbias: Any,
    dtime_bias: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    _untimed(time_bias)
    a, kept = _attention(q, k, v, cu_q, cu_k, scale, causal, start, bias, dropout)
    a.out, a.lse = pointer(_array("out", out, q.shape)), pointer(_array("lse", lse, q.shape[:2], np.float64))
    a.dout, a.dq = pointer(_array("dout", dout, q.shape)), pointer(_array("dq", dq, q.shape))
    a.dk, a.dv = pointer(_array("dk", dk, k.shape)), pointer(_array("dv", dv, k.shape))
    a.dbias = None if bias is None else pointer(_optional("dbias", dbias, bias.shape))
    call("attention_backward", a, len(q), len(k))
    del kept
    return dq, dk, dv


# ---- the catalogue ----


def _entropy(h: Any, items: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
    n, dim = _array("h", h, (_ANY, _ANY)).shape
    n_items = _array("item_vectors", items, (_ANY, dim)).shape[0]
    targets = _ids("targets", targets, n, n_items)
    a = library.CrossEntropy(n=n, n_items=n_items, dim=dim, dloss=1.0)
    a.h, a.item_vectors, a.targets = map(pointer, (h, items, targets))
    a.row_weights = pointer(_optional("row_weights", weights, (n,)))
    return a, targets


def cross_entropy_forward(h: Any, items: Any, targets: Any, weights: Any, lse: Any) -> float:
    a, kept = _entropy(h, items, targets, weights)
    a.lse = pointer(_array("lse", lse, (a.n,), np.float64))
    call("cross_entropy_forward", a)
    del kept
    loss: float = a.loss
    return loss


def cross_entropy_backward(
    h: Any, items: Any, targets: Any, lse: Any, weights: Any, dloss: float, dh: Any, ditems: Any
) -> None:
    a, kept = _entropy(h, items, targets, weights)
    a.lse, a.dloss = pointer(_array("lse", lse, (a.n,), np.float64)), dloss
    a.dh, a.ditem_vectors = pointer(_array("dh", dh, h.shape)), pointer(_array("ditem_vectors", ditems, items.shape))
    call("cross_entropy_backward", a)
    del kept


def cross_entropy_value_and_grad(
    h: Any,
    items: Any,
    targets: Any,
    weights: Any,
    precision: int,
    dh: Any,
    ditems: Any,
    seen_offsets: Any,
    seen: Any,
    cu_seqlens: Any,
) -> float:
    """In float32, whatever ``precision`` allows."""
    if seen is not None:
        raise NotImplementedError("seen: not written for arrays on a CUDA device")
    targets = _ids("targets", targets, _ANY, len(items))
    lse = empty((len(h),), np.float64)
    loss = cross_entropy_forward(h, items, targets, weights, lse)
    cross_entropy_backward(h, items, targets, lse, weights, 1.0, dh, ditems)
    return loss


def _lists(name: str, offsets: Any, values: Any, n: int, n_items: int) -> tuple[Any, Any]:
    """Rising within a row, without repeats, on the device; from NumPy arrays."""
    if offsets is None:
        return None, None
    _on_host(name, values, np.int32, _ANY)
    _check_ids(name, values, n_items)
    _offsets(name, offsets, n + 1, len(values))
    rows = np.repeat(np.arange(n), np.diff(offsets))
    found = np.unique(rows * np.int64(n_items) + values)
    lengths = np.bincount(found // n_items, minlength=n)
    rising = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return asarray(rising), asarray((found % n_items).astype(np.int32))


def topk(
    h: Any, vectors: Any, k: int, allow_at: Any, allow: Any, deny_at: Any, deny: Any, items: Any, scores: Any,
    quantized: Any,
) -> None:  # fmt: skip
    """Answers come to the host; ``quantized`` is not needed."""
    n, dim = _array("h", h, (_ANY, _ANY)).shape
    n_items = _array("item_vectors", vectors, (_ANY, dim)).shape[0]
    best, their = empty((n, k), np.int32), empty((n, k))
    lists = *_lists("allow", allow_at, allow, n, n_items), *_lists("deny", deny_at, deny, n, n_items)
    a = library.TopK(struct_size=ctypes.sizeof(library.TopK), n=n, n_items=n_items, dim=dim, k=k)
    a.h, a.item_vectors, a.items, a.scores = map(pointer, (h, vectors, best, their))
    a.allow_offsets, a.allow, a.deny_offsets, a.deny = map(pointer, lists)
    call("topk", a)
    items[...], scores[...] = best.numpy(), their.numpy()


def rank_counts(
    h: Any, items: Any, target_at: Any, targets: Any, deny_at: Any, deny: Any, above: Any, equal: Any
) -> None:
    """Answers come to the host."""
    n, dim = _array("h", h, (_ANY, _ANY)).shape
    n_items = _array("item_vectors", items, (_ANY, dim)).shape[0]
    _offsets("targets", target_at, n + 1, len(targets))
    rows = asarray(np.repeat(np.arange(n, dtype=np.int32), np.diff(target_at)))
    targets = _ids("targets", targets, _ANY, n_items)
    higher, same = empty((len(targets),), np.int64), empty((len(targets),), np.int64)
    lists = _lists("deny", deny_at, deny, n, n_items)
    call("rank_counts", h, items, n_items, dim, targets, rows, len(targets), *lists, higher, same)
    above[...], equal[...] = higher.numpy(), same.numpy()


# ---- layers ----


def _linear(x: Any, weights: Any, activation: int, dropout: Any) -> tuple[Any, Any, list[Any]]:
    n, n_in = _array("x", x, (_ANY, _ANY)).shape
    n_out = _array("weight", weights[0], (_ANY, n_in)).shape[0]
    maps, rate = (library.LinearMap * len(weights))(), _dropout(dropout)
    for one, weight in zip(maps, weights, strict=True):
        one.weight = pointer(_array("weight", weight, (n_out, n_in)))
    a = library.Linear(x=x.pointer, n=n, n_in=n_in, n_out=n_out, n_maps=len(weights), activation=activation)
    a.maps, a.dropout = ctypes.addressof(maps), _address(rate)
    return a, maps, [maps, rate]


def linear_forward(
    x: Any, weights: Any, biases: Any, activation: int, dropout: Any, residual: Any, saved: Any, ys: Any
) -> None:
    a, maps, kept = _linear(x, weights, activation, dropout)
    shape = (a.n, a.n_out)
    a.residual = pointer(_optional("residual", residual, shape))
    for one, bias, before, y in zip(maps, biases, saved, ys, strict=True):
        one.bias, one.saved = pointer(_optional("bias", bias, shape[1:])), pointer(_optional("saved", before, shape))
        one.y = pointer(_array("out", y, shape))
    call("linear_forward", a)
    del kept


def linear_backward(
    dys: Any, x: Any, weights: Any, activation: int, dropout: Any, saved: Any, dx: Any, add_to_dx: bool, dweights: Any,
    dbiases: Any,
) -> None:  # fmt: skip
    a, maps, kept = _linear(x, weights, activation, dropout)
    shape, weight_shape = (a.n, a.n_out), (a.n_out, a.n_in)
    a.dx, a.add_to_dx = pointer(_array("dx", dx, x.shape)), add_to_dx
    for one, dy, before, dweight, dbias in zip(maps, dys, saved, dweights, dbiases, strict=True):
        one.dy, one.saved = pointer(_array("dy", dy, shape)), pointer(_optional("saved", before, shape))
        one.dweight = pointer(_optional("dweight", dweight, weight_shape))
        one.dbias = pointer(_optional("dbias", dbias, shape[1:]))
    call("linear_backward", a)
    del kept


def activation_forward(activation: int, x: Any, y: Any) -> None:
    shape = _array("x", x, (_ANY,)).shape
    call("activation_forward", ctypes.c_int(activation), x, x.size, _array("y", y, shape))


def activation_backward(activation: int, dy: Any, x: Any, dx: Any) -> None:
    shape = _array("x", x, (_ANY,)).shape
    arrays = _array("dy", dy, shape), x, x.size, _array("dx", dx, shape)
    call("activation_backward", ctypes.c_int(activation), *arrays)


def gate_forward(activation: int, gate: Any, value: Any, y: Any) -> None:
    shape = _array("gate", gate, (_ANY, _ANY)).shape
    arrays = gate, _array("value", value, shape), gate.size, _array("y", y, shape)
    call("gate_forward", ctypes.c_int(activation), *arrays)


def gate_backward(activation: int, dy: Any, gate: Any, value: Any, dgate: Any, dvalue: Any) -> None:
    shape = _array("gate", gate, (_ANY, _ANY)).shape
    arrays = _array("dy", dy, shape), gate, _array("value", value, shape), gate.size
    call("gate_backward", ctypes.c_int(activation), *arrays, _array("dgate", dgate, shape), dvalue)


def dropout(x: Any, rate: Any, y: Any) -> None:
    shape = _array("x", x, (_ANY, _ANY)).shape
    call("dropout", _dropout(rate), x, *shape, _array("y", y, shape))


def layer_norm_forward(x: Any, weight: Any, bias: Any, eps: float, y: Any, mean: Any, rstd: Any) -> None:
    _norm_forward(x, weight, _array("bias", bias, (_ANY,)), eps, y, mean, rstd)


def rms_norm_forward(x: Any, weight: Any, eps: float, y: Any, rstd: Any) -> None:
    _norm_forward(x, weight, None, eps, y, None, rstd)


def _norm_forward(x: Any, weight: Any, bias: Any, eps: float, y: Any, mean: Any, rstd: Any) -> None:
    n, dim = _array("x", x, (_ANY, _ANY)).shape
    if dim < 1:
        raise ValueError("dim: expected at least 1, got 0")
    if not eps >= 0:
        raise ValueError(f"eps: expected at least 0, got {eps:f}")
    arrays = x, _array("weight", weight, (dim,)), _optional("bias", bias, (dim,))
    results = _array("y", y, (n, dim)), _optional("mean", mean, (n,)), _array("rstd", rstd, (n,))
    call("norm_forward", *arrays, float(eps), n, dim, *results)


def layer_norm_backward(dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, dx: Any, dweight: Any, dbias: Any) -> None:
    n, dim = _array("x", x, (_ANY, _ANY)).shape
    _norm_backward(dy, x, weight, _array("mean", mean, (n,)), rstd, dx, dweight, _array("dbias", dbias, (dim,)))


def rms_norm_backward(dy: Any, x: Any, weight: Any, rstd: Any, dx: Any, dweight: Any) -> None:
    _norm_backward(dy, x, weight, None, rstd, dx, dweight, None)


def _norm_backward(dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, dx: Any, dweight: Any, dbias: Any) -> None:
    n, dim = _array("x", x, (_ANY, _ANY)).shape
    arrays = _array("dy", dy, (n, dim)), x, _array("weight", weight, (dim,)), mean, _array("rstd", rstd, (n,))
    results = _array("dx", dx, (n, dim)), _array("dweight", dweight, (dim,)), dbias
    call("norm_backward", *arrays, n, dim, *results)


def embedding_forward(table: Any, ids: Any, scale: float, y: Any) -> None:
    n_ids, dim = _array("table", table, (_ANY, _ANY)).shape
    ids = _ids("ids", ids, _ANY, n_ids)
    call("embedding_forward", table, ids, len(ids), dim, float(scale), _array("y", y, (len(ids), dim)))


def embedding_backward(dy: Any, ids: Any, scale: float, dtable: Any) -> None:
    """The places of each id are found on the host."""
    n_ids, dim = _array("dtable", dtable, (_ANY, _ANY)).shape
    if isinstance(ids, DeviceArray):
        ids = ids.numpy()
    _check_ids("ids", _on_host("ids", ids, np.int32, _ANY), n_ids)
    _array("dy", dy, (len(ids), dim))
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    different = ids[order[starts]]
    starts = np.append(starts, len(ids)).astype(np.int64)
    arrays = [asarray(part) for part in (different, starts, order.astype(np.int64))]
    call("embedding_backward", dy, *arrays, len(different), dim, float(scale), dtable)


# ---- optimisers ----


def _stepped(weight: Any, grad: Any, rows: Any, **state: Any) -> tuple[Any, ...]:
    """What every step begins with: weight, gradient, state, number of weights that change, rows, width of a row."""
    shape = _array("weight", weight, [_ANY] * (1 if rows is None else 2)).shape
    width = 1
    if rows is not None:
        rows, width = _ids("rows", rows, _ANY, shape[0]), shape[1]
    _array("grad", grad, shape if rows is None else (len(rows), width))
    kept = [array if array is None else _array(name, array, shape) for name, array in state.items()]
    return weight, grad, *kept, grad.size, rows, width


def sgd(
    weight: Any, grad: Any, buffer: Any, learning_rate: float, momentum: float, weight_decay: float,
    grad_scale: float, rows: Any,
) -> None:  # fmt: skip
    how = [float(x) for x in (learning_rate, momentum, weight_decay, grad_scale)]
    call("sgd", *_stepped(weight, grad, rows, buffer=buffer), *how)


def adam(
    weight: Any, grad: Any, m: Any, v: Any, step: int, learning_rate: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, grad_scale: float, rows: Any,
) -> None:  # fmt: skip
    arrays = *_stepped(weight, grad, rows, m=m, v=v), step
    if step < 1:
        raise ValueError(f"step: expected at least 1, got {step}")
    how = [float(x) for x in (learning_rate, beta1, beta2, eps, weight_decay)]
    call("adam", *arrays, *how, bool(decoupled), float(grad_scale))


def sum_squares(x: Any) -> float:
    total = ctypes.c_double()
    call("sum_squares", _array("x", x, (_ANY,)), x.size, ctypes.c_void_p(ctypes.addressof(total)))
    return total.value
