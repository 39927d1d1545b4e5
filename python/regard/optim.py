"""The optimiser loop's arithmetic: clipping, schedules, Adam over named parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from regard import ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Parameters = dict[str, NDArray[np.float32]]

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate_factor(step: int, total: int, *, schedule: str = "constant", warmup_steps: int = 0) -> float:
    """Factor on the learning rate at ``step`` (from 1) of ``total``: a linear rise, then constant or down to 0."""
    if step <= warmup_steps:
        return step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[schedule]


class Adam:
    """Adam (Kingma and Ba 2014), or AdamW (Loshchilov and Hutter 2017) when ``weight_decay`` is not 0.

    Parameters
    ----------
    params : dict of float32 arrays, changed in place
    learning_rate, beta1, beta2, eps, weight_decay : float
        Weight decay leaves vectors (norms, biases) alone.
    max_norm : float or None
        Gradients are scaled down to this global norm.
    """

    def __init__(
        self,
        params: Parameters,
        *,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
    ) -> None:
        self.params = params
        self.learning_rate, self.weight_decay, self.max_norm = learning_rate, weight_decay, max_norm
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in params.items()}
        self.step_count = 0

    def step(self, grads: Parameters, factor: float = 1.0) -> float:
        """One step with ``factor * learning_rate``; returns the norm of the gradient before clipping."""
        self.step_count += 1
        norm = math.sqrt(sum(ops.sum_squares(grads[name]) for name in self.params))
        clip = 1.0 if self.max_norm is None or norm <= self.max_norm else self.max_norm / norm
        for name, weight in self.params.items():
            ops.adam(
                weight,
                grads[name],
                *self.moments[name],
                step=self.step_count,
                learning_rate=self.learning_rate * factor,
                beta1=self.beta1,
                beta2=self.beta2,
                eps=self.eps,
                weight_decay=self.weight_decay if weight.ndim > 1 else 0.0,
                decoupled=True,
                grad_scale=clip,
            )
        return norm
