"""Columns of ids, times and weights, from arrays and from text files, with what is wrong in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLUMNS = ("user_id", "item_id", "datetime", "weight")
# Other spellings that are understood, compared in lower case and without "_", "-" and blanks. Ratings are no weights.
ALIASES = {
    "user_id": ("userid", "user", "uid"),
    "item_id": ("itemid", "item", "iid", "movieid", "movie", "productid", "product"),
    "datetime": ("datetime", "timestamp", "time", "date"),
    "weight": ("weight",),
}
EXAMPLES = 3  # bad rows shown for each reason


@dataclass(frozen=True)
class BadRows:
    """Rows left out for one reason: how many, and the first of them as (row number, content)."""

    reason: str
    count: int
    examples: tuple[tuple[int, str], ...]


@dataclass(frozen=True, eq=False)
class Column:
    """A column of whole numbers, or of words written as their places in a list; with what is missing.

    Attributes
    ----------
    values : (n,) integers
        Numbers, or places in `words`; anything where missing.
    missing : (n,) bool
    words : list of str, sorted, unique, at least one; or None for a column of numbers
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    words: list[str] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        """The cell at an integer, None if it is missing; the column of a mask."""
        if isinstance(place, np.ndarray):
            return Column(self.values[place], self.missing[place], self.words)
        value = self.values[place]
        return None if self.missing[place] else value if self.words is None else self.words[value]


# ---- columns: each parser returns (values, which are bad) ------------------------------------------------------------


def objects(values: Iterable[Any]) -> NDArray[Any]:
    """A 1-D object array, also of values that are sequences themselves."""
    cells = list(values)
    array = np.empty(len(cells), object)
    array[:] = cells
    return array


def flat(name: str, values: ArrayLike) -> NDArray[Any]:
    # NumPy makes strings of [1, "a"] and numbers of [True]: lists are looked at value by value
    if isinstance(values, np.ma.MaskedArray):  # what is masked is missing
        hidden, values = np.ma.getmaskarray(values), np.ma.getdata(values).astype(object)
        values[hidden] = None
    array = objects(values) if isinstance(values, (list, tuple)) else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    return array


def is_missing(value: Any) -> bool:
    """None, NaN, NaT, the NA of pandas, empty text."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str):
        return not value.strip()
    return bool(value != value)  # noqa: PLR0124  # NaN of any type


def read_ids(name: str, array: NDArray[Any] | Column) -> tuple[Any, NDArray[np.bool_]]:
    """Ids as int64, or as str in an object array or in a `Column`."""
    if isinstance(array, Column):
        if array.words is None:
            return read_ids(name, array.values)[0], array.missing.copy()
        blank = np.fromiter(map(is_missing, array.words), bool, len(array.words))
        return array, array.missing | blank[array.values]
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
            raise ValueError(f"{name}: an id is beyond the range of int64")
        return array.astype(np.int64, copy=False), np.zeros(len(array), bool)
    if array.dtype.kind == "f":
        bad = np.isnan(array)
        numbers = np.where(bad, 0, array)
        if (numbers != np.floor(numbers)).any() or (np.abs(numbers) >= 2**53).any():
            raise TypeError(f"{name}: expected integers or strings as ids, got {array.dtype} with fractions")
        return numbers.astype(np.int64), bad
    if array.dtype.kind != "O":
        array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        array = (array.astype(str) if array.dtype.kind in "Mm" else array).astype(object)
    cells = array.tolist()
    bad = np.fromiter(map(is_missing, cells), bool, len(cells))
    types = set(map(type, array[~bad].tolist() if bad.any() else cells))
    kinds = {_kind(t) for t in types}
    if kinds <= {"int", "float"} and kinds:
        array = np.where(bad, np.nan if "float" in kinds else 0, array)
        try:
            numbers, _ = read_ids(name, array.astype(np.float64 if "float" in kinds else np.int64))
        except OverflowError:
            raise ValueError(f"{name}: an id is beyond the range of int64") from None
        return numbers, bad
    if len(kinds) > 1 or "bool" in kinds:
        raise TypeError(f"{name}: expected ids that are all integers or all strings, got {' and '.join(sorted(kinds))}")
    if kinds - {"str"}:
        array = objects(c.decode() if isinstance(c, bytes) else str(c) for c in cells)
    return array, bad


def _kind(t: type) -> str:
    for kind, members in (("bool", (bool, np.bool)), ("int", (int, np.integer)), ("float", (float, np.floating))):
        if issubclass(t, members):
            return kind
    return "str" if issubclass(t, str) else t.__name__


def plain_integers(texts: NDArray[Any]) -> NDArray[Any]:
    """Text ids as int64 if every one of them is the plain form of an integer (missing ones as None), else unchanged."""
    numbers: dict[str, int | None] = {}
    for text in set(texts.tolist()):
        try:
            numbers[text] = int(text) if text.strip() else None
        except ValueError:
            return texts
        if text.strip() and (str(numbers[text]) != text or abs(int(text)) > np.iinfo(np.int64).max):
            return texts
    found = list(map(numbers.__getitem__, texts.tolist()))
    return objects(found) if None in numbers.values() else np.array(found, np.int64)


def read_times(name: str, array: NDArray[Any] | Column) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Unix seconds; NumPy times are rounded to microseconds."""
    if isinstance(array, np.ndarray) and array.dtype.kind == "M":
        bad = np.isnat(array)
        micro = array.astype("datetime64[us]", copy=False).view(np.int64)
        micro = np.where(bad, 0, micro) if bad.any() else micro
        whole_seconds = micro // 10**6
        return (whole_seconds if (whole_seconds * 10**6 == micro).all() else micro / 1e6), bad
    return _numbers(name, array, seconds)


