"""The optimiser loop's arithmetic: clipping, schedules, update rules over named parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from regard import ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Parameters = dict[str, Array]
    Rows = Mapping[str, NDArray[np.int32]]

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate_factor(step: int, total: int, *, schedule: str = "constant", warmup_steps: int = 0) -> float:
    """Factor on the learning rate at ``step`` (from 1) of ``total``: a linear rise, then constant or down to 0."""
    if step <= warmup_steps:
        return step / warmup_steps
    falls = total - warmup_steps  # steps; one alone is taken whole
    done = min(1.0, (step - warmup_steps) / falls) if falls > 1 else 0.0
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[schedule]


class Optimizer:
    """Base of the update rules.

    Parameters
    ----------
    params : dict of float32 arrays, changed in place
    learning_rate, weight_decay : float
        Weight decay leaves vectors (norms, biases) alone.
    max_norm : float or None
        Gradients are scaled down to this global norm.

    Attributes
    ----------
    state : dict of tuples of arrays
        What the rule remembers of each parameter, shaped like it.
    step_count : int
    """

    n_states: ClassVar[int] = 0

    def __init__(
        self,
        params: Parameters,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
    ) -> None:
        self.params = params
        self.learning_rate, self.weight_decay, self.max_norm = learning_rate, weight_decay, max_norm
        self.state = {name: tuple(np.zeros_like(w) for _ in range(self.n_states)) for name, w in params.items()}
        self.step_count = 0

    def step(self, grads: Parameters, factor: float = 1.0, rows: Rows | None = None) -> float:
        """One step with ``factor * learning_rate``.

        Parameters
        ----------
        grads : gradient of every parameter
        factor : float
        rows : dict, optional
            For a parameter named here ``grads`` has these rows (sorted, without repeats) and no others; only they and
            their state are changed.

        Returns
        -------
        float
            The norm of the gradient before clipping.
        """
        self.step_count += 1
        norm = math.sqrt(sum(ops.sum_squares(grads[name]) for name in self.params))
        how: dict[str, Any] = {
            "learning_rate": self.learning_rate * factor,
            "grad_scale": 1.0 if self.max_norm is None or norm <= self.max_norm else self.max_norm / norm,
        }
        for name, weight in self.params.items():
            decay = self.weight_decay if weight.ndim > 1 else 0.0
            self._update(weight, grads[name], self.state[name], rows=(rows or {}).get(name), weight_decay=decay, **how)
        return norm

    def _update(self, weight: Array, grad: Array, state: tuple[Array, ...], **how: Any) -> None:
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014) with beta 0.9 and 0.999; AdamW (Loshchilov and Hutter 2017) when there is decay.

    On touched rows the moments of other rows stay as they are.
    """

    n_states = 2

    def _update(self, weight: Array, grad: Array, state: tuple[Array, ...], **how: Any) -> None:
        ops.adam(weight, grad, *state, step=self.step_count, decoupled=True, **how)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011)."""

    n_states = 1

    def _update(self, weight: Array, grad: Array, state: tuple[Array, ...], **how: Any) -> None:
        ops.adagrad(weight, grad, *state, **how)


class SGD(Optimizer):
    """Stochastic gradient descent."""

    def _update(self, weight: Array, grad: Array, state: tuple[Array, ...], **how: Any) -> None:
        ops.sgd(weight, grad, **how)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
