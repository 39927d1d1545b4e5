"""A training run on disk, so that it can be stopped at any moment and go on with the same bits.

One safetensors file: tensors ``params.NAME``, ``state.I.NAME`` (of the optimiser) and ``best.NAME``; metadata
``checkpoint`` is JSON: what the run is (settings, steps, data), where it stands, on what it was computed. It holds all
that decides the next step: random numbers depend on the seed and the number of the step or epoch alone.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import _core, tensor_file

if TYPE_CHECKING:
    from regard.train import Training

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
    """

    def __init__(self, path: str | os.PathLike[str], *, seconds: float, data: str) -> None:
        if not seconds >= 0:
            raise ValueError(f"checkpoint_seconds: expected at least 0, got {seconds}")
        self.path, self.seconds, self.data = Path(path), seconds, data
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint: no folder {self.path.parent}")
        tensor_file.remove_leftovers(self.path)
        self.saved_at = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() - self.saved_at >= self.seconds

    def save(self, run: Training) -> None:
        """Write the run; the previous checkpoint stays until the new one is complete."""
        tensors = {f"params.{name}": weight for name, weight in run.params.items()}
        tensors |= {f"state.{i}.{n}": part for n, parts in run.optimizer.state.items() for i, part in enumerate(parts)}
        tensors |= {f"best.{name}": weight for name, weight in (run.best or {}).items()}
        text = json.dumps(
            {
                "version": _VERSION,
                "identity": self._identity(run),
                "computed_with": _machine(),
                "progress": run.progress(),
                "sha256": {name: tensor_file.digest(tensor) for name, tensor in tensors.items()},
            }
        )
        tensor_file.write(self.path, tensors, {"checkpoint": text})
        self.saved_at = time.perf_counter()

    def restore(self, run: Training) -> None:
        """Bring a fresh run to where the file says; does nothing where there is no file.

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
            return
        metadata, tensors = tensor_file.read(self.path)
        try:
            header = json.loads(metadata["checkpoint"])
            version, identity, machine = header["version"], header["identity"], header["computed_with"]
            progress, digests = header["progress"], header["sha256"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{self.path}: not a checkpoint of regard, or damaged") from None
        if version != _VERSION:
            raise ValueError(f"{self.path}: expected a checkpoint of version {_VERSION}, got {version!r}")
        if identity != (own := self._identity(run)):
            raise ValueError(f"checkpoint: {self.path} is of another run: {_differences(own, identity)}")
        if {name: tensor_file.digest(tensor) for name, tensor in tensors.items()} != digests:
            raise ValueError(f"{self.path}: a tensor does not have the digest in the header: the file is damaged")
        if machine != _machine():
            warnings.warn(
                f"{self.path} was computed with {machine}, going on with {_machine()}: the result can differ in its "
                "last bits from that of a run without interruption",
                stacklevel=2,
            )
        for name, weight in run.params.items():
            np.copyto(weight, tensors[f"params.{name}"])
            for i, part in enumerate(run.optimizer.state[name]):
                np.copyto(part, tensors[f"state.{i}.{name}"])
        best = {name: tensors[key] for name in run.params if (key := f"best.{name}") in tensors}
        run.restore(progress, best or None)

    def _identity(self, run: Training) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads(
            json.dumps({"settings": asdict(run.settings), "steps": run.steps, "data": self.data})
        )
        return identity


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
