"""Small tables in HTML, for notebooks and reports; everything that is shown is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(caption: str, rows: Iterable[Sequence[object]], header: Sequence[object] = ()) -> str:
    """A table; floats with four digits, other numbers with thousands separated."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(text(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><caption>{escape(caption)}</caption>{f'<thead><tr>{head}</tr></thead>' if head else ''}"
        f"<tbody>{body}</tbody></table>"
    )


def text(cell: object) -> str:
    """A cell of a table, not escaped yet."""
    if isinstance(cell, bool) or cell is None:
        return str(cell)
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
