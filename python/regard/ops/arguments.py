"""What the functions of `ops` share: types of arrays, named choices, checks before the compiled module's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from regard import _core
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int32]
    Offsets = NDArray[np.int64]

T = TypeVar("T")
Align = Literal["end", "start"]
Activation = Literal["relu", "gelu", "silu", "sigmoid"] | None
Precision = Literal["highest", "high", "medium"]
SampledLoss = Literal["softmax", "bce"]


class Dropout(NamedTuple):
    """Which elements are dropped: decided by ``(seed, step, site)`` and the element's place alone.

    Philox4x32-10 (Salmon et al. 2011) with the element's place as counter: (row, column) of an activation, (sequence,
    head, query, key) of an attention weight. So a mask is the same for any number of threads and any instruction set,
    and the backward pass makes it again instead of keeping it.

    Attributes
    ----------
    p : float
        Probability of dropping, in [0, 1). Kept elements are multiplied by ``1 / (1 - p)``.
    seed, step, site : int
        Non-negative, below 2**64: the run, the optimiser step, the place in the model.
    """

    p: float
    seed: int = 0
    step: int = 0
    site: int = 0


def placed(array: Any, workspace: Workspace = NEW) -> tuple[Any, Workspace]:
    """The functions that compute where an array lies, and where results are made: on the host, or on its device."""
    core = None if type(array) is np.ndarray else getattr(array, "core", None)
    if core is None:
        return _core, workspace
    return core, core.NEW if workspace is NEW else workspace


def shape_of(name: str, array: Any, dimensions: int) -> tuple[int, ...]:
    """Of an argument that results are made from, before the compiled module has looked at it."""
    if not isinstance(array, np.ndarray) and not hasattr(array, "core"):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    if array.ndim != dimensions:
        raise ValueError(f"{name}: expected {dimensions} dimensions, got shape {array.shape}")
    shape: tuple[int, ...] = array.shape
    return shape


def flat(name: str, array: Any) -> NDArray[Any]:
    """The array as a vector: the same memory, never a copy that changes would be lost in."""
    if not isinstance(array, np.ndarray):
        if not hasattr(array, "core"):
            raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
        on_device: NDArray[Any] = array.reshape(-1)
        return on_device
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {array.strides}")
    return array.reshape(-1)


def choice(name: str, value: str | None, allowed: Mapping[Any, T]) -> T:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
    return allowed[value]
