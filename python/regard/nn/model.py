"""Models: compile, fit, predict, evaluate, summary, save."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn import metrics as known_metrics
from regard.nn import seeds
from regard.nn.layer import Layer, mapped
from regard.nn.losses import Loss, loss_of
from regard.nn.optimizers import Optimizer, optimizer_of
from regard.nn.tape import Tape, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Logs = dict[str, float]
    Callback = Callable[[int, Logs], Any]


@dataclass
class History:
    """What `fit` returns.

    Attributes
    ----------
    history : dict of lists
        By epoch: "loss", the metrics, and with validation data "val_loss" and "val_...".
    epoch : list of int, from 0
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)


def _length(name: str, x: Any) -> int:
    lengths: list[int] = []
    mapped(lambda one: lengths.append(len(one)), x)
    if not lengths or len(set(lengths)) != 1:
        raise ValueError(f"{name}: expected arrays with one length, got {lengths}")
    return lengths[0]


def _arrays(name: str, x: Any) -> Any:
    def array(one: Any) -> Array:
        values = np.asarray(one)
        if values.ndim == 0 or values.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected an array of numbers, got {type(one).__name__}")
        return values

    if isinstance(x, list) and not any(isinstance(one, np.ndarray) for one in x):
        return array(x)  # nested lists are one array; a list of arrays is several inputs
    return mapped(array, x)


