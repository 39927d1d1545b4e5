"""docs/performance.md: its tables and pictures."""

from __future__ import annotations

from typing import Any


def write(results: dict[str, Any]) -> None:
    raise NotImplementedError
