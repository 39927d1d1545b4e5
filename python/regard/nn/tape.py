"""Tracked values and the tape that remembers how they came about.

Every function of `regard.nn` computes with NumPy arrays and kernels, wraps the result in a `Tensor`, and, while a
`Tape` is open, notes how to turn a gradient of the result into gradients of the arguments. Only what depends on a
watched value is noted. Nothing outside `regard.nn` knows of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Backward = Callable[[Array], tuple[Array | None, ...]]

# NumPy's name of a function -> ours, where they differ.
_RENAMED = {"true_divide": "divide", "negative": "subtract", "take": "gather", "swapaxes": "transpose"}
# NumPy's operators: `array * tensor` arrives as a call of np.multiply.
_OPERATORS = {"add", "subtract", "multiply", "divide", "matmul"}
_TRACKED = (
    "add, subtract, multiply, divide, matmul, exp, log, square, sqrt, relu, gelu, silu, sigmoid, tanh, softmax, "
    "reshape, transpose, concatenate, gather, sum, mean"
)


def _not_tracked(name: str) -> str:
    ours = _RENAMED.get(name, name)
    known = ours in _TRACKED.split(", ")
    instead = f"use regard.nn.{ours}" if known else f"regard.nn has {_TRACKED}"
    return (
        f"numpy.{name} on a tensor: gradients would be lost; {instead}, "
        "or .numpy() for values that no gradient has to go through"
    )


class Tensor:
    """An array whose history a tape may know.

    Supports ``+ - * / @``, unary minus, basic indexing, and the functions of `regard.nn`; NumPy's functions raise
    ``TypeError`` and say what to use instead.

    Parameters
    ----------
    data : array_like
        Floats become float32; integers and booleans stay what they are. Not copied if it is such an array already.
    mask : array of bool, optional
        Which places hold something, shape of `data` without the last axis. Layers hand it on as in Keras; functions
        drop it.
    """

    __slots__ = ("data", "mask", "tracked")
    __hash__ = object.__hash__

    def __init__(self, data: Any, mask: NDArray[np.bool_] | None = None) -> None:
        array = np.asarray(data)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"tensor: expected numbers, got {array.dtype}")
        self.data: Array = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        self.mask = mask
        self.tracked = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.data.dtype

    def numpy(self) -> Array:
        """The array itself, outside of any tape; not a copy."""
        return self.data

    def __float__(self) -> float:
        return float(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"

    # ---- operators; the functions import this module, so they are looked up here at call time ----

    def __add__(self, other: Any) -> Tensor:
        return _function("add")(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _function("add")(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _function("subtract")(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _function("subtract")(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _function("multiply")(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _function("multiply")(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _function("divide")(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _function("divide")(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return _function("matmul")(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _function("matmul")(other, self)

    def __neg__(self) -> Tensor:
        return _function("subtract")(0.0, self)

    def __getitem__(self, index: Any) -> Tensor:
        return _function("part")(self, index)

    # ---- what NumPy asks for ----

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self.tracked and _TAPE.get() is not None:
            raise TypeError(_not_tracked("asarray"))
        return np.array(self.data, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Tensor:
        reflected = method == "__call__" and not options and not isinstance(inputs[0], Tensor)
        name = "divide" if ufunc.__name__ == "true_divide" else ufunc.__name__
        if reflected and name in _OPERATORS:  # `array * tensor`: nothing is lost
            return _function(name)(*inputs)
        raise TypeError(_not_tracked(ufunc.__name__))

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        raise TypeError(_not_tracked(function.__name__))


def _function(name: str) -> Callable[..., Tensor]:
    from regard.nn import functions  # noqa: PLC0415

    return getattr(functions, name)  # type: ignore[no-any-return]


class Parameter(Tensor):
    """A weight: a tensor that is tracked from the start, and that optimisers change in place.

    Parameters
    ----------
    data : array_like
        Copied, as C-contiguous float32.
    trainable : bool, default True
    """

    __slots__ = ("trainable",)

    def __init__(self, data: Any, *, trainable: bool = True) -> None:
        super().__init__(np.array(data, np.float32, order="C"))
        self.trainable = trainable
        self.tracked = True


class Tape:
    """Notes what is computed while it is open.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0])
    >>> with Tape() as tape:
    ...     tape.watch(x)
    ...     y = (x * x)[1]
    >>> tape.gradient(y, [x])[0].tolist()
    [0.0, 4.0]
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Tensor, tuple[Tensor, ...], Backward]] = []
        self._token: Token[Tape | None] | None = None

    def __enter__(self) -> Tape:
        self._token = _TAPE.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _TAPE.reset(self._token)
            self._token = None

    def watch(self, tensor: Tensor) -> None:
        """Track a value that is no parameter."""
        tensor.tracked = True

    def gradient(self, target: Tensor, sources: Sequence[Tensor]) -> list[Array]:
        """Gradients of the sum of `target` by each of `sources`, shaped like them; 0 where it does not depend on one.

        Raises
        ------
        ValueError
            `target` was not computed from tracked values while this tape was open.
        """
        if not any(target is result for result, _, _ in self._entries):
            raise ValueError(
                "target: expected a tensor computed from tracked values on this tape, got one it has not seen"
            )
        gradients: dict[int, Array] = {id(target): np.ones_like(target.data)}
        asked = {id(source) for source in sources}
        for result, parents, backward in reversed(self._entries):
            dy = gradients.get(id(result))
            if dy is None:
                continue
            if id(result) not in asked:
                del gradients[id(result)]  # nothing before it on the tape adds to it
            for parent, gradient in zip(parents, backward(dy), strict=True):
                if gradient is None or not parent.tracked:
                    continue
                before = gradients.get(id(parent))  # summed into new memory: a gradient may stand in several places
                gradients[id(parent)] = gradient if before is None else before + gradient
        zeros = ((source, gradients.get(id(source))) for source in sources)
        return [np.zeros_like(source.data) if gradient is None else gradient for source, gradient in zeros]


_TAPE: ContextVar[Tape | None] = ContextVar("tape", default=None)


def record(data: Any, parents: tuple[Tensor, ...], backward: Backward) -> Tensor:
    """The result of a function of tensors; `backward` maps its gradient to those of `parents`, None for no gradient.

    For new functions: return ``record(value, (x,), lambda dy: (dy * slope,))``.
    """
    result = Tensor(data)
    tape = _TAPE.get()
    if tape is not None and any(parent.tracked for parent in parents):
        result.tracked = True
        tape._entries.append((result, parents, backward))
    return result
