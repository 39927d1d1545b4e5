"""Metrics of a fit: accuracy and mean absolute error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn.losses import Loss, SparseCategoricalCrossentropy, like_prediction, same_rank
from regard.nn.tape import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Metric = Callable[[Array, Array, Loss], Array]


def accuracy(target: Array, prediction: Array, loss: Loss) -> Array:
    """Whether each place is right: the largest of several outputs, or one output above 0.5 (0 for logits)."""
    if prediction.shape[-1] > 1 and isinstance(loss, SparseCategoricalCrossentropy):
        return np.asarray(same_rank(target, prediction.shape[:-1]) == prediction.argmax(axis=-1))
    t = like_prediction(target, prediction.shape)
    if prediction.shape[-1] > 1 and loss.name == "categorical_crossentropy":
        return np.asarray(t.argmax(axis=-1) == prediction.argmax(axis=-1))
    threshold = 0.0 if getattr(loss, "from_logits", False) else 0.5
    return np.asarray(((prediction > threshold) == t).mean(axis=-1))


def mae(target: Array, prediction: Array, loss: Loss) -> Array:
    """Absolute error of each place."""
    return np.asarray(np.abs(prediction - like_prediction(target, prediction.shape)).mean(axis=-1))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "acc": accuracy, "mae": mae, "mean_absolute_error": mae}


def check(names: list[str]) -> list[str]:
    """Refuse names that are not known."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics: expected some of {', '.join(map(repr, METRICS))}, got {name!r}")
    return list(names)


def sums(names: list[str], target: Array, prediction: Tensor, loss: Loss) -> dict[str, tuple[float, float]]:
    """Of each metric the sum over the places that are not masked, and their number."""
    found = {}
    for name in names:
        values = np.asarray(METRICS[name](target, np.atleast_1d(prediction.data), loss), np.float64)
        kept = values if prediction.mask is None else values[prediction.mask]
        found[name] = (float(kept.sum()), float(kept.size))
    return found