def read_weights(name: str, array: NDArray[Any] | Column) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    values, bad = _numbers(name, array, float)
    with np.errstate(over="ignore"):
        weights = values.astype(np.float32)
    return weights, bad | ~np.isfinite(weights)


def _numbers(
    name: str, array: NDArray[Any] | Column, read: Callable[[Any], float]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if isinstance(array, Column):
        if array.words is None:
            return _numbers(name, array.values, read)[0], array.missing.copy()
        values, bad = _numbers(name, objects(array.words), read)
        return values[array.values], bad[array.values] | array.missing
    if array.dtype.kind in "iu":
        return array.astype(np.int64), np.zeros(len(array), bool)
    if array.dtype.kind not in "fOUT":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    try:
        # NumPy would make a number of a single datetime64 in whatever unit it has
        if array.dtype.kind == "O" and np.datetime64 in set(map(type, array.tolist())):
            raise TypeError
        values = array.astype(np.float64)
    except (TypeError, ValueError):
        values = np.fromiter((_number(value, read) for value in array.tolist()), np.float64, len(array))
    return values, ~np.isfinite(values)


def _number(value: Any, read: Callable[[Any], float]) -> float:
    try:
        return float("nan") if is_missing(value) else float(read(value))
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def seconds(time: Any) -> float:
    """Unix seconds of a number, `datetime.datetime`, `numpy.datetime64` or ISO 8601 text; UTC without a time zone.

    Raises
    ------
    ValueError, TypeError
        If it is none of these.
    """
    if isinstance(time, np.datetime64):
        return float(time.astype("datetime64[us]").astype(np.int64)) / 1e6 if not np.isnat(time) else float("nan")
    if isinstance(time, str):
        try:
            return float(time)
        except ValueError:
            time = dt.datetime.fromisoformat(time.strip())
    if isinstance(time, dt.date) and not isinstance(time, dt.datetime):
        time = dt.datetime(time.year, time.month, time.day)
    if isinstance(time, dt.datetime):
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    return float(time)


def whole(times: NDArray[Any]) -> NDArray[Any]:
    """Times as int64 if all are whole seconds."""
    if times.dtype.kind == "f" and (np.abs(times) < 2**53).all() and (times == np.floor(times)).all():
        return times.astype(np.int64)
    return times


# ---- columns → catalogue and order -----------------------------------------------------------------------------------


def encode(ids: NDArray[Any] | Column) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sorted unique ids, and for each id its place among them; at least one id."""
    if isinstance(ids, Column):
        words = ids.words or []
        used, places = _places(ids.values, 0, len(words))
        return _catalogue([words[i] for i in used.tolist()]), places
    if ids.dtype.kind == "i":
        low, high = int(ids.min()), int(ids.max())
        if high - low <= 2 * len(ids) + 2**10:  # a table of all numbers between is smaller than what sorting needs
            return _places(ids, low, high + 1 - low)
        unique, inverse = np.unique(ids, return_inverse=True)
        return unique, inverse
    cells = ids.tolist()
    words = sorted(set(cells))  # by code point, as NumPy compares
    place = dict(zip(words, range(len(words)), strict=True))
    return _catalogue(words), np.fromiter(map(place.__getitem__, cells), np.int64, len(cells))


def _catalogue(words: list[str]) -> NDArray[np.str_]:
    if cut := next((word for word in words if word.endswith("\0")), None):
        raise ValueError(f"ids: {cut!r} ends in a NUL character, which NumPy would drop")
    return np.array(words, str)


def _places(numbers: NDArray[Any], low: int, span: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """As `encode`, of integers from `low` to ``low + span - 1``."""
    offsets = numbers - low if low else numbers
    used = np.zeros(span, bool)
    used[offsets] = True
    place = np.cumsum(used, dtype=np.int32)
    place -= 1
    return np.flatnonzero(used) + low, place[offsets]


def event_order(users: NDArray[Any], times: NDArray[Any] | None) -> NDArray[np.int64]:
    """The places that sort by user and, within a user, by time; equal ones keep their order.

    Equals ``numpy.lexsort((times, users))``. NumPy's stable sort of 16-bit numbers is a radix sort, so the keys are
    sorted digit by digit, the least significant first, which takes a third of the time of sorting 64-bit keys.
    """
    keys = [users] if times is None else [times, users]
    if times is not None and times.dtype.kind == "f":
        if (times < 0).any():
            return np.lexsort((times, users))
        keys[0] = (times + 0.0).view(np.int64)  # the bits of floats from 0 on rise with them; + 0.0 for -0.0
    order = None
    for key in keys:
        low = int(key.min())
        span = int(key.max()) - low
        if span >= 2**63:
            return np.lexsort(keys)
        if order is None and (key[1:] >= key[:-1]).all():
            continue
        for shift in range(0, span.bit_length(), 16):
            digit = ((key - low) >> shift).astype(np.uint16)  # keeps the lowest 16 bits
            step = np.argsort(digit if order is None else digit[order], kind="stable")
            order = step if order is None else order[step]
    return np.arange(len(users)) if order is None else order


# ---- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_rows(
    path: Path, separator: str | None, separators: str
) -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
    """The separator of a text file, also gzipped, and its rows: the number of the last line, and the fields.

    ``separators`` are tried on the first line if none is given. An empty line is an empty row. A file that is empty,
    damaged, not UTF-8, or ends within quotes is a ValueError, also while it is read.
    """
    import csv  # noqa: PLC0415  # import regard loads NumPy only
    import gzip  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            if not first:
                raise ValueError(f"{path}: the file is empty")
            file.seek(0)
            split = separator or next((s for s in separators if s in first), ",")
            if len(split) == 1:
                yield split, _quoted_rows(path, csv.reader(chain(file, [_END]), delimiter=split))
            else:
                fields = (line.rstrip("\r\n").split(split) if line.strip() else [] for line in file)
                yield split, enumerate(fields, 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or cut-off gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text ({error})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error


_END = "\x1e"  # a line after the last: where it is a field's end, a quote is open


def _quoted_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    begins = 1
    for row in reader:
        if row and row[-1].endswith(_END):
            if row != [_END]:
                raise ValueError(f'{path}: the quote " in line {begins} is never closed')
            return
        yield reader.line_num, row
        begins = reader.line_num + 1


def squeezed(name: str) -> str:
    """A column's name without what spellings differ in."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def read_text(
    path: Path, columns: Mapping[str, str] | Sequence[str | None] | None, separator: str | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], BadRows]:
    """Our columns as text, the number of each line, and the lines with a wrong number of fields."""
    with open_rows(path, separator, "\t,;| ") as (split, numbered):
        if columns is None or isinstance(columns, Mapping):
            header: list[str | None] = [*next((row for _, row in numbered if row), [])]
            if not header:
                raise ValueError(f"{path}: the file is empty")
            names = resolve(header, columns)
        else:
            header = list(columns)
            names = resolve(header, None)
        pick = itemgetter(*(header.index(theirs) for theirs in names.values()))
        # tuples, not the rows themselves: the garbage collector does not walk a million tuples of text
        picked, numbers, wrong, examples = [], [], 0, []
        for number, row in numbered:
            if len(row) == len(header):
                picked.append(pick(row))
                numbers.append(number)
            elif row:
                wrong += 1
                if wrong <= EXAMPLES:
                    examples.append((number, split.join(row)))
    cells = zip(*picked, strict=True) if picked else ([] for _ in names)
    texts = {ours: objects(column) for ours, column in zip(names, cells, strict=True)}
    return texts, np.array(numbers, np.int64), BadRows(f"not {len(header)} fields", wrong, tuple(examples))


