"""Optimisers with the update rules and defaults of Keras, on the kernels of `regard.ops`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops
from regard.nn.tape import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Optimizer:
    """Base of the update rules.

    Attributes
    ----------
    learning_rate : float
        May be changed between steps.
    iterations : int
        Steps so far.
    """

    name = ""
    n_states = 0

    def __init__(self, learning_rate: float) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate: expected a number above 0, got {learning_rate!r}")
        self.learning_rate = float(learning_rate)
        self.iterations = 0
        self._state: dict[
            int, tuple[Parameter, list[Array]]
        ] = {}  # the parameter is kept, so that its id stays its own

    def apply(self, gradients: Sequence[Array], weights: Sequence[Parameter]) -> None:
        """One step: change each weight in place by its gradient."""
        self.iterations += 1
        for gradient, weight in zip(gradients, weights, strict=True):
            if id(weight) not in self._state:
                self._state[id(weight)] = weight, [np.zeros_like(weight.data) for _ in range(self.n_states)]
            _, state = self._state[id(weight)]
            self._update(weight.data, np.asarray(gradient, np.float32, order="C"), *state)

    def _update(self, weight: Array, gradient: Array, *state: Array) -> None:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this optimiser again, without what it remembers."""
        return {"learning_rate": self.learning_rate}


class SGD(Optimizer):
    """``m = momentum * m - learning_rate * g; weight += m``.

    Parameters
    ----------
    learning_rate : float, default 0.01
    momentum : float, default 0
    """

    name = "sgd"
    n_states = 1

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum

    def _update(self, weight: Array, gradient: Array, *state: Array) -> None:
        if self.momentum == 0:
            ops.sgd(weight, gradient, learning_rate=self.learning_rate)
            return
        # The kernel scales by the rate outside of its buffer, Keras inside: they differ where the rate changes.
        (buffer,) = state
        ops.sgd(weight, gradient * np.float32(self.learning_rate), buffer, learning_rate=1.0, momentum=self.momentum)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this optimiser again."""
        return {**super().get_config(), "momentum": self.momentum}


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980).

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1, beta_2 : float, default 0.9 and 0.999
    epsilon : float, default 1e-7
        Added to the root of the second moment before its bias is corrected ("epsilon hat" of the paper), as in Keras.
    """

    name = "adam"
    n_states = 2
    weight_decay = 0.0

    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def _update(self, weight: Array, gradient: Array, *state: Array) -> None:
        ops.adam(
            weight,
            gradient,
            *state,
            step=self.iterations,
            learning_rate=self.learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            eps=self.epsilon / math.sqrt(1 - self.beta_2**self.iterations),
            weight_decay=self.weight_decay,
            decoupled=True,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this optimiser again."""
        names = ("beta_1", "beta_2", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101) on all weights.

    Parameters
    ----------
    learning_rate : float, default 0.001
    weight_decay : float, default 0.004
    beta_1, beta_2, epsilon : as `Adam`
    """

    name = "adamw"

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon)
        self.weight_decay = weight_decay

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this optimiser again."""
        return {**super().get_config(), "weight_decay": self.weight_decay}


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def optimizer_of(optimizer: Any) -> Optimizer:
    """An optimiser from its name, or itself."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()
    raise ValueError(
        f"optimizer: expected an Optimizer or one of {', '.join(map(repr, OPTIMIZERS))}, got {optimizer!r}"
    )
