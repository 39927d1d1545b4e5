"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Write to a temporary name in the same folder, sync, rename: a reader sees the old file or the new one.

    Raises
    ------
    OSError
        The folder cannot be written, the disk is full: the file of that name stays as it was.
    """
    target = Path(path)
    temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
    try:
        try:
            for part in parts:
                _write_all(handle, part)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Temporary files of writes to this path that were killed. Only for a file that one process writes."""
    target = Path(path)
    for leftover in target.parent.glob(f"{_prefix(target)}*.tmp"):
        leftover.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _write_all(handle: int, data: bytes | memoryview) -> None:
    """`os.write` may write less than it is given: a part at a time, or what a full disk still takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
