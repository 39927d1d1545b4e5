"""Attention and AdditiveAttention; what a mask means for the kernels.

The kernels know no masks: keys that nobody may see are left out, and each sequence of the batch is as long as what is
left. That covers value masks, and causal order with masks as padding makes them. Other masks, scores that are no dot
product, and calls that want the weights themselves go through the dense formula, which stores all scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard import ops
from regard.nn import functions
from regard.nn.layer import Layer
from regard.nn.layers import Rate
from regard.nn.tape import Tensor, record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Mask = NDArray[np.bool_]

_WIDEST = 256  # of a head, in the kernels


def as_mask(name: str, mask: Any, shape: tuple[int, ...]) -> Mask | None:
    """A mask argument as an array of bool of this shape, or None."""
    if mask is None:
        return None
    array = np.asarray(mask.data if isinstance(mask, Tensor) else mask)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(bool)


class Gathered(NamedTuple):
    """Which queries and keys take part: rows of the flattened batch (None: all), and where each sequence starts."""

    queries: NDArray[np.intp] | None
    keys: NDArray[np.intp] | None
    cu_seqlens_q: NDArray[np.int64]
    cu_seqlens_k: NDArray[np.int64]


def _kept(keep: Mask | None, n: int, length: int) -> tuple[NDArray[np.intp] | None, NDArray[np.int64]]:
    if keep is None:
        return None, np.arange(n + 1) * length
    return np.flatnonzero(keep), np.concatenate([[0], np.cumsum(keep.sum(axis=1))])


def gathered(
    n: int, n_q: int, n_k: int, query_mask: Mask | None, key_mask: Mask | None, causal: bool
) -> Gathered | None:
    """The ragged batch that masks leave, or None where causal order among what is left is not that of the kernels.

    Parameters
    ----------
    n, n_q, n_k : int
        Sequences, queries and keys of each.
    query_mask : (n, n_q), key_mask : (n, n_k), or None
    causal : bool
        Query i sees keys up to place i.
    """
    keep_q = query_mask
    if causal and not (query_mask is None and key_mask is None):
        keys = np.ones((n, n_k), bool) if key_mask is None else key_mask
        last = np.minimum(np.arange(n_q), n_k - 1)
        sees = np.cumsum(keys, axis=1)[:, last] if n_k else np.zeros((n, n_q), np.int64)
        total = keys.sum(axis=1, keepdims=True)

        def in_order(keep: Mask) -> bool:
            place = np.cumsum(keep, axis=1)  # from 1, among the queries that are kept
            return bool((sees == np.minimum(place, total))[keep].all())

        some = sees > 0  # a query without any key is left out: it gives 0
        choices = [some] if query_mask is None else [some & query_mask, some]
        fitting = [keep for keep in choices if in_order(keep)]
        if not fitting:
            return None
        keep_q = fitting[0]
    queries, cu_seqlens_q = _kept(keep_q, n, n_q)
    keys_kept, cu_seqlens_k = _kept(key_mask, n, n_k)
    return Gathered(queries, keys_kept, cu_seqlens_q, cu_seqlens_k)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Gathered,
    *,
    softmax_scale: float,
    causal: bool,
    dropout: ops.Dropout | None,
) -> Tensor:
    """Attention by the kernels.

    Parameters
    ----------
    q : (n, n_q, heads, dim), k : (n, n_k, heads, dim), v : (n, n_k, heads, value_dim)
    rows : what `gathered` gave

    Returns
    -------
    Tensor (n, n_q, heads, value_dim)
        0 for queries that are left out.
    """
    q, k, v = (functions.floats(x) for x in (q, k, v))
    n, n_q, heads, dim = q.shape
    value_dim = v.shape[-1]
    width = max(dim, value_dim)  # the kernels want one: zeros add nothing to a dot product

    def take(x: Array, chosen: NDArray[np.intp] | None) -> Array:
        flat = x.reshape(-1, heads, x.shape[-1])
        if x.shape[-1] < width:
            wide = np.zeros((len(flat) if chosen is None else len(chosen), heads, width), np.float32)
            wide[:, :, : x.shape[-1]] = flat if chosen is None else flat[chosen]
            return wide
        return np.ascontiguousarray(flat if chosen is None else flat[chosen])

    def put(x: Array, chosen: NDArray[np.intp] | None, shape: tuple[int, ...]) -> Array:
        part = x[:, :, : shape[-1]]
        if chosen is None:
            return part.reshape(shape)
        whole = np.zeros(shape, np.float32)
        whole.reshape(-1, heads, shape[-1])[chosen] = part
        return whole

    offsets = (rows.cu_seqlens_q, rows.cu_seqlens_k)
    how: dict[str, Any] = {
        "softmax_scale": softmax_scale,
        "causal": causal,
        "causal_align": "start",
        "dropout": dropout,
    }
    arrays = (take(q.data, rows.queries), take(k.data, rows.keys), take(v.data, rows.keys))
    out, lse = ops.attention_forward(*arrays, *offsets, **how)

    def backward(dy: Array) -> tuple[Array, ...]:
        dq, dk, dv, _ = ops.attention_backward(take(dy, rows.queries), *arrays, out, lse, *offsets, **how)
        return put(dq, rows.queries, q.shape), put(dk, rows.keys, k.shape), put(dv, rows.keys, v.shape)

    return record(put(out, rows.queries, (n, n_q, heads, value_dim)), (q, k, v), backward)


def weigh(
    scores: Tensor, v: Tensor, visible: Mask | None, dropout: ops.Dropout | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The dense formula: softmax of the visible scores, then the weighted sum.

    Parameters
    ----------
    scores : (..., n_q, n_k), v : (..., n_k, value_dim)
    visible : broadcast to the shape of scores, or None for all

    Returns
    -------
    out : (..., n_q, value_dim)
    weights, dropped : (..., n_q, n_k)
        Before and after dropout. A query that sees no key has a row of 0.
    """
    weights = functions.softmax(scores, visible=visible)
    dropped = weights if dropout is None else functions.dropout(weights, dropout)
    return functions.matmul(dropped, v), weights, dropped


