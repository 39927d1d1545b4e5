"""The model file: safetensors, written whole or not at all, read without executing anything.

Metadata ``regard`` is JSON: ``format_version`` (major.minor), ``regard_version``, ``kind``, settings, the list of
steps, and ``sha256`` of every tensor; metadata ``sha256`` is that of this JSON. Tensors: the parameters; ``ids.items``
(int64, sorted) or ``ids.items.bytes`` and ``ids.items.offsets`` (UTF-8, sorted); ``ids.titles.*`` where titles are
known; ``popularity``; ``items.quantized``, the 8-bit copy of the item vectors that are scored, where the catalogue is
large; ``features.*`` where the model has item features, whose vocabulary is in the header; ``table.columns`` and
``table.offsets`` where weights between items are kept without the zeros. Ids are sorted, so a look-up is a binary
search in the mapped file: no index is stored and none is built. A blend has the headers of its members as ``members``
in its own, and their tensors as ``members.0.NAME`` and so on; all share its catalogue, and ``popularity`` where they
have none of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import _core, tensor_file
from regard.features import TENSORS, EncodedFeatures
from regard.ragged import Ragged
from regard.tensor_file import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMAT = (1, 0)
NN = "nn"  # kind of the files of regard.nn, which have tensors alone
QUANTIZED = "items.quantized"
_DEEPEST = 16  # of blends within blends
_ITEMS, _TITLES, POPULARITY = "ids.items", "ids.titles", "popularity"
TABLE = ("table.columns", "table.offsets")


@dataclass
class Content:
    """What a model file holds."""

    path: str
    header: dict[str, Any]
    params: dict[str, NDArray[np.float32]]
    item_ids: Array
    id_tensors: dict[str, Array]  # as `id_tensors` makes them
    titles: Texts | None
    popularity: NDArray[np.int64]
    features: EncodedFeatures | None
    quantized: NDArray[np.uint8] | None
    columns: Ragged | None
    members: list[Content]


@dataclass
class Texts:
    """Texts as the file has them: UTF-8, text i from offsets[i] to offsets[i + 1]."""

    where: str  # for messages
    bytes: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def decoded(self) -> Array:
        """As NumPy has them; ValueError where they are not UTF-8."""
        n, width = len(self), max(1, int(np.diff(self.offsets).max(initial=1)))
        if self.bytes.max(initial=0) < 128:  # ASCII: all at once
            cells = np.zeros((n, width), np.uint8)
            cells[np.arange(width) < np.diff(self.offsets)[:, None]] = self.bytes
            return cells.astype(np.uint32).view(f"U{width}").ravel()
        raw, ends = self.bytes.tobytes(), self.offsets.tolist()
        try:
            return np.array([raw[ends[i] : ends[i + 1]].decode() for i in range(n)], dtype=np.str_)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where}: not UTF-8 ({error}): the file is damaged") from None


def write(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    tensors: dict[str, Array],
    *,
    item_ids: Array,
    titles: Array | None,
    popularity: NDArray[np.int64],
) -> None:
    """Write a model and its catalogue, whole or not at all; see `regard.tensor_file.write`."""
    catalogue = id_tensors(item_ids) | {POPULARITY: popularity}
    if titles is not None:
        catalogue |= _pack_strings(_TITLES, titles)
    write_tensors(path, header, tensors | catalogue)


def write_tensors(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Write any tensors under this header, with versions and digests; see `regard.tensor_file.write`."""
    digests = {name: digest(tensor) for name, tensor in tensors.items()}
    versions = {"format_version": f"{FORMAT[0]}.{FORMAT[1]}", "regard_version": _core.version()}
    text = json.dumps({**versions, **header, "sha256": digests})
    tensor_file.write(path, tensors, {"regard": text, "sha256": _text_digest(text)})


def read(path: str | os.PathLike[str], *, verify: bool = False) -> Content:
    """Open and check a model file.

    Parameters
    ----------
    path : path
    verify : bool, default False
        Also read all of it: compare the SHA-256 of every tensor, and refuse item vectors that are not finite.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or damaged, not a regard model, or of a newer major format: the message says which.
    """
    name = os.fspath(path)
    header, tensors = read_tensors(name, verify=verify)
    if header["kind"] == NN:
        raise ValueError(f"{name}: a model of regard.nn: use regard.nn.load_model")
    packed = {key: tensor for key, tensor in tensors.items() if key.startswith(_ITEMS)}
    item_ids = _take_ids(name, tensors)
    titles = _take_texts(name, _TITLES, tensors) if f"{_TITLES}.bytes" in tensors else None
    counts = np.empty(0, np.int64)  # those of the file are taken with the rest
    if POPULARITY not in tensors or (titles is not None and len(titles) != len(item_ids)):
        raise ValueError(f"{name}: popularity and titles: expected {len(item_ids)} entries, one for each item")
    return _content(Content(name, header, tensors, item_ids, packed, titles, counts, None, None, None, []), verify)


