"""Arrays in the memory of a CUDA device."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import defaultdict
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from regard.cuda import dlpack
from regard.cuda.library import call
from regard.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 256


class _Memory:
    """A piece of device memory. What is given back is kept for the next that asks for as much: work is done in the
    order in which it was asked for, so what still reads it has ended before anything writes it."""

    _kept: ClassVar[defaultdict[int, list[int]]] = defaultdict(list)

    def __init__(self, size: int) -> None:
        size = 1 << max(size - 1, _ALIGNMENT - 1).bit_length()
        kept = self._kept[size]
        if kept:
            self.pointer = kept.pop()
        else:
            place = ctypes.c_void_p()
            call("allocate", ctypes.c_size_t(size), ctypes.c_void_p(ctypes.addressof(place)))
            self.pointer = place.value or 0
        weakref.finalize(self, kept.append, self.pointer).atexit = False


class DeviceArray:
    """An array on the device, C-contiguous. Made by :func:`asarray` and by the functions of `regard.ops`.

    It understands what the training loop does with arrays: ``+=``, ``fill(0)``, ``np.add``, ``np.zeros_like``,
    ``np.empty_like``, ``np.copyto`` (also from NumPy). Other libraries read it through ``__dlpack__`` and
    ``__cuda_array_interface__``, without a copy.

    Attributes
    ----------
    shape, dtype, ndim, size, nbytes : as of a NumPy array
    pointer : int
        The address on the device.
    """

    __slots__ = ("__weakref__", "_owner", "dtype", "pointer", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, pointer: int, owner: object) -> None:
        self.shape, self.dtype, self.pointer, self._owner = tuple(shape), np.dtype(dtype), pointer, owner

    @property
    def core(self) -> ModuleType:
        """The functions that compute where this array lies; what `regard.ops` looks at."""
        from regard.cuda import core  # noqa: PLC0415

        return core

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype})"

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same memory in another shape."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        known = math.prod(n for n in wanted if n != -1)
        full = tuple(self.size // max(known, 1) if n == -1 else n for n in wanted)
        if math.prod(full) != self.size:
            raise ValueError(f"shape: expected {self.size} elements, got {full}")
        return DeviceArray(full, self.dtype, self.pointer, self)

    def numpy(self) -> NDArray[Any]:
        """A copy on the host; waits for what is under way."""
        host = np.empty(self.shape, self.dtype)
        call("copy", ctypes.c_void_p(host.ctypes.data), self, ctypes.c_size_t(self.nbytes))
        return host

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("copy: expected True or None for an array on a device, got False")
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def copy(self) -> DeviceArray:
        result = empty(self.shape, self.dtype)
        result._assign(self)
        return result

    def fill(self, value: float) -> None:
        """0, or any other number by way of the host."""
        if value == 0:
            call("zero", self, ctypes.c_size_t(self.nbytes))
        else:
            self._assign(np.full(self.shape, value, self.dtype))

    def _assign(self, other: Any) -> None:
        if other.shape != self.shape or other.dtype != self.dtype:
            raise ValueError(f"expected {self.dtype} {self.shape}, got {other.dtype} {other.shape}")
        if not isinstance(other, DeviceArray):
            other = np.ascontiguousarray(other)
        source = other if isinstance(other, DeviceArray) else ctypes.c_void_p(other.ctypes.data)
        call("copy", self, source, ctypes.c_size_t(self.nbytes))

    def __iadd__(self, other: DeviceArray) -> DeviceArray:
        return _add(self, other, self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (None,)) -> Any:
        if ufunc is not np.add or method != "__call__" or len(inputs) != 2:
            return NotImplemented
        return _add(*inputs, empty(self.shape, self.dtype) if out[0] is None else out[0])

    def __array_function__(self, function: Any, types: Any, arguments: Any, how: Any) -> Any:
        if function is np.copyto and not how:
            to, source = arguments
            if isinstance(to, DeviceArray):
                return to._assign(source)
            return function(to, source.numpy())
        if function in (np.zeros_like, np.empty_like) and not how and len(arguments) == 1:
            return (zeros if function is np.zeros_like else empty)(arguments[0].shape, arguments[0].dtype)
        return NotImplemented

    # ---- for other libraries ----

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # stream 1 is the default stream, in which the library works
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "strides": None,
            "stream": 1,
        }

    def __dlpack__(self, **how: Any) -> Any:
        """For the default stream: what a consumer's ``stream``, ``max_version`` and so on say is not needed."""
        return dlpack.to_capsule(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0


def _add(x: Any, y: Any, out: Any) -> DeviceArray:
    for array in (x, y, out):
        if not isinstance(array, DeviceArray) or array.shape != x.shape or array.dtype != np.float32:
            raise TypeError(f"expected float32 arrays {x.shape} on the device, got {array!r}")
    call("add", x, y, x.size, out)
    result: DeviceArray = out
    return result


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> DeviceArray:
    """An array with undefined contents."""
    memory = _Memory(math.prod(shape) * np.dtype(dtype).itemsize)
    return DeviceArray(shape, dtype, memory.pointer, memory)


def zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> DeviceArray:
    """An array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def asarray(array: Any) -> DeviceArray:
    """The array on the device.

    Parameters
    ----------
    array : DeviceArray, an object with ``__cuda_array_interface__`` or with ``__dlpack__``, or what NumPy takes
        What lies on the device is wrapped, not copied, and kept alive; the rest is copied there.

    Raises
    ------
    ValueError
        An array on the device that is not C-contiguous.
    RuntimeError
        No CUDA build, or no device.
    """
    if isinstance(array, DeviceArray):
        return array
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
        strides = interface.get("strides")
        dlpack.check_order(shape, None if strides is None else [n // dtype.itemsize for n in strides])
        return DeviceArray(shape, dtype, interface["data"][0], array)
    if not isinstance(array, np.ndarray) and dlpack.on_device(array):
        return DeviceArray(*dlpack.from_capsule(array))
    host = np.asarray(array)
    result = empty(host.shape, host.dtype)
    result._assign(host)
    return result


class DeviceWorkspace(Workspace):
    """A :class:`regard.workspace.Workspace` on the device."""

    def __init__(self) -> None:
        self._used = self._wanted = self._size = 0
        self._memory: _Memory | None = None

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Any:
        step = -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        start = self._used
        self._wanted += step
        if self._memory is None or start + step > self._size:
            return empty(shape, dtype)
        self._used = start + step
        return DeviceArray(shape, dtype, self._memory.pointer + start, self._memory)

    def reset(self) -> None:
        if self._wanted > self._size:
            self._memory = None  # first: both need not fit
            self._size = self._wanted + self._wanted // 8
            self._memory = _Memory(self._size)
        self._used = self._wanted = 0


class _NewMemory(DeviceWorkspace):
    """Memory of its own for every array."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Any:
        return empty(shape, dtype)


NEW = _NewMemory()
