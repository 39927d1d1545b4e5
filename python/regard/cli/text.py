"""Tables and JSON on standard output."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_json(content: Mapping[str, Any]) -> None:
    """One object, indented; not a number and infinity become null, so that any reader takes it."""
    print(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(rows: Iterable[Sequence[object]], *, indent: int = 0) -> None:
    """Columns as wide as they need to be: numbers to the right, text to the left. The first row is the header."""
    table = [list(row) for row in rows]
    right = [all(isinstance(row[i], int | float) for row in table[1:]) for i in range(len(table[0]))]
    cells = [[_cell(value) for value in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table[0]))]
    for row in cells:
        aligned = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        )
        print((" " * indent + "  ".join(aligned)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
