"""Steps of optimisers, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regard import _core

if TYPE_CHECKING:
    from regard.ops.arguments import Floats


def adam(
    weight: Floats,
    grad: Floats,
    m: Floats,
    v: Floats,
    *,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    grad_scale: float = 1.0,
) -> None:
    """One step of Adam (arXiv:1412.6980), or of AdamW (arXiv:1711.05101) with ``decoupled=True``, in place.

    Parameters
    ----------
    weight, grad, m, v : arrays of one shape, float32, C-contiguous
        ``m`` and ``v`` are the moments, zeros before step 1.
    step : int, from 1
    grad_scale : float, default 1
        The gradient is multiplied by it first (gradient clipping).
    """
    flat = (weight.reshape(-1), grad.reshape(-1), m.reshape(-1), v.reshape(-1))
    _core.adam(*flat, step, learning_rate, beta1, beta2, eps, weight_decay, decoupled, grad_scale)


def sum_squares(x: Floats) -> float:
    """Sum of squares of all elements, added up in an order that does not depend on the number of threads."""
    return _core.sum_squares(x.reshape(-1))
