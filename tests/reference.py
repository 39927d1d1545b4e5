"""What the kernels compute: the plain formulas, one sequence and one head at a time.

Every function works in the type of its arrays. On float64 it is the reference; on float32 it is what plain NumPy makes
of the same formula, and the measure of how much rounding is fair (:func:`assert_within_rule`). Gradients are written
out, and test files check them against :func:`central_differences` before they hold any kernel to them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


# ---- the rule for float32 ----


def assert_within_rule(actual: Array, reference64: Array, naive32: Array, name: str = "result") -> None:
    """The error may be three times that of plain float32 NumPy, or 4 units in the last place of the largest value.

    NaN and infinities must stand in the same places with the same sign.
    """
    actual, reference64 = np.asarray(actual, np.float64), np.asarray(reference64, np.float64)
    assert actual.shape == reference64.shape, f"{name}: shape {actual.shape}, reference {reference64.shape}"
    finite = np.isfinite(reference64)
    np.testing.assert_array_equal(actual[~finite], reference64[~finite], err_msg=name)
    assert np.isfinite(actual[finite]).all(), f"{name}: not finite where the reference is"
    if not finite.any():
        return
    largest = np.abs(reference64[finite]).max()
    naive_error = np.abs(np.asarray(naive32, np.float64)[finite] - reference64[finite]).max()
    limit = max(3 * naive_error, 4 * float(np.spacing(np.float32(largest))))
    error = np.abs(actual[finite] - reference64[finite]).max()
    assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g} (plain float32: {naive_error:.3g})"


def assert_draws_within_rule(draws: list[tuple[Any, Any, Any]], names: list[str]) -> None:
    """The rule for several draws of (found, exact, naive) together, each a list of results named by `names`.

    Of one or two numbers plain float32 may be exact by luck, which is no measure.
    """
    for i, name in enumerate(names):
        assert_within_rule(*(np.stack([draw[part][i] for draw in draws]) for part in range(3)), name)


def assert_typical_error_within_rule(draws: list[tuple[Any, Any, Any]], names: list[str]) -> None:
    """The rule for the root mean square over several draws, where any shape may come.

    The largest error of plain float32 in a few small sequences is luck; its typical error is not.
    """
    for i, name in enumerate(names):
        found, exact, naive = (np.stack([np.asarray(d[part][i], np.float64) for d in draws]) for part in range(3))
        finite = np.isfinite(exact)
        np.testing.assert_array_equal(found[~finite], exact[~finite], err_msg=name)
        if not finite.any():
            continue
        error, naive_error = (np.sqrt(np.mean((x[finite] - exact[finite]) ** 2)) for x in (found, naive))
        limit = max(3 * naive_error, 4 * float(np.spacing(np.float32(np.abs(exact[finite]).max()))))
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g} (plain float32: {naive_error:.3g})"


def both(function: Callable[..., Any], *arrays: Any, **options: Any) -> list[Any]:
    """The formula on float64 and on float32 copies of float32 arrays."""
    return [
        function(*(x.astype(t) if getattr(x, "dtype", None) == np.float32 else x for x in arrays), **options)
        for t in (np.float64, np.float32)
    ]


def central_differences(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """The gradient of f at x, an element at a time: (f(x + step) - f(x - step)) / (2 step), float64."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (f(up) - f(down)) / (2 * step)
    return gradient


