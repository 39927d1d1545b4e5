"""What all layers share: weights made at the first call, sublayers, masks, the training flag."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn import seeds
from regard.nn.tape import Parameter, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Shape = tuple[int, ...]
    Initializer = str | Callable[[Shape], Any]

_TRAINING: ContextVar[bool] = ContextVar("training", default=False)
# While a file is read: the shapes of its tensors. A header cannot ask for weights that the file does not have.
FILE_SHAPES: ContextVar[frozenset[tuple[int, ...]] | None] = ContextVar("file_shapes", default=None)


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """`function` of x, or of everything in the list, tuple or dict x."""
    if isinstance(x, list | tuple):
        return type(x)(mapped(function, one) for one in x)
    if isinstance(x, dict):
        return {name: mapped(function, one) for name, one in x.items()}
    return function(x)


def _tensor(x: Any) -> Any:
    return Tensor(x) if isinstance(x, np.ndarray | int | float) and not isinstance(x, bool) else x


def _shape(x: Any) -> Any:
    return x.shape if isinstance(x, Tensor) else None


def _mask(x: Any) -> Any:
    return x.mask if isinstance(x, Tensor) else None


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        n = shape[0] if shape else 1
        return n, n
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def initial(shape: Shape, initializer: Initializer) -> Array:
    """First values: "glorot_uniform", "uniform" (-0.05 to 0.05), "zeros", "ones", or a function of the shape."""
    if callable(initializer):
        return np.asarray(initializer(shape), np.float32)
    if initializer in ("zeros", "ones"):
        return np.full(shape, float(initializer == "ones"), np.float32)
    if initializer not in ("glorot_uniform", "uniform"):
        names = "'glorot_uniform', 'uniform', 'zeros', 'ones' or a function of the shape"
        raise ValueError(f"initializer: expected {names}, got {initializer!r}")
    limit = 0.05 if initializer == "uniform" else math.sqrt(6 / np.sum(_fans(shape)))
    return np.asarray(seeds.generator().uniform(-limit, limit, shape), np.float32)


def _marking(build: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @functools.wraps(build)
    def marked(self: Any, input_shape: Any) -> None:
        build(self, input_shape)
        self.built = True

    return marked


class Layer:
    """Base of all layers and models, as ``keras.Layer``.

    A subclass makes its sublayers in ``__init__`` and its weights in ``build(input_shape)`` with `add_weight`, and
    computes in ``call(x, ...)`` with the functions of `regard.nn`. ``call`` may take ``training`` and ``mask``: both
    are filled in.

    Parameters
    ----------
    name : str, optional
        For `summary`; by default the class in snake case.

    Attributes
    ----------
    trainable : bool
        False keeps optimisers from all weights within.
    supports_masking : bool
        Whether the mask of the first argument is handed on to the result.
    built : bool
    """

    supports_masking = False

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        self.trainable = True
        self.built = False
        self.input_shape: Any = None
        self.output_shape: Any = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):  # also when it is called by hand: the first call must not make other weights
            cls.build = _marking(cls.build)  # type: ignore[method-assign, assignment]

    # ---- to override ----

    def build(self, input_shape: Any) -> None:
        """Make the weights; called once, with the shape (or the list of shapes) of the first argument."""
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute. Without it a layer cannot be called."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method `call`")

    def _build_first(self, input_shape: Any) -> None:
        self.build(input_shape)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """Mask of the result, where `supports_masking`."""
        return mask

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this layer again; what a file of a `Sequential` keeps."""
        return {}

    # ---- use ----

    def add_weight(
        self, name: str, shape: Shape, initializer: Initializer = "glorot_uniform", *, trainable: bool = True
    ) -> Parameter:
        """A new weight. Keep it as an attribute: ``self.kernel = self.add_weight("kernel", (3, 4))``.

        Parameters
        ----------
        name : str
            For messages.
        shape : tuple of int
        initializer : "glorot_uniform", "uniform", "zeros", "ones", or a function of the shape
        trainable : bool, default True
        """
        shapes = FILE_SHAPES.get()
        if shapes is not None:
            if tuple(shape) not in shapes:
                raise ValueError(f"{self.name}: {name}: the file has no tensor of shape {tuple(shape)}")
            initializer = "zeros"
        values = initial(tuple(shape), initializer)
        if values.shape != tuple(shape):
            raise ValueError(f"{name}: expected an initializer that gives {tuple(shape)}, got {values.shape}")
        return Parameter(values, trainable=trainable)

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """`call` on tensors, after `build` the first time.

        Parameters
        ----------
        *args, **kwargs : arrays, tensors, or lists of them; options of `call`
        training : bool, optional
            By default that of the layer or model around this one; False where there is none.
        """
        args = tuple(mapped(_tensor, argument) for argument in args)
        first = args[0] if args else None
        takes = inspect.signature(self.call).parameters
        mask = kwargs.get("mask")
        if mask is None:
            mask = mapped(_mask, first)
            if "mask" in takes:
                kwargs["mask"] = mask
        token = _TRAINING.set(_TRAINING.get() if training is None else bool(training))
        try:
            if "training" in takes:
                kwargs["training"] = _TRAINING.get()
            if not self.built:
                self.input_shape = mapped(_shape, first)
                self._build_first(self.input_shape)
                self.built = True
            result = self.call(*args, **kwargs)
        finally:
            _TRAINING.reset(token)
        head = result[0] if isinstance(result, tuple) else result
        if isinstance(head, Tensor):
            if self.supports_masking and head.mask is None:
                head.mask = self.compute_mask(first, mask)
            self.output_shape = head.shape
        return result

    # ---- weights ----

    def sublayers(self) -> dict[str, Layer]:
        """Layers kept in attributes (also in lists, tuples and dicts), by name of the attribute."""
        found: dict[str, Layer] = {}
        for name, value in vars(self).items():
            named = {name: value}
            if isinstance(value, list | tuple):
                named = {f"{name}.{i}": one for i, one in enumerate(value)}
            elif isinstance(value, dict):
                named = {f"{name}.{key}": one for key, one in value.items()}
            found |= {key: one for key, one in named.items() if isinstance(one, Layer)}
        return found

    def named_weights(self) -> dict[str, Parameter]:
        """Weights by path ("hidden.kernel"), own ones first, then those of the sublayers."""
        return {name: weight for name, weight, _ in self._walk("", True, set())}

    def _walk(self, prefix: str, trainable: bool, seen: set[int]) -> Iterator[tuple[str, Parameter, bool]]:
        trainable = trainable and self.trainable
        for name, value in vars(self).items():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield prefix + name, value, trainable and value.trainable
        for name, layer in self.sublayers().items():
            yield from layer._walk(f"{prefix}{name}.", trainable, seen)

    @property
    def weights(self) -> list[Parameter]:
        """All weights, in the order of `get_weights`."""
        return list(self.named_weights().values())

    @property
    def trainable_weights(self) -> list[Parameter]:
        """Those that optimisers change."""
        return [weight for _, weight, trainable in self._walk("", True, set()) if trainable]

    def get_weights(self) -> list[Array]:
        """Copies of all weights, in Keras' order and shapes."""
        return [weight.data.copy() for weight in self.weights]

    def set_weights(self, weights: list[Any]) -> None:
        """Take over values, in the order and shapes of `get_weights`.

        Raises
        ------
        ValueError
            Another number of arrays, or another shape.
        """
        own = self.named_weights()
        if len(own) != len(weights):
            hint = "" if self.built else " (this layer has no weights yet: call it once, or build it)"
            raise ValueError(f"weights: expected {len(own)} arrays, got {len(weights)}{hint}")
        arrays = [np.asarray(values, np.float32) for values in weights]
        for (name, weight), values in zip(own.items(), arrays, strict=True):
            if values.shape != weight.shape:
                raise ValueError(f"weights: {name}: expected shape {weight.shape}, got {values.shape}")
        for weight, values in zip(own.values(), arrays, strict=True):
            weight.data[...] = values

    def count_params(self) -> int:
        """How many numbers the weights have.

        Raises
        ------
        ValueError
            Not built yet.
        """
        if not self.built:
            raise ValueError(f"{self.name}: not built yet: call it once, or build(input_shape)")
        return sum(weight.data.size for weight in self.weights)

    def __repr__(self) -> str:
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"
