"""Losses: the mean over all places that are not masked, with formulas and defaults of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn import functions
from regard.nn.tape import Tensor, record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_EPSILON = np.float32(1e-7)  # probabilities are kept this far from 0 and 1


def same_rank(target: Array, shape: tuple[int, ...]) -> Array:
    """A target (n,) for a prediction (n, 1), or the other way round, gets its axis of 1; others stay as they are."""
    if target.ndim == len(shape) - 1 and shape[-1] == 1:
        return target[..., None]
    if target.ndim == len(shape) + 1 and target.shape[-1] == 1:
        return target[..., 0]
    return target


def like_prediction(target: Array, shape: tuple[int, ...]) -> Array:
    """The target with the shape of the prediction.

    Raises
    ------
    ValueError
        Shapes differ: Keras would stretch one of them silently.
    """
    fitted = same_rank(target, shape)
    if fitted.shape != shape:
        columns = ""
        if target.ndim == len(shape) and target.shape[:-1] == shape[:-1]:
            columns = f": the target has {target.shape[-1]} columns, the model gives {shape[-1]}"
        raise ValueError(f"y: expected shape {shape} as the model's output, got {target.shape}{columns}")
    return fitted


class Loss:
    """Base of the losses: called on (y_true, y_pred), gives a scalar tensor.

    Masked places of y_pred count for nothing.
    """

    name = ""

    def __init__(self) -> None:
        pass

    def values(self, target: Array, prediction: Array) -> tuple[Array, Array]:
        """The loss of each place, and its slope by each number of the prediction."""
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Any) -> Tensor:
        prediction = functions.floats(y_pred)
        target = np.asarray(y_true.data if isinstance(y_true, Tensor) else y_true)
        values, slopes = self.values(target, np.atleast_1d(prediction.data))
        weights = place_weights(prediction.mask, values.shape)
        share = weights / max(values.size, 1)
        total = np.float32((values * share).sum(dtype=np.float64))
        slope = (slopes * share[..., None]).astype(np.float32).reshape(prediction.shape)
        return record(total, (prediction,), lambda dy: (dy * slope,))

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this loss again."""
        return {}


def place_weights(mask: Array | None, shape: tuple[int, ...]) -> Array:
    """1 for each place, or with a mask 0 where it is False and more than 1 elsewhere, so that the mean is theirs."""
    if mask is None:
        return np.ones(shape, np.float32)
    if mask.shape != shape:
        raise ValueError(f"mask: expected shape {shape}, one entry for each place of the output, got {mask.shape}")
    return mask.astype(np.float32) * np.float32(mask.size / max(int(mask.sum()), 1))


class MeanSquaredError(Loss):
    """``mean((y_true - y_pred) ** 2)``."""

    name = "mse"

    def values(self, target: Array, prediction: Array) -> tuple[Array, Array]:
        """See `Loss.values`."""
        error = prediction - like_prediction(target, prediction.shape).astype(np.float32)
        return (error * error).mean(axis=-1), error * np.float32(2 / prediction.shape[-1])


class _CrossEntropy(Loss):
    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = from_logits

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this loss again."""
        return {"from_logits": self.from_logits}


class BinaryCrossentropy(_CrossEntropy):
    """``-mean(t log p + (1 - t) log(1 - p))``, p kept 1e-7 from 0 and 1.

    Parameters
    ----------
    from_logits : bool, default False
        y_pred is the value before the sigmoid.
    """

    name = "binary_crossentropy"

    def values(self, target: Array, prediction: Array) -> tuple[Array, Array]:
        """See `Loss.values`."""
        t = like_prediction(target, prediction.shape).astype(np.float32)
        if self.from_logits:
            small = np.exp(-np.abs(prediction))
            values = np.maximum(prediction, 0) - prediction * t + np.log1p(small)
            slopes = np.where(prediction >= 0, 1, small) / (1 + small) - t
        else:
            p = np.clip(prediction, _EPSILON, 1 - _EPSILON)
            values = -(t * np.log(p) + (1 - t) * np.log1p(-p))
            slopes = (p - t) / (p * (1 - p)) * (p == prediction)
        return values.mean(axis=-1), slopes / np.float32(prediction.shape[-1])


class CategoricalCrossentropy(_CrossEntropy):
    """``-sum(t log p)`` over the last axis: t are probabilities, often one 1 among 0; p is scaled to the sum 1.

    Parameters
    ----------
    from_logits : bool, default False
        y_pred is the value before the softmax.
    """

    name = "categorical_crossentropy"

    def values(self, target: Array, prediction: Array) -> tuple[Array, Array]:
        """See `Loss.values`."""
        t = like_prediction(target, prediction.shape).astype(np.float32)
        if self.from_logits:
            z = prediction - prediction.max(axis=-1, keepdims=True)
            lse = np.log(np.exp(z).sum(axis=-1, keepdims=True))
            return -(t * (z - lse)).sum(axis=-1), np.exp(z - lse) * t.sum(axis=-1, keepdims=True) - t
        total = prediction.sum(axis=-1, keepdims=True)
        share = prediction / total
        p = np.clip(share, _EPSILON, 1 - _EPSILON)
        dshare = -t / p * (p == share)
        slopes = (dshare - (dshare * share).sum(axis=-1, keepdims=True)) / total
        return -(t * np.log(p)).sum(axis=-1), slopes


class SparseCategoricalCrossentropy(_CrossEntropy):
    """`CategoricalCrossentropy` with the number of the right class as target.

    Parameters
    ----------
    from_logits : bool, default False
        y_pred is the value before the softmax.
    """

    name = "sparse_categorical_crossentropy"

    def values(self, target: Array, prediction: Array) -> tuple[Array, Array]:
        """See `Loss.values`."""
        classes = same_rank(target, prediction.shape[:-1])
        n = prediction.shape[-1]
        if classes.shape != prediction.shape[:-1]:
            raise ValueError(f"y: expected shape {prediction.shape[:-1]}, a class for each place, got {target.shape}")
        whole = classes.astype(np.int64)
        if (whole != classes).any() or (whole < 0).any() or (whole >= n).any():
            raise ValueError(f"y: expected classes from 0 to {n - 1}, got {classes.min()} to {classes.max()}")
        one_hot = np.zeros(prediction.shape, np.float32)
        np.put_along_axis(one_hot, whole[..., None], 1, axis=-1)
        return CategoricalCrossentropy(self.from_logits).values(one_hot, prediction)


class Custom(Loss):
    """A function of (y_true array, y_pred tensor) that gives a tensor of any shape; its mean is the loss."""

    name = "function"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, y_true: Any, y_pred: Any) -> Tensor:
        return functions.mean(self.function(y_true, y_pred))


LOSSES: dict[str, type[Loss]] = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
}


def loss_of(loss: Any) -> Loss:
    """A loss from its name, itself, or a function."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    if callable(loss) and not isinstance(loss, type):
        return Custom(loss)
    raise ValueError(f"loss: expected a Loss, a function or one of {', '.join(map(repr, LOSSES))}, got {loss!r}")
