"""Memory for the arrays of one training step.

A step needs the same arrays every time; asking the system for them anew costs more than some of the arithmetic (fresh
pages must be cleared). A :class:`Workspace` hands out pieces of one block and takes them all back at once.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20


class Workspace:
    """An arena. Arrays from it are valid until the next :meth:`reset`; it grows to the largest step and stays so.

    Examples
    --------
    >>> ws = Workspace()
    >>> ws.zeros((2, 3)).shape
    (2, 3)
    >>> ws.reset()
    """

    def __init__(self) -> None:
        self._block: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0
        self._wanted = 0

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array with undefined contents."""
        step = -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        start = self._used
        self._wanted += step
        if start + step > len(self._block):  # does not fit this time: plain memory now, a larger block next time
            return np.empty(shape, dtype)
        self._used = start + step
        return np.ndarray(shape, dtype, self._block, start)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def reset(self) -> None:
        """Take everything back. Arrays handed out before must not be used any more."""
        if self._wanted > len(self._block):
            self._block = np.empty(0, np.uint8)  # first: the old and the new one need not fit in memory together
            self._block = aligned(self._wanted + self._wanted // 8)
        self._used = self._wanted = 0


def aligned(size: int) -> NDArray[np.uint8]:
    """At least ``size`` bytes, undefined, from an address that is a multiple of 64 on.

    Where the system has huge pages a large block is made of these: few are then cleared and found, not many.
    """
    unit = _HUGE_PAGE if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE") else _ALIGNMENT
    size = -(-size // unit) * unit
    if unit == _HUGE_PAGE:
        memory = mmap.mmap(-1, size + unit, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        block = np.frombuffer(memory, np.uint8)
    else:
        block = np.empty(size + unit, np.uint8)
    start = -block.ctypes.data % unit
    return block[start : start + size]


def beside(arrays: Mapping[str, Any]) -> Workspace:
    """A new workspace where these arrays lie: in the memory of the host, or of a device."""
    core = getattr(next(iter(arrays.values())), "core", None)
    workspace: Workspace = Workspace() if core is None else core.Workspace()
    return workspace


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.workspace = Workspace()


_per_thread = _PerThread()


def of_this_thread() -> Workspace:
    """The calling thread's own, kept from call to call: for work that ends before anything else may ask for it."""
    return _per_thread.workspace


class _NewMemory(Workspace):
    """Always plain NumPy memory: the default of functions that take a workspace."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        return np.empty(shape, dtype)


NEW: Workspace = _NewMemory()
