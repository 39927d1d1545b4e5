"""The model that serves, and how another takes its place without a request noticing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import regard
from regard.ids import as_ids, rows_of
from regard.sequence_model import SequenceModel
from regard.sessions import Sessions

from .messages import ItemId, ModelCard
from .problems import bad

if TYPE_CHECKING:
    from collections.abc import Callable

    from regard.ragged import Ragged

_INT64 = 2**63


class Loaded:
    """One version of the model with what belongs to it; never changed, replaced as a whole.

    Parameters
    ----------
    path : of a saved model
    verify : whether to compare the digest of every tensor
    n_sessions : how many users' sessions are kept

    Raises
    ------
    ValueError, OSError
        The file is no model, is damaged, or was replaced while it was read.
    """

    def __init__(self, path: Path, *, verify: bool, n_sessions: int) -> None:
        before = stamp(path)
        self.model: Any = regard.load(path, verify=verify)
        digest = _header_digest(path)
        if stamp(path) != before:
            raise ValueError("the file was replaced while it was read")
        model = self.model
        self.sessions = Sessions(model, n_sessions) if isinstance(model, SequenceModel) else None
        self.id_type: type = int if model.item_ids_.dtype.kind == "i" else str
        self.times = bool(getattr(model, "time_bias", False))
        self.explains = hasattr(model, "explain") and not self.times
        self.categories = _categories(model)
        self.card = ModelCard(
            version=digest,
            kind=type(model).__name__,
            n_items=len(model.item_ids_),
            item_ids="int64" if self.id_type is int else "str",
            caps=sorted(self.categories),
            loaded_at=time.time(),
            regard_version=regard.__version__,
            max_len=getattr(model, "max_len", None),
        )
        self._probe()

    def _probe(self) -> None:
        """One answer before the first request: it must be one, and what is made at the first use is made."""
        past: Any
        if self.times:
            past = regard.TimedHistories.from_lists([self.model.item_ids_[:1]], times=[[0]])
        else:
            past = [self.model.item_ids_[:1]]
        if not np.isfinite(self.model.recommend(past, 1, exclude_seen=False).scores).all():
            raise ValueError("the model answers with scores that are not finite")

    @property
    def version(self) -> str:
        return self.card.version

    def check_ids(self, name: str, ids: list[ItemId] | None) -> None:
        """Refuse ids of another type than the catalogue's."""
        if not ids:
            return
        kinds = set(map(type, ids))
        if kinds != {self.id_type}:
            expected = "whole numbers" if self.id_type is int else "strings"
            got = " and ".join(sorted("whole numbers" if kind is int else "strings" for kind in kinds))
            raise bad(f"{name}: expected {expected}, as the item ids of this model are, got {got}")
        if self.id_type is int and not (min(ids) >= -_INT64 and max(ids) < _INT64):  # type: ignore[operator]
            raise bad(f"{name}: an item id is beyond the range of int64")

    def of_type(self, ids: list[ItemId], times: list[float]) -> tuple[list[ItemId], list[float]]:
        """Without the ids of another type, which were kept when a model with such ids served."""
        fits = [type(item) is self.id_type for item in ids]
        return list(compress(ids, fits)), list(compress(times, fits))

    def id_of(self, name: str, word: str) -> ItemId:
        """An id that is written as the key of a JSON object."""
        if self.id_type is str:
            return word
        try:
            number = int(word)
        except ValueError:
            number = None
        if number is None or str(number) != word:  # "0101" would be another way to write 101
            raise bad(f"{name}: expected whole numbers, as the item ids of this model are, got {word!r}")
        return number

    def n_unknown(self, ids: list[ItemId]) -> int:
        """How many of the ids the model does not know."""
        own = self.model.item_ids_
        return int((rows_of(as_ids("items", ids, own, known=True), own) < 0).sum())


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when the file is replaced."""
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _header_digest(path: Path) -> str:
    """Of the header, which holds the digests of all tensors."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return hashlib.sha256(file.read(length)).hexdigest()[:12]


def _categories(model: Any) -> dict[str, Ragged]:
    """For each category of the item features: the values of each item, as numbers."""
    features = getattr(model, "features_", None)
    if features is None:
        return {}
    found, start = {}, 0
    for name, values in features.how["categories"].items():
        inside = (features.entries.values >= start) & (features.entries.values < start + len(values))
        ends = np.concatenate([[0], np.cumsum(inside)])[features.entries.offsets]
        found[name] = regard.Ragged(features.entries.values[inside], ends)
        start += len(values)
    return found


class LiveModel:
    """Holds the version that serves, and replaces it.

    Parameters
    ----------
    path : of a saved model. A new version is written beside it and renamed, as `save` does.
    n_sessions : how many users' sessions are kept
    changed : called with each version that begins to serve
    failed : called with the reason why a file was not taken; the version before it goes on serving
    fallback : serves where the file cannot be used when this is made; without it that is an error
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_sessions: int,
        changed: Callable[[Loaded], object],
        failed: Callable[[str], object],
        fallback: Loaded | None = None,
    ) -> None:
        self._path, self._n_sessions = Path(path), n_sessions
        self._changed, self._failed = changed, failed
        self._stamp: tuple[int, int, int] | None = None
        self._loading = asyncio.Lock()
        try:
            self._stamp = stamp(self._path)
            self.current = Loaded(self._path, verify=False, n_sessions=n_sessions)
        except (OSError, ValueError) as error:
            if fallback is None:
                raise
            self.current = fallback
            failed(f"{type(error).__name__}: {error}")
        changed(self.current)

    async def look(self) -> None:
        """Take the file if it is another one than at the last look."""
        try:
            found = stamp(self._path)
        except OSError:
            return  # removed: what serves is in memory
        if found != self._stamp:
            await self.reload()

    async def reload(self) -> None:
        """Load beside what serves, check, then switch."""
        async with self._loading:
            try:
                self._stamp = stamp(self._path)
                loaded = await asyncio.to_thread(self._load)
            except Exception as error:  # whatever is wrong with a file, the service goes on
                self._failed(f"{type(error).__name__}: {error}")
                return
            if loaded.version != self.current.version:
                self.current = loaded
                self._changed(loaded)

    def _load(self) -> Loaded:
        return Loaded(self._path, verify=True, n_sessions=self._n_sessions)