def check_differences(function: Callable[..., Array], dy: Array, arrays: dict[str, Array], gradients: Any) -> None:
    """Gradients of (function(**arrays) * dy).sum() against central differences."""

    def loss(name: str, x: Array) -> float:
        return (function(**(arrays | {name: x})) * dy).sum()

    for name, gradient in zip(arrays, gradients, strict=True):
        expected = central_differences(functools.partial(loss, name), arrays[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7, err_msg=name)


# ---- attention ----


def visible(n_q: int, n_k: int, causal: bool, align: str = "end") -> Array:
    """(n_q, n_k) bool: query i sees key j if j - i <= n_k - n_q ("end") or j <= i ("start"); all without `causal`."""
    i, j = np.arange(n_q)[:, None], np.arange(n_k)[None]
    return (j - i <= (n_k - n_q if align == "end" else 0)) | (not causal)


def bias_entry(n_q: int, n_k: int, n_distances: int, causal: bool, align: str = "end") -> Array:
    """(n_q, n_k) int: which entry of a head's bias table a pair uses. Distance = place of query - place of key."""
    i, j = np.arange(n_q)[:, None], np.arange(n_k)[None]
    distance = i + (n_k - n_q if align == "end" else 0) - j
    zero = 0 if causal else n_distances // 2
    return np.clip(distance + zero, 0, n_distances - 1)


def time_bucket(times_q: Array, times_k: Array, n_buckets: int) -> Array:
    """(n, m) int: which entry of a head's time table a pair uses: quarters of a doubling of x = 1 + seconds.

    Between 2^e and 2^(e + 1) the quarters of x are equally long: those of the float32's exponent and mantissa.
    """
    seconds = np.clip(times_q[:, None] - times_k[None], 0, 2**31 - 1)
    x = seconds.astype(np.float32) + np.float32(1)
    mantissa, exponent = np.frexp(x.astype(np.float64))  # x = mantissa 2^exponent, mantissa from 1/2 to 1
    return np.minimum(4 * (exponent - 1) + np.floor(8 * mantissa - 4).astype(int), n_buckets - 1)


def attention(
    q: Array, k: Array, v: Array, *, scale: float, causal=False, align="end", bias=None, keep=None, time=None
) -> tuple[Array, Array, Array]:
    """q (n, d), k and v (m, d), bias (n_distances,), keep (n, m) -> out (n, d), lse (n,), weights (n, m).

    time: (n_buckets,) and the bucket of each pair (n, m), or None. keep: factor on the weights, 0 or 1 / (1 - p). A
    query without keys gives 0, lse -inf.
    """
    z = q @ k.T * q.dtype.type(scale)
    if bias is not None:
        z = z + bias[bias_entry(len(q), len(k), len(bias), causal, align)]
    if time is not None:
        z = z + time[0][time[1]]
    z = np.where(visible(len(q), len(k), causal, align), z, q.dtype.type(-np.inf))
    greatest = z.max(axis=1, initial=-np.inf)
    e = np.exp(z - np.where(greatest == -np.inf, 0, greatest)[:, None])
    total = e.sum(axis=1)
    weights = e / np.where(total == 0, 1, total)[:, None]
    with np.errstate(divide="ignore"):
        lse = greatest + np.log(total)
    return (weights if keep is None else weights * keep) @ v, lse, weights


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    causal=False,
    align="end",
    bias=None,
    keep=None,
    time=None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """dq, dk, dv, dbias, dtime of :func:`attention`."""
    out, _, p = attention(q, k, v, scale=scale, causal=causal, align=align, bias=bias, keep=keep, time=time)
    f = np.ones_like(p) if keep is None else keep
    delta = (dout * out).sum(axis=1, keepdims=True)
    dz = p * (f * (dout @ v.T) - delta)
    dbias = None
    if bias is not None:
        dbias = np.zeros_like(bias)
        np.add.at(dbias, bias_entry(len(q), len(k), len(bias), causal, align), dz)
    dtime = None
    if time is not None:
        dtime = np.zeros_like(time[0])
        np.add.at(dtime, time[1], dz)
    factor = q.dtype.type(scale)
    return factor * (dz @ k), factor * (dz.T @ q), (p * f).T @ dout, dbias, dtime


def tasks(q: Array, cu_q: Array, cu_k: Array) -> Iterator[tuple[int, int, slice, slice]]:
    """(sequence, head, rows of q, rows of k) of a ragged batch, q (total_q, n_heads, d)."""
    for s, (rows_q, rows_k) in enumerate(zip(pairwise(cu_q), pairwise(cu_k), strict=True)):
        for head in range(q.shape[1]):
            yield s, head, slice(*rows_q), slice(*rows_k)


def _time(head, rows, keys, time_bias, times_q, times_k):
    if time_bias is None:
        return None
    return time_bias[head], time_bucket(times_q[rows], times_k[keys], time_bias.shape[1])


def ragged_attention(
    q, k, v, cu_q, cu_k, *, bias=None, dropout=None, time_bias=None, times_q=None, times_k=None, **options
):
    """out, lse, and the weights as a list of (n_heads, n_q, n_k), for arrays as regard.ops takes them."""
    out, lse = np.zeros_like(q), np.zeros(q.shape[:2], q.dtype)
    weights = [np.zeros((q.shape[1], n, m), q.dtype) for n, m in zip(np.diff(cu_q), np.diff(cu_k), strict=True)]
    for s, head, rows, keys in tasks(q, cu_q, cu_k):
        out[rows, head], lse[rows, head], weights[s][head] = attention(
            *(q[rows, head], k[keys, head], v[keys, head]),
            bias=None if bias is None else bias[head],
            keep=attention_keep(dropout, s, head, *weights[s].shape[1:], q.dtype),
            time=_time(head, rows, keys, time_bias, times_q, times_k),
            **options,
        )
    return out, lse, weights


def ragged_attention_backward(
    dout, q, k, v, cu_q, cu_k, *, bias=None, dropout=None, time_bias=None, times_q=None, times_k=None, **options
):
    """dq, dk, dv, dbias, dtime_bias (None without a bias)."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    dbias = None if bias is None else np.zeros_like(bias)
    dtime_bias = None if time_bias is None else np.zeros_like(time_bias)
    for s, head, rows, keys in tasks(q, cu_q, cu_k):
        dq[rows, head], dk[keys, head], dv[keys, head], part, time_part = attention_backward(
            *(dout[rows, head], q[rows, head], k[keys, head], v[keys, head]),
            bias=None if bias is None else bias[head],
            keep=attention_keep(dropout, s, head, rows.stop - rows.start, keys.stop - keys.start, q.dtype),
            time=_time(head, rows, keys, time_bias, times_q, times_k),
            **options,
        )
        if dbias is not None:
            dbias[head] += part
        if dtime_bias is not None:
            dtime_bias[head] += time_part
    return dq, dk, dv, dbias, dtime_bias


# ---- cross-entropy over the catalogue ----


def scores_but(h: Array, item_vectors: Array, left_out: Array | None) -> Array:
    """Every score, -inf where ``left_out`` (n, n_items) says so."""
    scores = h @ item_vectors.T
    return scores if left_out is None else np.where(left_out, h.dtype.type(-np.inf), scores)


def cross_entropy(h: Array, item_vectors: Array, targets: Array, row_weights: Array | None = None, left_out=None):
    """Weighted mean of lse[i] - h[i]·item[target[i]], and lse (n,). 0 where the weights sum to 0."""
    scores = scores_but(h, item_vectors, left_out)
    greatest = scores.max(axis=1, initial=-np.inf)
    lse = greatest + np.log(np.exp(scores - greatest[:, None]).sum(axis=1))
    rows = lse - scores[np.arange(len(h)), targets]
    weights = np.ones(len(h), h.dtype) if row_weights is None else row_weights
    total = weights.sum()
    return (weights * rows).sum() / total if total else h.dtype.type(0), lse


def cross_entropy_backward(
    h: Array, item_vectors: Array, targets: Array, row_weights=None, dloss: float = 1.0, left_out=None
):
    """dh, ditem_vectors."""
    scores = scores_but(h, item_vectors, left_out)
    p = np.exp(scores - scores.max(axis=1, initial=-np.inf, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    p[np.arange(len(h)), targets] -= 1
    weights = np.ones(len(h), h.dtype) if row_weights is None else row_weights
    total = weights.sum()
    ds = p * (weights / total if total else np.zeros_like(weights))[:, None] * h.dtype.type(dloss)
    return ds @ item_vectors, ds.T @ h


# ---- losses over sampled negatives ----


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = -log sigmoid(-x), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sampled_scores(h: Array, item_vectors: Array, targets: Array, negatives: Array) -> tuple[Array, Array, Array]:
    """Scores of the target (n,) and of the negatives (n, k), and which negatives are not the row's target (n, k)."""
    own = (h * item_vectors[targets]).sum(axis=1)
    return own, h @ item_vectors[negatives].T, negatives[None] != targets[:, None]


def sampled_loss(h: Array, item_vectors: Array, targets, negatives, *, loss, log_expected=None, beta=1.0):
    """Mean over rows: log(exp(t) + sum_j exp(s_j - log_expected_j)) - t, or the mean binary cross-entropy of a row."""
    t, s, kept = sampled_scores(h, item_vectors, targets, negatives)
    if loss == "softmax":
        z = np.where(kept, s if log_expected is None else s - log_expected, s.dtype.type(-np.inf))
        greatest = np.maximum(z.max(axis=1), t)
        rows = greatest + np.log(np.exp(t - greatest) + np.exp(z - greatest[:, None]).sum(axis=1)) - t
    else:
        several = h.dtype.type(beta) * softplus(-t) + np.where(kept, softplus(s), 0).sum(axis=1)
        rows = several / (1 + kept.sum(axis=1).astype(h.dtype))
    return rows.mean() if len(h) else h.dtype.type(0)


def sampled_loss_backward(h: Array, item_vectors: Array, targets, negatives, *, loss, log_expected=None, beta=1.0):
    """dh, ditem_vectors."""
    t, s, kept = sampled_scores(h, item_vectors, targets, negatives)
    if loss == "softmax":
        z = np.where(kept, s if log_expected is None else s - log_expected, s.dtype.type(-np.inf))
        greatest = np.maximum(z.max(axis=1), t)
        own, others = np.exp(t - greatest), np.exp(z - greatest[:, None])
        total = own + others.sum(axis=1)
        dt, ds = own / total - 1, others / total[:, None]
    else:
        terms = 1 + kept.sum(axis=1).astype(h.dtype)
        dt, ds = -h.dtype.type(beta) * sigmoid(-t) / terms, np.where(kept, sigmoid(s), 0) / terms[:, None]
    n = h.dtype.type(max(len(h), 1))
    dt, ds = dt / n, ds / n
    ditem_vectors = np.zeros_like(item_vectors)
    np.add.at(ditem_vectors, negatives, ds.T @ h)
    np.add.at(ditem_vectors, targets, dt[:, None] * h)
    return ds @ item_vectors[negatives] + dt[:, None] * item_vectors[targets], ditem_vectors


# ---- best items, ranks ----


def topk(scores: Array, k: int, allow=None, deny=None) -> tuple[Array, Array]:
    """Rows of scores (n, n_items) -> items, scores (n, k): a stable sort, so equal scores by lower item."""
    items, best = np.full((len(scores), k), -1, np.int32), np.full((len(scores), k), -np.inf, scores.dtype)
    for i, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        wanted = row[order] > -np.inf  # not NaN either
        if allow is not None:
            wanted &= np.isin(order, allow[i])
        if deny is not None:
            wanted &= ~np.isin(order, deny[i])
        order = order[wanted][:k]
        items[i, : len(order)], best[i, : len(order)] = order, row[order]
    return items, best


def rank_counts(scores: Array, targets, deny=None) -> tuple[Array, Array]:
    """For every target: how many items that are not denied score above it, and how many others equal it."""
    above, equal = [], []
    for i, row in enumerate(scores):
        counted = np.ones(len(row), bool)
        if deny is not None:
            counted[deny[i]] = False
        for target in targets[i]:
            others = counted & (np.arange(len(row)) != target)
            above.append((row[others] > row[target]).sum())
            equal.append((row[others] == row[target]).sum())
    return np.array(above, np.int64), np.array(equal, np.int64)


# ---- layers ----


def erf(x: Array) -> Array:
    return np.array([math.erf(float(value)) for value in x.ravel()], x.dtype).reshape(x.shape)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), by exp(-|x|) so that nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def activation(x: Array, kind: str | None) -> Array:
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu":
        return x * ((1 + erf(x / x.dtype.type(math.sqrt(2)))) / 2)
    if kind == "silu":
        return x * sigmoid(x)
    if kind == "sigmoid":
        return sigmoid(x)
    return x


