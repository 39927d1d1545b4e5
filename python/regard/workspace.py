"""Memory for the arrays of one training step.

A step needs the same arrays every time; asking the system for them anew costs more than some of the arithmetic (fresh
pages must be cleared). A :class:`Workspace` hands out pieces of one block and takes them all back at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64


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
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        step = -(-size // _ALIGNMENT) * _ALIGNMENT
        self._wanted += step
        if self._used + step > len(self._block):  # does not fit this time: plain memory now, a larger block next time
            return np.empty(shape, kind)
        piece = self._block[self._used : self._used + size]
        self._used += step
        return piece.view(kind).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def reset(self) -> None:
        """Take everything back. Arrays handed out before must not be used any more."""
        if self._wanted > len(self._block):
            block = np.empty(self._wanted + self._wanted // 8 + _ALIGNMENT, np.uint8)
            self._block = block[-block.ctypes.data % _ALIGNMENT :]
        self._used = self._wanted = 0


class _NewMemory(Workspace):
    """Always plain NumPy memory: the default of functions that take a workspace."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        return np.empty(shape, dtype)


NEW: Workspace = _NewMemory()
