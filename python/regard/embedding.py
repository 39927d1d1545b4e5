"""Where a program in another language finds the C interface; see ``docs/embedding.md``."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_include", "get_library"]

_PACKAGE = Path(__file__).parent


def get_include() -> str:
    """The folder with ``regard.h``.

    Raises
    ------
    FileNotFoundError
        The package is used from a source tree, without being installed.
    """
    return str(_existing("include/regard.h").parent)


def get_library() -> str:
    """The path of the shared library.

    Raises
    ------
    FileNotFoundError
        As of `get_include`.
    """
    return str(_existing("libregard.so.0"))


def _existing(name: str) -> Path:
    path = _PACKAGE / name
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: it comes with an installed regard (pip install .)")
    return path