def resolve(found: Sequence[str | None], columns: Mapping[str, str] | None) -> dict[str, str]:
    """Our name → the name of the column, by `columns`, by the very name, or by a known alias."""
    columns = {str(theirs): ours for theirs, ours in (columns or {}).items()}
    for theirs, ours in columns.items():
        if theirs not in found:
            raise ValueError(f"columns: no column {theirs!r}, only {', '.join(map(str, found))}")
        if ours not in COLUMNS:
            raise ValueError(f"columns: expected one of {', '.join(COLUMNS)} for {theirs!r}, got {ours!r}")
    names: dict[str, str] = {}
    for ours in COLUMNS:
        free = [name for name in found if name is not None and name not in columns]
        matches = [theirs for theirs, target in columns.items() if target == ours]
        matches = matches or [name for name in free if name == ours]
        matches = matches or [name for name in free if squeezed(name) in ALIASES[ours]]
        if len(matches) > 1:
            raise ValueError(
                f"columns: {' and '.join(matches)} could be {ours}; say which, {{{matches[0]!r}: {ours!r}}}"
            )
        if matches:
            names[ours] = matches[0]
        elif ours in ("user_id", "item_id"):
            names_found = ", ".join(map(str, found))
            raise ValueError(
                f"columns: no {ours} among {names_found}; rename with {{{found[0]!r}: {ours!r}}}, "
                f"on the command line --columns {ours}={found[0]}"
            )
    return names