class Model(Layer):
    """A layer that can be trained, as ``keras.Model``: subclass it, make layers in ``__init__``, write ``call``.

    Attributes
    ----------
    stop_training : bool
        Set it in a callback to end `fit` after the epoch.
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.optimizer: Optimizer | None = None
        self.loss: Loss | None = None
        self.metrics: list[str] = []
        self.stop_training = False

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Sequence[str] = ()) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : "sgd", "adam", "adamw" or an `Optimizer`, default "adam"
        loss : "mse", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy", a `Loss`,
            or a function of (y_true, y_pred) that gives a tensor
        metrics : some of "accuracy" and "mae"
        """
        self.optimizer, self.loss = optimizer_of(optimizer), loss_of(loss)
        self.metrics = known_metrics.check(list(metrics))

    def _compiled(self) -> tuple[Optimizer, Loss]:
        if self.optimizer is None or self.loss is None:
            raise RuntimeError(f"{self.name}: not compiled: call compile(optimizer=..., loss=...) first")
        return self.optimizer, self.loss

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] = (),
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
    ) -> History:
        """Train.

        Parameters
        ----------
        x : (n, ...) array, or a list or dict of them for a model of several inputs
        y : (n, ...) array
        batch_size : int, default 32
        epochs : int, default 1
        verbose : 0 for silence; anything else prints a line for each epoch
        callbacks : functions of (epoch from 0, dict of losses and metrics), called after each epoch
        validation_data : (x, y), optional
        shuffle : bool, default True
            A new order in each epoch, from `set_random_seed`.

        Returns
        -------
        History
        """
        optimizer, loss = self._compiled()
        x, y = self._pair(x, y)
        n, batch_size = _length("x", x), _positive("batch_size", batch_size)
        held_out = None if validation_data is None else self._pair(*validation_data)
        history, self.stop_training = History(), False
        for epoch in range(_positive("epochs", epochs)):
            order = seeds.generator().permutation(n) if shuffle else np.arange(n)
            totals: dict[str, list[float]] = {}
            for start in range(0, n, batch_size):
                rows = order[start : start + batch_size]
                self._train_step(_take(x, rows), y[rows], optimizer, loss, totals)
            logs = {name: total / max(count, 1) for name, (total, count) in totals.items()}
            if held_out is not None:
                logs |= {f"val_{name}": value for name, value in self._measure(*held_out, batch_size).items()}
            history.epoch.append(epoch)
            for name, value in logs.items():
                history.history.setdefault(name, []).append(value)
            if verbose:
                print(f"Epoch {epoch + 1}/{epochs} - " + " - ".join(f"{k}: {v:.4f}" for k, v in logs.items()))
            for callback in callbacks:
                callback(epoch, logs)
            if self.stop_training:
                break
        return history

    def _train_step(self, x: Any, y: Array, optimizer: Optimizer, loss: Loss, totals: dict[str, list[float]]) -> None:
        with Tape() as tape:
            prediction = self(x, training=True)
            value = loss(y, _one_output(prediction))
        weights = self.trainable_weights
        if not weights:
            raise RuntimeError(f"{self.name}: nothing to train: no layer has a weight that is trainable")
        optimizer.apply(tape.gradient(value, weights), weights)
        self._count(float(value), y, prediction, totals)

    def _count(self, value: float, y: Array, prediction: Tensor, totals: dict[str, list[float]]) -> None:
        parts = {"loss": (value * len(y), float(len(y)))}
        for name, (total, count) in (parts | known_metrics.sums(self.metrics, y, prediction)).items():
            so_far = totals.setdefault(name, [0.0, 0.0])
            so_far[0] += total
            so_far[1] += count

    def _measure(self, x: Any, y: Array, batch_size: int) -> Logs:
        _, loss = self._compiled()
        totals: dict[str, list[float]] = {}
        for start in range(0, _length("x", x), batch_size):
            rows = slice(start, start + batch_size)
            prediction = _one_output(self(_take(x, rows), training=False))
            self._count(float(loss(y[rows], prediction)), y[rows], prediction, totals)
        return {name: total / max(count, 1) for name, (total, count) in totals.items()}

    def evaluate(
        self, x: Any, y: Any, *, batch_size: int = 32, verbose: int | str = "auto", return_dict: bool = False
    ) -> Any:
        """Loss and metrics.

        Returns
        -------
        float, without metrics; else a list, the loss first; or with ``return_dict`` a dict
        """
        logs = self._measure(*self._pair(x, y), _positive("batch_size", batch_size))
        if verbose:
            print(" - ".join(f"{name}: {value:.4f}" for name, value in logs.items()))
        if return_dict:
            return logs
        return list(logs.values()) if self.metrics else logs["loss"]

    def predict(self, x: Any, *, batch_size: int = 32, verbose: int | str = "auto") -> Any:
        """Output as an array (or a tuple of them), a batch at a time.

        Parameters
        ----------
        x : (n, ...) array, or a list or dict of them
        batch_size : int, default 32
        verbose : ignored
        """
        x = self._inputs(x)
        n, batch_size = _length("x", x), _positive("batch_size", batch_size)
        results = [self(_take(x, slice(i, i + batch_size)), training=False) for i in range(0, max(n, 1), batch_size)]
        if isinstance(results[0], tuple | list):
            return tuple(np.concatenate([one.numpy() for one in part]) for part in zip(*results, strict=True))
        return np.concatenate([result.numpy() for result in results])

    def _inputs(self, x: Any) -> Any:
        return _arrays("x", x)

    def _targets(self, y: Any) -> Array:
        y = _arrays("y", y)
        if not isinstance(y, np.ndarray):
            raise TypeError(f"y: expected one array, got {type(y).__name__}")
        return y

    def _pair(self, x: Any, y: Any) -> tuple[Any, Array]:
        x, y = self._inputs(x), self._targets(y)
        if _length("x", x) != len(y):
            raise ValueError(f"y: expected {_length('x', x)} entries as in x, got {len(y)}")
        if len(y) == 0:
            raise ValueError("x: expected at least one entry, got none")
        return x, y

    def build(self, input_shape: Any) -> None:
        """Make all weights by a call on zeros.

        Parameters
        ----------
        input_shape : tuple, or a list of them
            The first entry, the batch, may be None, and so may others: 1 is taken.
        """

        def zeros(shape: Any) -> Any:
            if isinstance(shape, list) or (shape and isinstance(shape[0], tuple)):
                return [zeros(one) for one in shape]
            return np.zeros([1 if n is None else n for n in shape], np.float32)

        self(zeros(input_shape), training=False)

    def _build_first(self, input_shape: Any) -> None:
        if type(self).build is not Model.build:  # weights of its own, beside its layers
            self.build(input_shape)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print layers, the shape of their last output, and numbers of weights."""
        rows = [("Layer (type)", "Output shape", "Params")]
        for name, layer in self.sublayers().items():
            shape = "?" if layer.output_shape is None else f"({', '.join(['None', *map(str, layer.output_shape[1:])])})"
            count = sum(weight.data.size for weight in layer.weights)
            rows.append((f"{name} ({type(layer).__name__})", shape, f"{count:,}" if layer.built else "not built"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        total = sum(weight.data.size for weight in self.weights)
        trainable = sum(weight.data.size for weight in self.trainable_weights)
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * (sum(widths) + 4))
        counts = f"{total:,} weights, {trainable:,} of them trainable"
        print_fn("\n".join([f"{type(self).__name__} {self.name!r}", *lines, counts]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and, for `Sequential`, the layers to one safetensors file, whole or not at all.

        What the optimiser remembers is not kept. See `load_model`; a subclassed model is made again by its code and
        takes its weights from the file with `load_weights`.
        """
        from regard.nn.file import save  # noqa: PLC0415

        save(self, path)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take all weights from a file of `save`; this model must be built and have the same weights."""
        from regard.nn.file import load_weights  # noqa: PLC0415

        load_weights(self, path)


class Input:
    """Shape of one entry of the input, without the batch: as first entry of a `Sequential` it builds it at once.

    Parameters
    ----------
    shape : tuple of int or None
    """

    def __init__(self, shape: Sequence[int | None]) -> None:
        self.shape = tuple(shape)


class Sequential(Model):
    """Layers one after another, as ``keras.Sequential``.

    Parameters
    ----------
    layers : layers, the first may be an `Input`
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.layers: list[Layer] = []
        self._given_shape: tuple[int | None, ...] | None = None
        for layer in layers:
            self._append(layer)
        self._build_early()

    def add(self, layer: Layer | Input) -> None:
        """Append a layer."""
        self._append(layer)
        self._build_early()

    def _append(self, layer: Layer | Input) -> None:
        if isinstance(layer, Input):
            if self.layers:
                raise ValueError("layers: expected the Input first, got it after a layer")
            self._given_shape = layer.shape
        elif isinstance(layer, Layer):
            self.layers.append(layer)
        else:
            raise TypeError(f"layers: expected layers, got {type(layer).__name__}")

    def _build_early(self) -> None:
        if self._given_shape is not None and self.layers:
            self.build((None, *self._given_shape))

    def call(self, x: Any) -> Any:
        """Through all layers."""
        if not self.layers:
            raise RuntimeError(f"{self.name}: expected at least one layer")
        for layer in self.layers:
            x = layer(x)
        return x

    def sublayers(self) -> dict[str, Layer]:
        """Layers by their names, the second of a name with _1."""
        found: dict[str, Layer] = {}
        for layer in self.layers:
            plain = re.sub(r"[^\w]", "_", layer.name)
            same = [name for name in found if re.fullmatch(rf"{plain}(_\d+)?", name)]
            found[f"{plain}_{len(same)}" if same else plain] = layer
        return found


def _one_output(prediction: Any) -> Tensor:
    if not isinstance(prediction, Tensor):
        raise TypeError(f"call: expected one tensor to train on, got {type(prediction).__name__}")
    return prediction


def _take(x: Any, rows: Any) -> Any:
    return mapped(lambda one: one[rows], x)


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")
    return int(value)