def visible_pairs(n_q: int, n_k: int, key_mask: Mask | None, causal: bool) -> Mask | None:
    """(n or 1, n_q or 1, n_k) bool, or None where all is visible."""
    visible = None if key_mask is None else key_mask[:, None, :]
    if causal:
        order = np.tri(n_q, n_k, dtype=bool)[None]
        visible = order if visible is None else visible & order
    return visible


def additive_scores(q: Tensor, k: Tensor, weight: Tensor) -> Tensor:
    """``sum_d weight[d] tanh(q[i, d] + k[j, d])``: (n, n_q, n_k) from (n, n_q, dim), (n, n_k, dim), (dim,)."""
    q, k, weight = (functions.floats(x) for x in (q, k, weight))
    n, n_q, dim = q.shape
    n_k = k.shape[1]
    rows = (np.ascontiguousarray(x.data).reshape(n * length, dim) for x, length in ((q, n_q), (k, n_k)))
    sides = *rows, np.ascontiguousarray(weight.data), np.arange(n + 1) * n_q, np.arange(n + 1) * n_k

    def backward(dy: Array) -> tuple[Array, ...]:
        dq, dk, dweight = ops.additive_scores_backward(np.ascontiguousarray(dy, np.float32).ravel(), *sides)
        return dq.reshape(q.shape), dk.reshape(k.shape), dweight

    return record(ops.additive_scores_forward(*sides).reshape(n, n_q, n_k), (q, k, weight), backward)


