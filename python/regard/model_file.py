"""The model file: safetensors, written whole or not at all, read without executing anything.

Metadata ``regard`` is JSON: ``format_version`` (major.minor), ``regard_version``, ``kind``, settings, the list of
steps, and ``sha256`` of every tensor. Tensors: the parameters; ``ids.items`` (int64, sorted) or ``ids.items.bytes`` and
``ids.items.offsets`` (UTF-8, sorted); ``ids.titles.*`` where titles are known; ``popularity``. Ids are sorted, so a
look-up is a binary search in the mapped file: no index is stored and none is built.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMAT = (1, 0)
_ITEMS, _TITLES, _POPULARITY = "ids.items", "ids.titles", "popularity"


@dataclass
class Content:
    """What a model file holds."""

    path: str
    header: dict[str, Any]
    params: dict[str, NDArray[np.float32]]
    item_ids: Array
    titles: Array | None
    popularity: NDArray[np.int64]


def write(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    *,
    params: dict[str, NDArray[np.float32]],
    item_ids: Array,
    titles: Array | None,
    popularity: NDArray[np.int64],
) -> None:
    """Write to a temporary name in the same folder, sync, rename: a reader sees the old file or the new one."""
    from safetensors.numpy import save_file  # noqa: PLC0415

    tensors: dict[str, Array] = {name: np.ascontiguousarray(weight) for name, weight in params.items()}
    tensors |= _pack_strings(_ITEMS, item_ids) if item_ids.dtype.kind == "U" else {_ITEMS: item_ids}
    if titles is not None:
        tensors |= _pack_strings(_TITLES, titles)
    tensors[_POPULARITY] = popularity
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    versions = {"format_version": f"{FORMAT[0]}.{FORMAT[1]}", "regard_version": _core.version()}
    text = json.dumps({**versions, **header, "sha256": digests})

    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, {"regard": text})
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(target.parent)


def read(path: str | os.PathLike[str], *, verify: bool = False) -> Content:
    """Open and check a model file.

    Parameters
    ----------
    path : path
    verify : bool, default False
        Also compare the SHA-256 of every tensor.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or damaged, not a regard model, or of a newer major format: the message says which.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name}: no such model file")
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: truncated or damaged, or not a safetensors file ({error})") from None
    header = _header(name, metadata)
    if verify:
        for key, tensor in tensors.items():
            if header["sha256"].get(key) != _digest(tensor):
                raise ValueError(f"{name}: tensor {key!r} does not have the digest in the header: the file is damaged")
    item_ids = _take_ids(name, _ITEMS, tensors)
    titles = _take_strings(name, _TITLES, tensors) if f"{_TITLES}.bytes" in tensors else None
    popularity = _take(name, _POPULARITY, tensors, np.int64)
    if len(popularity) != len(item_ids) or (titles is not None and len(titles) != len(item_ids)):
        raise ValueError(f"{name}: popularity and titles: expected {len(item_ids)} entries, one for each item")
    for key, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ValueError(f"{name}: tensor {key!r}: expected float32, got {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name}: tensor {key!r} has values that are not finite: the file is damaged")
    return Content(name, header, tensors, item_ids, titles, popularity)


def check_shapes(content: Content, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse a file whose parameters are not exactly those of its settings."""
    for name in expected.keys() ^ content.params.keys():
        raise ValueError(f"{content.path}: tensor {name!r} is {'missing' if name in expected else 'not of this model'}")
    for name, shape in expected.items():
        if content.params[name].shape != shape:
            raise ValueError(f"{content.path}: {name}: expected shape {shape}, got {content.params[name].shape}")


def _header(path: str, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata["regard"])
        major, _ = (int(part) for part in header["format_version"].split("."))
    except KeyError:
        raise ValueError(f"{path}: not a regard model: a safetensors file without a `regard` entry") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the header is damaged ({error})") from None
    if major > FORMAT[0]:
        raise ValueError(
            f"{path}: format {header['format_version']}, written by regard {header.get('regard_version')}; "
            f"this version reads up to {FORMAT[0]}.x: a newer regard is needed"
        )
    for key, kind in {"kind": str, "settings": dict, "steps": list, "sha256": dict}.items():
        if not isinstance(header.get(key), kind):
            raise ValueError(f"{path}: the header is damaged ({key}: expected a {kind.__name__})")
    return header  # type: ignore[no-any-return]


def _take(path: str, name: str, tensors: dict[str, Array], kind: type) -> Array:
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.ndim != 1 or tensor.dtype != kind:
        found = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
        raise ValueError(f"{path}: tensor {name!r}: expected a row of {np.dtype(kind)}, got {found}")
    return tensor


def _take_ids(path: str, name: str, tensors: dict[str, Array]) -> Array:
    ids = _take(path, name, tensors, np.int64) if name in tensors else _take_strings(path, name, tensors)
    if len(ids) == 0 or (ids[1:] <= ids[:-1]).any():
        raise ValueError(f"{path}: item ids: expected at least one, sorted, without repeats: the file is damaged")
    return ids


def _pack_strings(name: str, strings: Array) -> dict[str, Array]:
    parts = [text.encode() for text in strings.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return {f"{name}.bytes": np.frombuffer(b"".join(parts), np.uint8), f"{name}.offsets": offsets}


def _take_strings(path: str, name: str, tensors: dict[str, Array]) -> Array:
    raw = _take(path, f"{name}.bytes", tensors, np.uint8).tobytes()
    offsets = _take(path, f"{name}.offsets", tensors, np.int64)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(raw) or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path}: {name}: offsets do not fit the text: the file is damaged")
    ends = offsets.tolist()
    try:
        return np.array([raw[a:b].decode() for a, b in itertools.pairwise(ends)], dtype=np.str_)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {name}: not UTF-8 ({error}): the file is damaged") from None


def _digest(tensor: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def _sync(path: str | os.PathLike[str]) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
