"""The library of the CUDA build: found, loaded, called."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

_NAME = "libregard_cuda.so.0"
_ERRORS = {1: ValueError, 2: MemoryError}  # by regard_status


class Dropout(ctypes.Structure):
    """regard_dropout"""

    _fields_ = [("p", ctypes.c_double)] + [(name, ctypes.c_uint64) for name in ("seed", "step", "site")]


def _structure(name: str, fields: str) -> type[ctypes.Structure]:
    """A struct of C, by lines of a type and names: p (pointer), l (int64), i (int), f, d."""
    types = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float, "d": ctypes.c_double}
    rows = [line.split() for line in fields.strip().splitlines()]
    members = {"_fields_": [(name, types[row[0]]) for row in rows for name in row[1:]]}
    return type(name, (ctypes.Structure,), members)


# regard_attention_training of csrc/api/training.h, with the regard_attention that it begins with.
Attention = _structure(
    "Attention",
    """
    l struct_size
    p q k v cu_seqlens_q cu_seqlens_k
    l batch n_heads head_dim
    f softmax_scale
    i causal causal_align_start
    p bias
    l bias_len
    p out lse
    p dropout weights dout dq dk dv dbias
    p time_bias
    l n_buckets
    p times_q times_k dtime_bias
    """,
)
CrossEntropy = _structure(
    "CrossEntropy",
    """
    p h item_vectors targets row_weights
    l n n_items dim
    p lse
    d loss dloss
    i precision
    p dh ditem_vectors seen seen_offsets cu_seqlens
    l batch
    """,
)
TopK = _structure(
    "TopK",
    """
    l struct_size
    p h item_vectors
    l n n_items dim k
    p allow_offsets allow deny_offsets deny items scores quantized
    """,
)
LinearMap = _structure("LinearMap", "p weight bias y saved dy dweight dbias")
Linear = _structure(
    "Linear",
    """
    p x
    l n n_in n_out n_maps
    p maps
    i activation
    p dropout residual dx
    i add_to_dx
    """,
)


@functools.cache
def _loaded(path: str) -> tuple[ctypes.CDLL, str]:
    """The library, and the name of its device."""
    if not Path(path).is_file():
        raise RuntimeError(
            "device: expected 'cpu', as this build has no CUDA kernels, got 'cuda'; build with REGARD_CUDA=ON"
        )
    library = ctypes.CDLL(path)
    library.regard_cuda_last_error.restype = ctypes.c_char_p
    name = ctypes.create_string_buffer(256)
    if library.regard_cuda_device(name, ctypes.c_int64(len(name))) != 0:
        raise RuntimeError(
            "device: expected 'cpu', as there is no CUDA device that can be used, got 'cuda'; "
            f"CUDA says: {library.regard_cuda_last_error().decode()}"
        )
    return library, name.value.decode()


def _path() -> str:
    return os.environ.get("REGARD_CUDA_LIBRARY") or str(Path(__file__).parents[1] / _NAME)


def device_name() -> str:
    """The name of the device.

    Raises
    ------
    RuntimeError
        The build has no CUDA kernels, or there is no device that can be used; the message says which.
    """
    return _loaded(_path())[1]


def call(function: str, *arguments: Any) -> None:
    """``regard_cuda_FUNCTION(...)``: arrays as their pointers, int as int64, bool as int, float as double, structs by
    reference."""
    library, _ = _loaded(_path())
    status = getattr(library, f"regard_cuda_{function}")(*map(_as_c, arguments))
    if status != 0:
        raise _ERRORS.get(status, RuntimeError)(library.regard_cuda_last_error().decode())


def pointer(array: Any) -> int | None:
    """For a field of a struct."""
    return None if array is None else array.pointer


def _as_c(argument: Any) -> Any:
    if argument is None or isinstance(argument, ctypes._SimpleCData):
        return argument
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    if isinstance(argument, bool):
        return ctypes.c_int(argument)
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(argument.pointer)