def activation_slope(x: Array, kind: str | None) -> Array:
    if kind == "relu":
        return (x > 0).astype(x.dtype)
    if kind == "gelu":
        density = np.exp(-x * x / 2) / x.dtype.type(math.sqrt(2 * math.pi))
        return (1 + erf(x / x.dtype.type(math.sqrt(2)))) / 2 + x * density
    if kind == "silu":
        return sigmoid(x) * (1 + x * sigmoid(-x))
    if kind == "sigmoid":
        return sigmoid(x) * sigmoid(-x)
    return np.ones_like(x)


def gate(gate: Array, value: Array, kind: str | None) -> Array:
    return activation(gate, kind) * value


def gate_backward(dy: Array, gate: Array, value: Array, kind: str | None) -> tuple[Array, Array]:
    """dgate, dvalue."""
    return dy * value * activation_slope(gate, kind), dy * activation(gate, kind)


def linear(x: Array, weight: Array, bias: Array | None = None, kind: str | None = None) -> Array:
    y = x @ weight.T
    return activation(y if bias is None else y + bias, kind)


def linear_backward(dy: Array, x: Array, weight: Array, bias: Array | None = None, kind: str | None = None):
    """dx, dweight, dbias."""
    dy = dy * activation_slope(linear(x, weight, bias), kind)
    return dy @ weight, dy.T @ x, dy.sum(axis=0)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float):
    """y, mean, rstd."""
    mean = x.mean(axis=1)
    rstd = 1 / np.sqrt(((x - mean[:, None]) ** 2).mean(axis=1) + x.dtype.type(eps))
    return (x - mean[:, None]) * rstd[:, None] * weight + bias, mean, rstd


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float):
    """dx, dweight, dbias."""
    _, mean, rstd = layer_norm(x, weight, np.zeros_like(weight), eps)
    normal, g = (x - mean[:, None]) * rstd[:, None], dy * weight
    dx = rstd[:, None] * (g - g.mean(axis=1, keepdims=True) - normal * (g * normal).mean(axis=1, keepdims=True))
    return dx, (dy * normal).sum(axis=0), dy.sum(axis=0)