class Attention(Layer):
    """Dot-product attention over a batch of sequences, as ``keras.layers.Attention``.

    ``out[i] = sum_j softmax_j(z[i, j]) value[j]`` with ``z[i, j] = scale * query[i]·key[j]``, or with
    ``concat_score_weight * sum(tanh(scale * (query[i] + key[j])))``.

    Parameters
    ----------
    use_scale : bool, default False
        A learned scalar `scale`, at first 1. Without it there is no scale, as in Keras: not ``1 / sqrt(dim)``.
    score_mode : "dot" or "concat", default "dot"
    dropout : float, default 0
        On the attention weights, while training.
    seed : int, optional
        Of the dropout.

    Notes
    -----
    Call it on ``[query, value]`` or ``[query, value, key]``, (n, n_q, dim), (n, n_k, value_dim), (n, n_k, dim), and
    optionally ``mask=[query_mask, value_mask]``, (n, n_q) and (n, n_k): masked queries give 0, masked values are seen
    by nobody. A third mask, of the keys, is taken and not used, as in Keras. ``use_causal_mask`` lets query i see
    places 0 to i. A query that sees no key gives 0, where Keras gives the mean of all values.
    """

    supports_masking = True

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: int | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if score_mode not in ("dot", "concat"):
            raise ValueError(f"score_mode: expected 'dot' or 'concat', got {score_mode!r}")
        self.use_scale, self.score_mode, self.dropout, self.seed = use_scale, score_mode, dropout, seed
        self._rate = Rate(dropout, seed)

    def build(self, input_shape: Any) -> None:
        """Make the learned scales."""
        if self.use_scale:
            self.scale = self.add_weight("scale", (), "ones")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight("concat_score_weight", (), "ones")

    def call(
        self,
        inputs: list[Tensor],
        mask: list[Any] | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See the class.

        Returns
        -------
        Tensor (n, n_q, value_dim)
        Tensor (n, n_q, n_k), with ``return_attention_scores``
            The weights, after masks, softmax and dropout.
        """
        query, value, key = self._checked(inputs)
        n, n_q, n_k = len(query), query.shape[1], value.shape[1]
        query_mask, value_mask = self._masks(mask, n, n_q, n_k)
        rate = self._rate.draw(training)
        fits = max(query.shape[-1], value.shape[-1]) <= _WIDEST
        if self._is_dot and fits and not return_attention_scores:
            rows = gathered(n, n_q, n_k, query_mask, value_mask, use_causal_mask)
            if rows is not None:
                q, k, v = (
                    functions.reshape(x, (*x.shape[:2], 1, x.shape[2])) for x in (self._scaled(query), key, value)
                )
                out = attend(q, k, v, rows, softmax_scale=1.0, causal=use_causal_mask, dropout=rate)
                return self._shown(functions.reshape(out, (n, n_q, value.shape[-1])), query_mask)
        if value_mask is not None:  # what is masked may be anything, NaN too
            key, value = (functions.keep_where(value_mask[:, :, None], x) for x in (key, value))
        visible = visible_pairs(n_q, n_k, value_mask, use_causal_mask)
        out, _, weights = weigh(self._scores(query, key), value, visible, rate)
        out = self._shown(out, query_mask)
        return (out, weights) if return_attention_scores else out

    @property
    def _is_dot(self) -> bool:
        return self.score_mode == "dot"

    def _scaled(self, x: Tensor) -> Tensor:
        return functions.multiply(x, self.scale) if self.use_scale else x

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self._is_dot:
            return functions.matmul(self._scaled(query), functions.transpose(key))
        ones = Tensor(np.ones(query.shape[-1], np.float32))
        scores = additive_scores(self._scaled(query), self._scaled(key), ones)
        return functions.multiply(scores, self.concat_score_weight)

    def _shown(self, out: Tensor, query_mask: Mask | None) -> Tensor:
        return out if query_mask is None else functions.keep_where(query_mask[:, :, None], out)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """That of the query."""
        return mask[0] if mask else None

    def _checked(self, inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(inputs, list | tuple) or not 2 <= len(inputs) <= 3:
            got = f"{len(inputs)} of them" if isinstance(inputs, list | tuple) else type(inputs).__name__
            raise ValueError(f"{self.name}: expected a list [query, value] or [query, value, key], got {got}")
        query, value, key = (functions.floats(x) for x in (*inputs, inputs[1])[:3])
        for name, x in (("query", query), ("value", value), ("key", key)):
            if x.ndim != 3:
                raise ValueError(f"{name}: expected (batch, length, features), got shape {x.shape}")
        if query.shape[-1] != key.shape[-1]:
            what = "key" if len(inputs) == 3 else "value (which is the key too where none is given)"
            raise ValueError(f"{what}: expected {query.shape[-1]} features as in query, got {key.shape[-1]}")
        if not len(query) == len(value) == len(key) or value.shape[1] != key.shape[1]:
            shapes = f"query {query.shape}, value {value.shape}, key {key.shape}"
            raise ValueError(f"inputs: expected one batch, and as many values as keys, got {shapes}")
        return query, value, key

    def _masks(self, mask: Any, n: int, n_q: int, n_k: int) -> tuple[Mask | None, Mask | None]:
        if mask is None:
            return None, None
        if not isinstance(mask, list | tuple) or not 2 <= len(mask) <= 3:
            raise ValueError(f"{self.name}: mask: expected a list [query_mask, value_mask], got {type(mask).__name__}")
        return as_mask("query_mask", mask[0], (n, n_q)), as_mask("value_mask", mask[1], (n, n_k))

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {
            "use_scale": self.use_scale,
            "score_mode": self.score_mode,
            "dropout": self.dropout,
            "seed": self.seed,
        }


class AdditiveAttention(Attention):
    """Attention with ``z[i, j] = sum(scale * tanh(query[i] + key[j]))``, as ``keras.layers.AdditiveAttention``.

    Parameters
    ----------
    use_scale : bool, default True
        A learned vector `scale` (dim,); without it all ones.
    dropout : float, default 0
    seed : int, optional

    Notes
    -----
    Bahdanau, Cho and Bengio 2015, arXiv:1409.0473. Called like `Attention`.
    """

    def __init__(
        self, use_scale: bool = True, dropout: float = 0.0, seed: int | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(use_scale, "concat", dropout, seed, name=name)

    def build(self, input_shape: Any) -> None:
        """Make the learned scale."""
        if self.use_scale:
            self.scale = self.add_weight("scale", (input_shape[0][-1],))

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        weight = self.scale if self.use_scale else Tensor(np.ones(query.shape[-1], np.float32))
        return additive_scores(query, key, weight)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {"use_scale": self.use_scale, "dropout": self.dropout, "seed": self.seed}
