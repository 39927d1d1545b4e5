"""A training run on disk, so that it can be stopped at any moment and go on with the same bits.

One safetensors file: the tensors of a run, and as metadata ``checkpoint`` JSON: what the run is (settings, steps,
data), where it stands, on what it was computed. That is all that decides the next step, since random numbers depend on
the seed and the number of the step or epoch alone.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from regard import _core, tensor_file, whole_file

if TYPE_CHECKING:
    from regard.tensor_file import Array

_VERSION = 1


class Checkpoint:
    """Where a run is kept, and how often.

    Parameters
    ----------
    path : path
        One run writes to it at a time.
    seconds : float
        Least time between two saves.
    data : str
        Fingerprint of the data that the run is trained and validated on.
    device : "cpu" (default) or "cuda"
        Where the run is computed.
    judged_by : dict
        What chooses the epoch, beside the data: a run that is judged otherwise is another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        seconds: float,
        data: str,
        device: str = "cpu",
        judged_by: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if not seconds >= 0:
            raise ValueError(f"checkpoint_seconds: expected at least 0, got {seconds}")
        self.path, self.seconds, self.data, self.device = Path(path), seconds, data, device
        self.judged_by = dict(judged_by)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint: no folder {self.path.parent}")
        whole_file.remove_leftovers(self.path)
        self.saved_at = time.perf_counter()

    def _computed_with(self) -> dict[str, str]:
        return _machine() | ({} if self.device == "cpu" else {"isa": self.device})

    def _whole(self, identity: dict[str, Any]) -> dict[str, Any]:
        """As it is read back: without NumPy, and no tuples."""
        whole = identity | {"data": self.data, "settings": identity["settings"] | self.judged_by}
        plain: dict[str, Any] = json.loads(json.dumps(whole, default=lambda value: value.item()))
        return plain

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() - self.saved_at >= self.seconds

    def save(self, tensors: Mapping[str, Array], progress: dict[str, Any], identity: dict[str, Any]) -> None:
        """Write where a run stands; the previous checkpoint stays until the new one is complete."""
        text = json.dumps(
            {
                "version": _VERSION,
                "identity": self._whole(identity),
                "computed_with": self._computed_with(),
                "progress": progress,
                "sha256": {name: tensor_file.digest(tensor) for name, tensor in tensors.items()},
            }
        )
        tensor_file.write(self.path, tensors, {"checkpoint": text})
        self.saved_at = time.perf_counter()

    def load(self, identity: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Tensors and progress as they were saved; None where there is no file.

        Raises
        ------
        ValueError
            The file is damaged, no checkpoint, or of a run with other settings or data: the message says what differs.

        Warns
        -----
        UserWarning
            It was computed by another version or instruction set: the bits will not be those of an uninterrupted run.
        """
        if not self.path.exists():
            return None
        metadata, tensors = tensor_file.read(self.path)
        try:
            header = json.loads(metadata["checkpoint"])
            version, theirs, machine = header["version"], header["identity"], header["computed_with"]
            progress, digests = header["progress"], header["sha256"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{self.path}: not a checkpoint of regard, or damaged") from None
        if version != _VERSION:
            raise ValueError(f"{self.path}: expected a checkpoint of version {_VERSION}, got {version!r}")
        if theirs != (ours := self._whole(identity)):
            raise ValueError(f"checkpoint: {self.path} is of another run: {_differences(ours, theirs)}")
        if {name: tensor_file.digest(tensor) for name, tensor in tensors.items()} != digests:
            raise ValueError(f"{self.path}: a tensor does not have the digest in the header: the file is damaged")
        if machine != (ours := self._computed_with()):
            warnings.warn(
                f"{self.path} was computed with {machine}, going on with {ours}: the result can differ in its last "
                "bits from that of a run without interruption",
                stacklevel=2,
            )
        return tensors, progress


def _machine() -> dict[str, str]:
    return {"version": _core.version(), "isa": _core.isa()}


def _differences(own: dict[str, Any], other: Any) -> str:
    """In words, for the user: what this run has and what the file has."""
    settings = other.get("settings") if isinstance(other, dict) else None
    if not isinstance(settings, dict):
        return "its header is damaged"
    names = sorted(own["settings"].keys() | settings.keys())
    changed = [
        f"{name} is {own['settings'].get(name)!r}, there {settings.get(name)!r}"
        for name in names
        if own["settings"].get(name) != settings.get(name)
    ]
    return "; ".join(changed) or ("the model differs" if own["data"] == other.get("data") else "the data differ")
