"""`regard.ops` on a CUDA device, called with NumPy arrays: what goes in is copied there, what comes out is copied back.

So the tests of the CPU kernels hold the CUDA kernels to the same references and the same rule. The device is a real one
where there is a CUDA build and a device; else `csrc/cuda` compiled with `cuda_shim`, where blocks and threads run on
the CPU.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from regard import cuda, ops
from regard.cuda import library

SOURCES = Path(__file__).parents[1] / "csrc"
SHIM = Path(__file__).parent / "cuda_shim"
CPP = shutil.which(os.environ.get("CXX", "g++"))
ORDERS = ["forward", "backward", "shuffled"]


def compile_shim(folder: Path) -> Path:
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"]
    flags += ["-fsanitize=bounds,shift,integer-divide-by-zero", "-fno-sanitize-recover"]
    result = folder / "libregard_cuda_shim.so"
    includes = [f"-I{path}" for path in (SOURCES, SOURCES / "include", SHIM)]
    subprocess.run([CPP, *flags, *includes, "-o", str(result), str(SHIM / "library.cpp")], check=True)
    return result


def devices() -> list[str]:
    """The name of the device of a CUDA build, if there are both."""
    try:
        return [cuda.device_name()]
    except RuntimeError:
        return []


def set_order(order: str) -> None:
    """In which order the shim runs threads and blocks."""
    _shim().shim_order(ORDERS.index(order))


def leave_out(barrier: str) -> None:
    """The barrier "file:line" that the shim skips, or "" for none."""
    _shim().shim_leave_out(barrier.encode())


def launches() -> int:
    """How many kernels have been launched in the shim."""
    count: int = _shim().shim_launches()
    return count


def _shim() -> ctypes.CDLL:
    return library._loaded(library._path())[0]


class Moved:
    """`ops` for NumPy arrays; floats always, and with ``integers`` also ids and offsets, go to the device."""

    def __init__(self, integers: bool = False) -> None:
        self.integers = integers

    def __getattr__(self, name: str) -> Any:
        function = getattr(ops, name)
        if isinstance(function, type):
            return function

        def moved(*arguments: Any, **options: Any) -> Any:
            there: list[tuple[np.ndarray, Any]] = []
            found = function(
                *(self._move(x, there) for x in arguments), **{n: self._move(x, there) for n, x in options.items()}
            )
            for host, device in there:
                if host.flags.writeable:
                    np.copyto(host, device.numpy())
            return _back(found, there)

        return moved

    def _move(self, value: Any, there: list[tuple[np.ndarray, Any]]) -> Any:
        if isinstance(value, list):
            return [self._move(x, there) for x in value]
        if isinstance(value, np.ndarray) and (self.integers or value.dtype.kind == "f"):
            there.append((value, cuda.asarray(value)))
            return there[-1][1]
        return value


def _back(value: Any, there: list[tuple[np.ndarray, Any]]) -> Any:
    if isinstance(value, cuda.DeviceArray):
        known = [host for host, device in there if device is value]
        return known[0] if known else value.numpy()
    if isinstance(value, tuple | list):
        return type(value)(_back(x, there) for x in value)
    return value
