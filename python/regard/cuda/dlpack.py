"""DLPack, the exchange of arrays between libraries: capsules made and read with ctypes.

The layout is that of https://dmlc.github.io/dlpack, version 0 of the structs, which every library reads.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

CUDA = 2  # kDLCUDA
_KINDS = {"i": 0, "u": 1, "f": 2}
_NAME, _USED = b"dltensor", b"used_dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", _api))
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_get_dying = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))

_lent: dict[int, Any] = {}  # what others may still read, by the address of its struct


def _take_back(address: int) -> None:
    _lent.pop(address, None)


def _take_back_unread(capsule: int) -> None:
    if _valid(capsule, _NAME):  # nobody took it
        _take_back(_get_dying(capsule, _NAME))


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_take_back)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_take_back_unread)


def to_capsule(array: Any) -> Any:
    """A capsule that keeps the array alive until whoever takes it has done with it."""
    shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
    tensor = _Tensor(data=array.pointer, device_type=CUDA, device_id=0, ndim=array.ndim)
    tensor.code, tensor.bits, tensor.lanes = _KINDS[array.dtype.kind], array.dtype.itemsize * 8, 1
    tensor.shape, tensor.strides = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None
    tensor.deleter = ctypes.cast(_deleter, ctypes.c_void_p)
    address = ctypes.addressof(tensor)
    _lent[address] = tensor, shape, array
    return _new(address, _NAME, ctypes.cast(_destructor, ctypes.c_void_p))


def on_device(array: Any) -> bool:
    """Whether it can be exchanged and lies on a CUDA device."""
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) == CUDA


class _Borrowed:
    """What another library lent; gives it back when it is no longer used."""

    def __init__(self, tensor: _Tensor) -> None:
        if tensor.deleter:
            give_back = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(tensor.deleter)
            weakref.finalize(self, give_back, ctypes.addressof(tensor)).atexit = False


def from_capsule(array: Any) -> tuple[tuple[int, ...], np.dtype[Any], int, object]:
    """Shape, type, address, and what keeps it alive."""
    capsule = array.__dlpack__()
    tensor = _Tensor.from_address(_get(capsule, _NAME))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    check_order(shape, [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None)
    kinds = {code: kind for kind, code in _KINDS.items()}
    if tensor.code not in kinds or tensor.lanes != 1:
        raise TypeError(f"array: expected integers or floats, got DLPack's type {tensor.code}")
    dtype = np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}")
    address = (tensor.data or 0) + tensor.byte_offset
    _rename(capsule, _USED)
    return shape, dtype, address, _Borrowed(tensor)


def check_order(shape: tuple[int, ...], strides: list[int] | None) -> None:
    """ValueError unless the strides, in elements, are those of a C-contiguous array."""
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides or []), strict=bool(strides)):
        if n != 1 and stride != expected:
            raise ValueError(f"array: expected a C-contiguous array, got shape {shape} with strides {strides}")
        expected *= n
