"""Named arrays in one safetensors file, written whole or not at all, read without executing anything.

The file is written here and not by the safetensors package, which copies every array first: a checkpoint of a large
catalogue would need twice the memory of the training. Reading, where a file may be hostile, is the package's.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}
_LARGEST_HEADER = 100_000_000  # what the safetensors package reads


def digest(tensor: Array) -> str:
    """SHA-256 (hex) of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write to a temporary name in the same folder, sync, rename: a reader sees the old file or the new one.

    Parameters
    ----------
    path : path
    tensors : C-contiguous arrays of float32, float64, int32, int64 or uint8
    metadata : texts

    Raises
    ------
    OSError
        The folder cannot be written, the disk is full: the file of that name stays as it was.
    """
    # The widest types first, so that every array begins at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        kind = _TYPES[tensor.dtype.newbyteorder("=").name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"{os.fspath(path)}: the header would have {len(text):,} bytes, at most {_LARGEST_HEADER:,}")

    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=_prefix(target), suffix=".tmp", dir=target.parent)
    try:
        try:
            _write_all(handle, len(text).to_bytes(8, "little") + text)
            for name in names:
                _write_all(handle, np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays of a file.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or damaged, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        with safe_open(name, framework="numpy") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: truncated or damaged, or not a safetensors file ({error})") from None


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Temporary files of writes to this path that were killed. Only for a file that one process writes."""
    target = Path(path)
    for leftover in target.parent.glob(f"{_prefix(target)}*.tmp"):
        leftover.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _write_all(handle: int, data: Any) -> None:
    """`os.write` may write less than it is given: a part at a time, or what a full disk still takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
