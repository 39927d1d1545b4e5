"""Data frames of any library, in and out.

narwhals (extra ``frames``) reads pandas, Polars, pyarrow and more in one way. Without it, whatever has ``columns`` and
``frame[name]`` is still read, column by column through NumPy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tables import Column, flat

__all__ = ["LIBRARIES", "frame_columns", "is_frame", "library_of", "make_frame"]

LIBRARIES = {"polars": "DataFrame", "pandas": "DataFrame", "pyarrow": "table"}  # and what makes a frame of a dictionary


def is_frame(value: Any) -> bool:
    """Whether the value has columns; the class is looked at first, as a LazyFrame warns when its columns are read."""
    return hasattr(type(value), "columns") or hasattr(value, "columns")


def library_of(frame: Any) -> str | None:
    """Which of `LIBRARIES` a frame belongs to, None for another."""
    roots = {base.__module__.partition(".")[0] for base in type(frame).__mro__}
    return next((name for name in LIBRARIES if name in roots), None)


def frame_columns(frame: Any, choose: Callable[[list[str]], Mapping[str, str]]) -> dict[str, NDArray[Any] | Column]:
    """The columns of a frame that are needed, and no others.

    Parameters
    ----------
    frame : data frame, also a lazy one
    choose : function from the names of all columns to {our name: name in the frame}

    Raises
    ------
    ImportError
        A lazy frame or an Arrow table without narwhals.
    """
    if library_of(frame) == "pandas" and not all(isinstance(name, str) for name in frame.columns):
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)  # narwhals finds columns by text alone
    opened = _open(frame)
    names = {str(name): name for name in (frame.columns if opened is None else opened.collect_schema().names())}
    chosen = {ours: names[theirs] for ours, theirs in choose(list(names)).items()}
    if opened is None:
        return {ours: flat(ours, np.asarray(frame[theirs])) for ours, theirs in chosen.items()}
    opened = opened.select(*chosen.values())
    opened = opened.collect() if hasattr(opened, "collect") else opened
    return {ours: _column(ours, opened[theirs]) for ours, theirs in chosen.items()}


def _open(frame: Any) -> Any:
    """The frame as narwhals sees it; None for one that it does not know, or without narwhals."""
    try:
        import narwhals.stable.v1 as narwhals  # noqa: PLC0415
    except ImportError:
        if library_of(frame) == "pyarrow" or hasattr(type(frame), "collect"):
            kind = f"{library_of(frame)} {type(frame).__name__}"
            raise ImportError(f"reading a {kind} needs narwhals: pip install 'regard[frames]'") from None
        return None
    opened = narwhals.from_native(frame, pass_through=True)
    return None if opened is frame else opened


def _column(name: str, series: Any) -> NDArray[Any] | Column:
    """A series without an object for each cell, where its type allows it."""
    import narwhals.stable.v1 as narwhals  # noqa: PLC0415

    dtype = series.dtype
    if dtype in (narwhals.Categorical, narwhals.Enum) and series.cat.get_categories().dtype == narwhals.String:
        series, dtype = series.cast(narwhals.String), narwhals.String
    if dtype == narwhals.String:
        words = sorted(series.drop_nulls().unique().to_list())
        missing = series.is_null().to_numpy()
        if not words:
            return Column(np.zeros(len(missing), np.int32), missing, [""])
        places = series.replace_strict(words, list(range(len(words))), return_dtype=narwhals.Int32)
        return Column(places.fill_null(0).to_numpy().astype(np.int32, copy=False), missing, words)
    if dtype.is_integer() and series.null_count():
        return Column(series.fill_null(0).to_numpy(), series.is_null().to_numpy())
    if dtype == narwhals.Datetime and getattr(dtype, "time_zone", None) is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return flat(name, series.to_numpy())


def make_frame(columns: Mapping[str, NDArray[Any]], library: str | None) -> Any:
    """A frame of the columns, in the given library or, for None, in the first of `LIBRARIES` that is installed.

    Raises
    ------
    ValueError
        Another library.
    ModuleNotFoundError
        The library is missing.
    """
    if library is not None and library not in LIBRARIES:
        raise ValueError(f"library: expected one of {', '.join(LIBRARIES)}, got {library!r}")
    for name in LIBRARIES if library is None else (library,):
        try:
            return getattr(importlib.import_module(name), LIBRARIES[name])(dict(columns))
        except ModuleNotFoundError:
            continue
    wanted = library or "polars, pandas or pyarrow"
    raise ModuleNotFoundError(f"to_frame needs {wanted}: pip install {library or 'polars'}")
