"""Dense, Embedding, Dropout and LayerNormalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops
from regard.nn import functions, seeds
from regard.nn.layer import Layer
from regard.nn.tape import Tensor, record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.nn.layer import Initializer

    Array = NDArray[Any]

_FUSED: dict[str | None, ops.Activation] = {
    None: None,
    "linear": None,
    "relu": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "sigmoid": "sigmoid",
}
_AFTER: dict[str, Callable[[Any], Tensor]] = {"tanh": functions.tanh, "softmax": functions.softmax}


class Dense(Layer):
    """``activation(x @ kernel + bias)`` over the last axis, as ``keras.layers.Dense``.

    Parameters
    ----------
    units : int
    activation : str or function of a tensor, default None
        None or "linear", "relu", "gelu" (exact), "silu" or "swish", "sigmoid", "tanh", "softmax".
    use_bias : bool, default True
    kernel_initializer, bias_initializer : default "glorot_uniform" and "zeros"
        See `Layer.add_weight`.

    Notes
    -----
    Weights: kernel (n_in, units), bias (units,).
    """

    supports_masking = True

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        use_bias: bool = True,
        *,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if not isinstance(units, int | np.integer) or units < 1:
            raise ValueError(f"units: expected a whole number from 1, got {units!r}")
        if not callable(activation) and activation not in _FUSED and activation not in _AFTER:
            known = ", ".join(repr(kind) for kind in [*_FUSED, *_AFTER])
            raise ValueError(f"activation: expected a function or one of {known}, got {activation!r}")
        self.units, self.activation, self.use_bias = int(units), activation, use_bias
        self.kernel_initializer, self.bias_initializer = kernel_initializer, bias_initializer

    def build(self, input_shape: Any) -> None:
        """Make kernel and bias for inputs of this shape."""
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.units), self.kernel_initializer)
        self.bias = self.add_weight("bias", (self.units,), self.bias_initializer) if self.use_bias else None

    def call(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., units)."""
        if x.shape[-1:] != self.kernel.shape[:1]:
            raise ValueError(f"{self.name}: expected {self.kernel.shape[0]} features on the last axis, got {x.shape}")
        if callable(self.activation):
            return self.activation(functions.linear(x, self.kernel, self.bias))
        if self.activation in _FUSED:
            return functions.linear(x, self.kernel, self.bias, activation=_FUSED[self.activation])
        return _AFTER[str(self.activation)](functions.linear(x, self.kernel, self.bias))

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {"units": self.units, "activation": self.activation, "use_bias": self.use_bias}


class Embedding(Layer):
    """A vector for each id, as ``keras.layers.Embedding``.

    Parameters
    ----------
    input_dim : int
        Ids are from 0 to ``input_dim - 1``; others raise ``ValueError``.
    output_dim : int
    mask_zero : bool, default False
        Id 0 is padding: attention, losses and metrics leave its places out.
    embeddings_initializer : default "uniform"
        See `Layer.add_weight`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = False,
        *,
        embeddings_initializer: Initializer = "uniform",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.input_dim, self.output_dim, self.mask_zero = int(input_dim), int(output_dim), mask_zero
        self.supports_masking = mask_zero
        self.embeddings_initializer = embeddings_initializer

    def build(self, input_shape: Any) -> None:
        """Make the table."""
        self.embeddings = self.add_weight("embeddings", (self.input_dim, self.output_dim), self.embeddings_initializer)

    def call(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> shape + (output_dim,)."""
        whole = ids.data.astype(np.int64)
        if (whole != ids.data).any():
            raise TypeError(f"{self.name}: expected ids, which are whole numbers, got {ids.dtype} with fractions")
        return functions.gather(self.embeddings, whole)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """True where the id is not 0."""
        return inputs.data != 0

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {"input_dim": self.input_dim, "output_dim": self.output_dim, "mask_zero": self.mask_zero}


class Rate:
    """The dropout of one layer: other elements in each call, the same ones for the same seed and number of calls."""

    def __init__(self, rate: float, seed: int | None) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"rate: expected from 0 to below 1, got {rate!r}")
        self.p, self.seed, self.step = float(rate), seeds.new_seed() if seed is None else int(seed), 0

    def draw(self, training: bool) -> ops.Dropout | None:
        """What to drop in this call; None for nothing."""
        if not training or self.p == 0:
            return None
        self.step += 1
        return ops.Dropout(self.p, self.seed, self.step)


class Dropout(Layer):
    """Sets elements to 0 while training, as ``keras.layers.Dropout``.

    Parameters
    ----------
    rate : float from 0 to below 1
        Probability; what stays is multiplied by ``1 / (1 - rate)``.
    seed : int, optional
        Which elements: not those that Keras drops for the same seed.
    """

    supports_masking = True

    def __init__(self, rate: float, seed: int | None = None, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.rate, self.seed = rate, seed
        self._rate = Rate(rate, seed)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """The same shape."""
        rate = self._rate.draw(training)
        return x if rate is None else functions.dropout(x, rate)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {"rate": self.rate, "seed": self.seed}


class LayerNormalization(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` over the last axis, as ``keras.layers``.

    Parameters
    ----------
    axis : -1
        Other axes are not supported.
    epsilon : float, default 1e-3
    center, scale : bool, default True
        Whether there are ``beta`` and ``gamma``.

    Notes
    -----
    Ba, Kiros and Hinton 2016, arXiv:1607.06450. Weights: gamma, beta.
    """

    supports_masking = True

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if axis not in (-1, [-1]):
            raise ValueError(f"axis: expected -1 (the last), got {axis!r}")
        self.epsilon, self.center, self.scale = epsilon, center, scale

    def build(self, input_shape: Any) -> None:
        """Make gamma and beta."""
        dim = input_shape[-1]
        self.gamma = self.add_weight("gamma", (dim,), "ones") if self.scale else Tensor(np.ones(dim, np.float32))
        self.beta = self.add_weight("beta", (dim,), "zeros") if self.center else Tensor(np.zeros(dim, np.float32))

    def call(self, x: Tensor) -> Tensor:
        """The same shape."""
        x, gamma, beta = functions.floats(x), self.gamma, self.beta
        rows = np.ascontiguousarray(x.data.reshape(-1, x.shape[-1]))
        y, mean, rstd = ops.layer_norm_forward(rows, gamma.data, beta.data, eps=self.epsilon)

        def backward(dy: Array) -> tuple[Array, ...]:
            slopes = np.ascontiguousarray(dy.reshape(rows.shape))
            dx, dgamma, dbeta = ops.layer_norm_backward(slopes, rows, gamma.data, mean, rstd)
            return dx.reshape(x.shape), dgamma, dbeta

        return record(y.reshape(x.shape), (x, gamma, beta), backward)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again."""
        return {"epsilon": self.epsilon, "center": self.center, "scale": self.scale}
