"""Named arrays in one safetensors file, written whole or not at all, read without executing anything.

The file is written here and not by the safetensors package, which copies every array first: a checkpoint of a large
catalogue would need twice the memory of the training. Whether a file is one, and hostile or not, is the package's to
say; the arrays are then the mapped file itself: read when they are looked at, and one copy for all processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}
_LINE = 64  # bytes of a cache line
_LARGEST_HEADER = 100_000_000  # what the safetensors package reads


def digest(tensor: Array) -> str:
    """SHA-256 (hex) of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write, whole or not at all; see `regard.whole_file.write`.

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
    # What fills whole cache lines first, so that it begins with one. Then the widest types, so that every array begins
    # at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % _LINE > 0, -tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        kind = _TYPES[tensor.dtype.newbyteorder("=").name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _LINE)  # after the 8 bytes of its length
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"{os.fspath(path)}: the header would have {len(text):,} bytes, at most {_LARGEST_HEADER:,}")

    def parts() -> Iterator[Any]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            yield np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data

    whole_file.write(path, parts())


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays of a file.

    Returns
    -------
    metadata : dict
    tensors : dict
        The file in memory, mapped: nothing is read before it is looked at. They may be written: what is written is the
        process's own, and the file stays as it is. Whoever changes the file itself, and does not put another in its
        place as `write` does, changes them too.

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
        with safe_open(name, framework="numpy") as checked:
            metadata = checked.metadata() or {}
        with Path(name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        begin = 8 + int.from_bytes(mapped[:8], "little")
        entries = json.loads(mapped[8:begin])
        entries.pop("__metadata__", None)
        return metadata, {key: _array(mapped, begin, entry) for key, entry in entries.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: truncated or damaged, or not a safetensors file ({error})") from None


def _array(mapped: mmap.mmap, begin: int, entry: dict[str, Any]) -> Array:
    """The bytes of an entry as an array; a copy where another program's file has them at an odd place."""
    kinds = [kind for kind, code in _TYPES.items() if code == entry["dtype"]]
    if not kinds:
        raise ValueError(f"expected arrays of {', '.join(_TYPES)}, got {entry['dtype']}")
    count = math.prod(entry["shape"])
    array = np.frombuffer(mapped, kinds[0], count, begin + entry["data_offsets"][0]).reshape(entry["shape"])
    return array if array.flags.aligned else array.copy()
