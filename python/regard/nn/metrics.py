"""Metrics of a fit: accuracy and mean absolute error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn.losses import like_prediction, same_rank
from regard.nn.tape import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Metric = Callable[[Array, Array], Array]


def accuracy(target: Array, prediction: Array) -> Array:
    """Whether each place is right, chosen by shape as in Keras.

    One output: above 0.5 where the target is 1. Several: the largest is the class, or the place of the target's 1.
    """
    if prediction.shape[-1] == 1:
        return np.asarray(((prediction > 0.5) == like_prediction(target, prediction.shape)).mean(axis=-1))
    classes = same_rank(target, prediction.shape[:-1])
    if classes.ndim == prediction.ndim:
        classes = like_prediction(target, prediction.shape).argmax(axis=-1)
    return np.asarray(classes == prediction.argmax(axis=-1))


def mae(target: Array, prediction: Array) -> Array:
    """Absolute error of each place."""
    return np.asarray(np.abs(prediction - like_prediction(target, prediction.shape)).mean(axis=-1))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "acc": accuracy, "mae": mae, "mean_absolute_error": mae}


def check(names: list[str]) -> list[str]:
    """Refuse names that are not known."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics: expected some of {', '.join(map(repr, METRICS))}, got {name!r}")
    return list(names)


def sums(names: list[str], target: Array, prediction: Tensor) -> dict[str, tuple[float, float]]:
    """Of each metric the sum over the places that are not masked, and their number."""
    found = {}
    for name in names:
        values = np.asarray(METRICS[name](target, np.atleast_1d(prediction.data)), np.float64)
        kept = values if prediction.mask is None else values[prediction.mask]
        found[name] = (float(kept.sum()), float(kept.size))
    return found
