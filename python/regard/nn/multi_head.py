"""MultiHeadAttention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn import functions
from regard.nn.attention import _WIDEST, as_mask, attend, gathered, visible_pairs, weigh
from regard.nn.layer import Layer
from regard.nn.layers import Rate
from regard.nn.tape import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


class _Projection(Layer):
    """A linear map with a kernel of the shape that Keras gives it."""

    def __init__(self, use_bias: bool, name: str) -> None:
        super().__init__(name=name)
        self.use_bias = use_bias

    def make(self, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
        self.kernel = self.add_weight("kernel", kernel)
        self.bias = self.add_weight("bias", bias, "zeros") if self.use_bias else None
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        return functions.linear(x, self.kernel, self.bias)


class MultiHeadAttention(Layer):
    """Attention in several heads with learned projections, as ``keras.layers.MultiHeadAttention``.

    Parameters
    ----------
    num_heads, key_dim : int
        Width of a head's queries and keys; scores are scaled by ``1 / sqrt(key_dim)``.
    value_dim : int, default `key_dim`
    dropout : float, default 0
        On the attention weights, while training.
    use_bias : bool, default True
    seed : int, optional
        Of the dropout.

    Notes
    -----
    Vaswani et al. 2017, arXiv:1706.03762. Call it on ``(query, value, key=None)``, (n, n_q, dim) and (n, n_k, ...).
    ``attention_mask`` (n, n_q, n_k), (n, heads, n_q, n_k) or (n_q, n_k) says who sees whom; ``query_mask`` (n, n_q),
    ``value_mask`` and ``key_mask`` (n, n_k) are joined with it, and those of the arguments themselves are used where
    none are given. ``use_causal_mask`` lets query i see places 0 to i. A query that sees no key gives the bias alone:
    its attention is 0, where Keras gives the mean of all values.

    Weights: query, key, value kernels (dim, heads, key_dim) and biases, output kernel (heads, value_dim, dim) and bias.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        *,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for what, number in (("num_heads", num_heads), ("key_dim", key_dim), ("value_dim", value_dim or key_dim)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{what}: expected a whole number from 1, got {number!r}")
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.dropout, self.use_bias, self.seed = dropout, use_bias, seed
        self.query, self.key, self.value, self.attention_output = (
            _Projection(use_bias, name) for name in ("query", "key", "value", "attention_output")
        )
        self._rate = Rate(dropout, seed)

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See the class.

        Returns
        -------
        Tensor (n, n_q, dim of query)
        Tensor (n, heads, n_q, n_k), with ``return_attention_scores``
            The weights, after masks and softmax, before dropout.
        """
        given = {"query": query, "value": value} | ({} if key is None else {"key": key})
        for name, x in given.items():
            if not isinstance(x, Tensor) or x.ndim != 3:
                got = f"shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"{name}: expected (batch, length, features), got {got}")
        mask_of_query = query_mask = query.mask if query_mask is None else query_mask
        value_mask = value.mask if value_mask is None else value_mask
        if key is None:
            key = value
        elif key_mask is None:
            key_mask = key.mask
        n, n_q, n_k = len(query), query.shape[1], value.shape[1]
        if not len(query) == len(value) == len(key) or n_k != key.shape[1]:
            shapes = f"query {query.shape}, value {value.shape}, key {key.shape}"
            raise ValueError(f"inputs: expected one batch, and as many values as keys, got {shapes}")
        query_mask = as_mask("query_mask", query_mask, (n, n_q))
        masks = [as_mask("value_mask", value_mask, (n, n_k)), as_mask("key_mask", key_mask, (n, n_k))]
        used = [mask for mask in masks if mask is not None]
        seen = np.logical_and.reduce(used) if used else None
        pairs = self._pairs(attention_mask, (n, self.num_heads, n_q, n_k))

        self._make(query.shape[-1], key.shape[-1], value.shape[-1])
        q, k, v = (
            functions.reshape(layer(x), (n, length, self.num_heads, -1))
            for layer, x, length in ((self.query, query, n_q), (self.key, key, n_k), (self.value, value, n_k))
        )
        scale, rate, weights = 1 / math.sqrt(self.key_dim), self._rate.draw(training), None
        rows = None
        if pairs is None and not return_attention_scores and max(self.key_dim, self.value_dim) <= _WIDEST:
            rows = gathered(n, n_q, n_k, query_mask, seen, use_causal_mask)
        if rows is not None:
            out = attend(q, k, v, rows, softmax_scale=scale, causal=use_causal_mask, dropout=rate)
        else:
            if seen is not None:  # what is masked may be anything, NaN too
                k, v = (functions.keep_where(seen[:, :, None, None], x) for x in (k, v))
            q, k, v = (functions.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))
            visible = visible_pairs(n_q, n_k, seen, use_causal_mask)
            visible = None if visible is None else visible[:, None]
            if pairs is not None:
                visible = pairs if visible is None else visible & pairs
            scores = functions.matmul(functions.multiply(q, scale), functions.transpose(k))
            out, weights, _ = weigh(scores, v, visible, rate)
            if query_mask is not None:
                weights = functions.keep_where(query_mask[:, None, :, None], weights)
            out = functions.transpose(out, (0, 2, 1, 3))
        if query_mask is not None:
            out = functions.keep_where(query_mask[:, :, None, None], out)
        result = self.attention_output(functions.reshape(out, (n, n_q, -1)))
        result.mask = mask_of_query
        return result if weights is None or not return_attention_scores else (result, weights)

    def _make(self, query: int, key: int, value: int) -> None:
        if self.query.built:
            return
        heads = self.num_heads
        for layer, n_in, width in (
            (self.query, query, self.key_dim),
            (self.key, key, self.key_dim),
            (self.value, value, self.value_dim),
        ):
            layer.make((n_in, heads, width), (heads, width))
        self.attention_output.make((heads, self.value_dim, query), (query,))

    @staticmethod
    def _pairs(mask: Any, shape: tuple[int, ...]) -> Mask | None:
        if mask is None:
            return None
        array = np.asarray(mask.data if isinstance(mask, Tensor) else mask).astype(bool)
        wide = array[:, None] if array.ndim == 3 else array
        try:
            return np.broadcast_to(wide, shape)
        except ValueError:
            n, _, n_q, n_k = shape
            raise ValueError(f"attention_mask: expected ({n}, {n_q}, {n_k}) or {shape}, got {array.shape}") from None

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        names = ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "seed")
        return {name: getattr(self, name) for name in names}