def _content(content: Content, verify: bool, depth: int = 0) -> Content:
    """The parameters sorted out from what else there is beside the catalogue, and checked."""
    name, header, tensors = content.path, content.header, content.params
    if POPULARITY in tensors:
        content.popularity = _take(name, POPULARITY, tensors, np.int64)
        if len(content.popularity) != len(content.item_ids):
            raise ValueError(f"{name}: popularity: expected {len(content.item_ids)} entries, one for each item")
    members = header.get("members", [])
    if not isinstance(members, list):
        raise ValueError(f"{name}: the header is damaged (members: expected a list)")
    if depth > _DEEPEST:
        raise ValueError(f"{name}: the header is damaged (members: expected a list, at most {_DEEPEST} deep)")
    for i, member in enumerate(members):
        prefix = member_prefix(i)
        own: dict[str, Any] = {key[len(prefix) :]: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        _check_entries(name, member)
        content.members.append(_content(replace(content, header=member, params=own, members=[]), verify, depth + 1))
    quantized = tensors.pop(QUANTIZED, None)
    if quantized is not None and quantized.dtype != np.uint8:
        raise ValueError(f"{name}: tensor {QUANTIZED!r}: expected uint8, got {quantized.dtype}")
    content.quantized = quantized  # type: ignore[assignment]
    if "features" in header:
        found = {key: tensors.pop(key) for key in TENSORS if key in tensors}
        content.features = EncodedFeatures.from_tensors(name, header["features"], found, len(content.item_ids))
    if TABLE[0] in tensors:
        try:
            content.columns = Ragged(_take(name, TABLE[0], tensors, np.int32), _take(name, TABLE[1], tensors, np.int64))
        except ValueError as error:
            raise ValueError(f"{name}: {TABLE[0]}: {error}: the file is damaged") from None
    for key, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ValueError(f"{name}: tensor {key!r}: expected float32, got {tensor.dtype}")
        if (verify or tensor.shape[:1] != content.item_ids.shape) and not np.isfinite(tensor).all():
            raise ValueError(f"{name}: tensor {key!r} has values that are not finite: the file is damaged")
    return content


def member_prefix(i: int) -> str:
    """Of the names of the tensors of a blend's member."""
    return f"members.{i}."


def id_tensors(item_ids: Array) -> dict[str, Array]:
    """The tensors that item ids are kept in."""
    return _pack_strings(_ITEMS, item_ids) if item_ids.dtype.kind == "U" else {_ITEMS: item_ids}


def read_tensors(path: str | os.PathLike[str], *, verify: bool = False) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and tensors of any file of `write_tensors`; errors as of `read`."""
    name = os.fspath(path)
    metadata, tensors = tensor_file.read(name)
    header = _header(name, metadata)
    if verify:
        for key, tensor in tensors.items():
            if header["sha256"].get(key) != digest(tensor):
                raise ValueError(f"{name}: tensor {key!r} does not have the digest in the header: the file is damaged")
    return header, tensors


def check_shapes(content: Content, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse a file whose parameters are not exactly those of its settings."""
    for name in expected.keys() ^ content.params.keys():
        raise ValueError(f"{content.path}: tensor {name!r} is {'missing' if name in expected else 'not of this model'}")
    for name, shape in expected.items():
        if content.params[name].shape != shape:
            raise ValueError(f"{content.path}: {name}: expected shape {shape}, got {content.params[name].shape}")


def _header(path: str, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        text = metadata["regard"]
        header = json.loads(text)
        major, _ = (int(part) for part in header["format_version"].split("."))
    except KeyError:
        raise ValueError(f"{path}: not a regard model: a safetensors file without a `regard` entry") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the header is damaged ({error})") from None
    if major > FORMAT[0]:
        raise ValueError(
            f"{path}: format {header['format_version']}, written by regard {header.get('regard_version')}; "
            f"this version reads up to {FORMAT[0]}.x: a newer regard is needed"
        )
    if metadata.get("sha256") != _text_digest(text):
        raise ValueError(f"{path}: the header does not have the digest beside it: the file is damaged")
    _check_entries(path, header, sha256=dict)
    return header  # type: ignore[no-any-return]


def _check_entries(path: str, header: Any, **more: type) -> None:
    for key, kind in {"kind": str, "settings": dict, "steps": list, **more}.items():
        if not isinstance(header, dict) or not isinstance(header.get(key), kind):
            raise ValueError(f"{path}: the header is damaged ({key}: expected a {kind.__name__})")


def _take(path: str, name: str, tensors: dict[str, Array], kind: type) -> Array:
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.ndim != 1 or tensor.dtype != kind:
        found = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
        raise ValueError(f"{path}: tensor {name!r}: expected a row of {np.dtype(kind)}, got {found}")
    return tensor


def _take_ids(path: str, tensors: dict[str, Array]) -> Array:
    number = _ITEMS in tensors
    ids = _take(path, _ITEMS, tensors, np.int64) if number else _take_texts(path, _ITEMS, tensors).decoded()
    if len(ids) == 0 or (ids[1:] <= ids[:-1]).any():
        raise ValueError(f"{path}: item ids: expected at least one, sorted, without repeats: the file is damaged")
    return ids


def _pack_strings(name: str, strings: Array) -> dict[str, Array]:
    parts = [text.encode() for text in strings.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return {f"{name}.bytes": np.frombuffer(b"".join(parts), np.uint8), f"{name}.offsets": offsets}


def _take_texts(path: str, name: str, tensors: dict[str, Array]) -> Texts:
    raw = _take(path, f"{name}.bytes", tensors, np.uint8)
    offsets = _take(path, f"{name}.offsets", tensors, np.int64)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(raw) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{path}: {name}: offsets do not fit the text: the file is damaged")
    return Texts(f"{path}: {name}", raw, offsets)


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