def rms_norm(x: Array, weight: Array, eps: float):
    """y, rstd."""
    rstd = 1 / np.sqrt((x**2).mean(axis=1) + x.dtype.type(eps))
    return x * rstd[:, None] * weight, rstd


def rms_norm_backward(dy: Array, x: Array, weight: Array, eps: float):
    """dx, dweight."""
    _, rstd = rms_norm(x, weight, eps)
    normal, g = x * rstd[:, None], dy * weight
    return rstd[:, None] * (g - normal * (g * normal).mean(axis=1, keepdims=True)), (dy * normal).sum(axis=0)


# ---- dropout: Philox4x32-10 (Salmon et al. 2011) ----

_32 = np.uint64(0xFFFFFFFF)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Four 32-bit words of 32-bit numbers (or arrays of them); uint64 arrays, so that products fit."""
    x0, x1, x2, x3 = (np.asarray(c, np.uint64) & _32 for c in counter)
    k0, k1 = key
    for _ in range(10):
        a, b = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1 = (b >> np.uint64(32)) ^ x1 ^ np.uint64(k0), b & _32
        x2, x3 = (a >> np.uint64(32)) ^ x3 ^ np.uint64(k1), a & _32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return x0, x1, x2, x3


def dropout_key(seed: int, step: int, site: int) -> tuple[int, int]:
    """SplitMix64 (Steele et al. 2014) of seed, then step, then site: the key of the generator."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    key = mix(mix(mix(seed) ^ step) ^ site)
    return key % 2**32, key >> 32


