"""Steps of optimisers, in place, on whole weights or on some of their rows.

Without ``rows`` the arrays of a step have one shape, whatever it is. With ``rows``, (m,) int32, strictly rising, the
weight and its state are (n_rows, width), the gradient is (m, width), and only ``weight[rows[i]]`` and these rows of
the state change, to the bits that a step on the whole gives them: what an embedding table needs after a batch that
used few of its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regard.ops.arguments import flat, placed

if TYPE_CHECKING:
    from regard.ops.arguments import Floats, Ints


def _array(name: str, array: Floats, rows: Ints | None) -> Floats:
    """As the compiled module wants it: a vector, or with rows a matrix."""
    return flat(name, array) if rows is None else array


def sgd(
    weight: Floats,
    grad: Floats,
    buffer: Floats | None = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    rows: Ints | None = None,
) -> None:
    """One step of stochastic gradient descent in place: ``buffer = momentum * buffer + g; weight -= rate * buffer``.

    Parameters
    ----------
    weight, grad, buffer : arrays of one shape, float32, C-contiguous
        ``buffer`` is zeros before the first step. Without momentum it may be None.
    momentum : float, default 0
    weight_decay : float, default 0
        ``g = grad_scale * grad + weight_decay * weight``.
    grad_scale : float, default 1
        The gradient is multiplied by it first (gradient clipping).
    rows : (m,) int32, strictly rising, optional
        Only these rows of ``weight`` and ``buffer`` (n_rows, width) change; ``grad`` is (m, width).
    """
    core, _ = placed(weight)
    if buffer is None and momentum != 0.0:
        raise ValueError(f"buffer: expected an array with momentum {momentum}, got None")
    w, g = _array("weight", weight, rows), _array("grad", grad, rows)
    state = None if buffer is None else _array("buffer", buffer, rows)
    core.sgd(w, g, state, learning_rate, momentum, weight_decay, grad_scale, rows)


def adagrad(
    weight: Floats,
    grad: Floats,
    squares: Floats,
    *,
    learning_rate: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    rows: Ints | None = None,
) -> None:
    """One step of Adagrad in place: ``squares += g**2; weight -= learning_rate * g / (sqrt(squares) + eps)``.

    Parameters
    ----------
    weight, grad, squares : arrays of one shape, float32, C-contiguous
        ``squares`` is zeros, or a positive start, before the first step.
    weight_decay : float, default 0
        ``g = grad_scale * grad + weight_decay * weight``.
    grad_scale : float, default 1
        The gradient is multiplied by it first (gradient clipping).
    rows : (m,) int32, strictly rising, optional
        Only these rows of ``weight`` and ``squares`` (n_rows, width) change; ``grad`` is (m, width).

    Notes
    -----
    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization".
    """
    core, _ = placed(weight)
    w, g, state = _array("weight", weight, rows), _array("grad", grad, rows), _array("squares", squares, rows)
    core.adagrad(w, g, state, learning_rate, eps, weight_decay, grad_scale, rows)


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
    rows: Ints | None = None,
) -> None:
    """One step of Adam (arXiv:1412.6980), or of AdamW (arXiv:1711.05101) with ``decoupled=True``, in place.

    Parameters
    ----------
    weight, grad, m, v : arrays of one shape, float32, C-contiguous
        ``m`` and ``v`` are the moments, zeros before step 1.
    step : int, from 1
    grad_scale : float, default 1
        The gradient is multiplied by it first (gradient clipping).
    rows : (m,) int32, strictly rising, optional
        Only these rows of ``weight``, ``m`` and ``v`` (n_rows, width) change; ``grad`` is (m, width). The moments of
        the other rows do not fade meanwhile ("lazy" Adam).
    """
    core, _ = placed(weight)
    w, g = _array("weight", weight, rows), _array("grad", grad, rows)
    first, second = _array("m", m, rows), _array("v", v, rows)
    how = (learning_rate, beta1, beta2, eps, weight_decay, decoupled, grad_scale)
    core.adam(w, g, first, second, step, *how, rows)


def sum_squares(x: Floats) -> float:
    """Sum of squares of all elements, added up in an order that does not depend on the number of threads."""
    core, _ = placed(x)
    total: float = core.sum_squares(flat("x", x))
    return total