def keep_factor(rate: Any, columns: Array, c1: Any, c2: Any, c3: Any, dtype: Any) -> Array:
    """0 or 1 / (1 - p). Column c takes word (c // 16) % 4 of the counter (c // 64 * 16 + c % 16, c1, c2, c3)."""
    p, seed, step, site = rate
    words = philox((columns // 64 * 16 + columns % 16, c1, c2, c3), dropout_key(seed, step, site))
    number = np.choose(columns // 16 % 4, np.broadcast_arrays(*words))
    return np.where(number >= int(p * 2**32), 1 / (1 - p), 0.0).astype(dtype)


def dropout_keep(rate: Any, n: int, width: int, dtype: Any = np.float64) -> Array:
    """(n, width): element (row, column) of an activation; the row is a 64-bit number in two words."""
    rows = np.arange(n, dtype=np.uint64)[:, None]
    return keep_factor(rate, np.broadcast_to(np.arange(width), (n, width)), rows, rows >> np.uint64(32), 0, dtype)


def attention_keep(rate: Any, sequence: int, head: int, n_q: int, n_k: int, dtype: Any = np.float64) -> Array | None:
    """(n_q, n_k): weight (query, key) of one sequence and head; None without dropout."""
    if rate is None:
        return None
    rows = np.arange(n_q, dtype=np.uint64)[:, None]
    return keep_factor(rate, np.broadcast_to(np.arange(n_k), (n_q, n_k)), rows, sequence, head, dtype)


# ---- optimisers ----


def sgd(weight, grad, buffer, *, learning_rate, momentum, weight_decay, grad_scale):
    """The new weight, buffer."""
    number = weight.dtype.type
    buffer = number(momentum) * buffer + (number(grad_scale) * grad + number(weight_decay) * weight)
    return weight - number(learning_rate) * buffer, buffer


def adagrad(weight, grad, squares, *, learning_rate, eps, weight_decay, grad_scale):
    """The new weight, squares."""
    number = weight.dtype.type
    g = number(grad_scale) * grad + number(weight_decay) * weight
    squares = squares + g * g
    return weight - number(learning_rate) * (g / (np.sqrt(squares) + number(eps))), squares


def adam(weight, grad, m, v, *, step, learning_rate, beta1, beta2, eps, weight_decay, decoupled, grad_scale):
    """The new weight, m, v. Adam adds the decay to the gradient, AdamW (decoupled) takes it from the weight."""
    number = weight.dtype.type
    g = number(grad_scale) * grad + number(0 if decoupled else weight_decay) * weight
    m = number(beta1) * m + number(1 - beta1) * g
    v = number(beta2) * v + number(1 - beta2) * g * g
    first, second = m / number(1 - beta1**step), v / number(1 - beta2**step)
    decay = number(weight_decay if decoupled else 0) * weight
    return weight - number(learning_rate) * (first / (np.sqrt(second) + number(eps)) + decay), m, v
