"""What is known of items: categories, numbers, vectors; and how it becomes part of the item vectors.

`ItemFeatures` is what a user gives. `EncodedFeatures` is what a model keeps: entries of a vocabulary with weights, and
a dense array. A model's item table is the sum of a vector of the item's own, of those of its categories, and of a
linear map of its numbers and vectors:

    items[i] = own[i] + sum_j weights[j] * categories[entries[j]] + dense[i] @ map.T

Training learns the three parts; a fitted model holds the sum as its item table, so that nothing that answers requests
knows of features, and the own part is what is left of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regard import ops
from regard.ids import as_ids, rows_of
from regard.ragged import Ragged
from regard.tables import ALIASES, is_missing, objects, open_rows, plain_integers, squeezed
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float32]
    Parameters = dict[str, Array]
    Shapes = dict[str, tuple[int, ...]]

_LARGEST = 5.0  # standard deviations of a number: what is further away is taken as this far


class ItemFeatures:
    """Categories, numbers and vectors of items.

    Parameters
    ----------
    item_ids : (n,) item ids, each once
    categories : mapping of name to n values, or to n lists of values
        A brand, or several genres: text or integers, 7 and "7" being the same. None, NaN, "" and an empty list say
        that nothing is known. A value that is given twice for an item weighs twice.
    numbers : mapping of name to (n,) numbers
        A price, a year. None and NaN are missing and count as the mean.
    vectors : mapping of name to (n, d) array
        An embedding of a text or an image. Rows of zeros say that nothing is known.

    Raises
    ------
    TypeError
        A value of another type.
    ValueError
        No feature; not one value for each item; an item twice; an infinite number.

    Examples
    --------
    >>> features = ItemFeatures([7, 8], categories={"kind": [["tea", "green"], "cup"]}, numbers={"price": [3.5, None]})
    >>> features
    ItemFeatures(2 items, categories: kind, numbers: price)
    """

    def __init__(
        self,
        item_ids: ArrayLike,
        *,
        categories: Mapping[str, Iterable[Any]] | None = None,
        numbers: Mapping[str, Iterable[Any]] | None = None,
        vectors: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        ids = np.asarray(item_ids)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iuUO":
            raise TypeError(f"item_ids: expected int64 or str ids, got {ids.dtype} {ids.shape}")
        text = ids.dtype.kind == "U" or (ids.dtype.kind == "O" and all(isinstance(i, str) for i in ids.tolist()))
        self.item_ids = as_ids("item_ids", item_ids, np.empty(0, np.str_ if text else np.int64))
        if len(np.unique(self.item_ids)) != len(self.item_ids):
            raise ValueError("item_ids: expected every id once, got one twice")
        self.categories = {name: self._lists(name, values) for name, values in (categories or {}).items()}
        self.numbers = {name: self._numbers(name, values) for name, values in (numbers or {}).items()}
        self.vectors = {name: self._vectors(name, values) for name, values in (vectors or {}).items()}
        names = self.names
        if not names:
            raise ValueError("features: expected at least one of categories, numbers and vectors, got none")
        if len(set(names)) != len(names):
            raise ValueError(f"features: expected every name once, got {', '.join(names)}")

    @property
    def names(self) -> list[str]:
        """Of all features: categories, numbers, vectors."""
        return [*self.categories, *self.numbers, *self.vectors]

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        item_id: str = "item_id",
        categories: Iterable[str] = (),
        numbers: Iterable[str] = (),
        vectors: Iterable[str] = (),
    ) -> Self:
        """Features from the columns of a data frame (pandas, Polars, pyarrow) with one line for each item.

        Parameters
        ----------
        frame : data frame
        item_id : str, default "item_id"
            The column of ids.
        categories, numbers, vectors : names of columns
            Cells of a column of categories may be lists; those of vectors are.
        """

        def cells(name: str) -> list[Any]:
            try:
                column = frame[name]
            except Exception:
                raise ValueError(f"features: the data frame has no column {name!r}") from None
            for method in ("to_list", "to_pylist", "tolist"):
                if hasattr(column, method):
                    return list(getattr(column, method)())
            return list(column)

        groups = {"categories": categories, "numbers": numbers, "vectors": vectors}
        return cls(cells(item_id), **{kind: {name: cells(name) for name in names} for kind, names in groups.items()})

    @classmethod
    def from_file(cls, path: str | Path, *, separator: str | None = None) -> Self:
        """Features from a text file with a header, also gzipped, one line for each item.

        Parameters
        ----------
        path : path
            UTF-8. The column of ids is called item_id, or as in `Interactions.from_file`. A column of numbers is a
            number; any other column has categories, several of them separated by ``|``. A column named title is left
            out.
        separator : str, default None
            None: tab, comma or semicolon, the first that the first line has.

        Raises
        ------
        ValueError
            No such column, a line with another number of fields, a damaged file.
        """
        with open_rows(Path(path), separator, "\t,;") as (_, lines):
            (_, header), *numbered = [(number, row) for number, row in lines if row]
        if not numbered:
            raise ValueError(f"{path}: expected a header and at least one line, got 1 lines")
        for number, row in numbered:
            if len(row) != len(header):
                raise ValueError(f"{path}: expected {len(header)} fields, got {len(row)} in line {number}")
        rows = [row for _, row in numbered]
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        ids = [name for name in header if name == "item_id"]
        ids = ids or [name for name in header if squeezed(name) in (*ALIASES["item_id"], "id")]
        if not ids:
            raise ValueError(f"{path}: no item_id among {', '.join(header)}")
        categories, numbers = {}, {}
        for name, cells in columns.items():
            if name == ids[0] or squeezed(name) == "title":
                continue
            try:
                numbers[name] = [float(cell) if cell else np.nan for cell in cells]
            except ValueError:
                categories[name] = [[part.strip() for part in cell.split("|")] for cell in cells]
        return cls(plain_integers(objects(columns[ids[0]])), categories=categories, numbers=numbers)

    def __repr__(self) -> str:
        parts = [
            f"{kind}: {', '.join(names)}"
            for kind in ("categories", "numbers", "vectors")
            if (names := getattr(self, kind))
        ]
        return f"ItemFeatures({', '.join([f'{len(self.item_ids):,} items', *parts])})"

    def _lists(self, name: str, values: Iterable[Any]) -> list[list[str]]:
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise TypeError(f"categories[{name!r}]: expected a value or a list for each item, got {values!r}")
        lists = [_keys(name, cell) for cell in values]
        self._check_length(f"categories[{name!r}]", len(lists))
        return lists

    def _numbers(self, name: str, values: Iterable[Any]) -> NDArray[np.float64]:
        cells = np.asarray(values if isinstance(values, np.ndarray) else list(values))
        if cells.dtype.kind == "O":
            cells = np.array([np.nan if is_missing(cell) else cell for cell in cells.tolist()])
        if cells.ndim != 1 or cells.dtype.kind not in "iufb":
            raise TypeError(f"numbers[{name!r}]: expected a number for each item, got {cells.dtype} {cells.shape}")
        self._check_length(f"numbers[{name!r}]", len(cells))
        array = cells.astype(np.float64)
        if np.isinf(array).any():
            raise ValueError(f"numbers[{name!r}]: expected finite numbers or NaN, got an infinite one")
        return array

    def _vectors(self, name: str, values: ArrayLike) -> Array:
        try:
            array = np.asarray(values, np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"vectors[{name!r}]: expected an (n, d) array of numbers: {error}") from None
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(f"vectors[{name!r}]: expected an (n, d) array, got shape {array.shape}")
        self._check_length(f"vectors[{name!r}]", len(array))
        if not np.isfinite(array).all():
            raise ValueError(f"vectors[{name!r}]: expected finite numbers, got NaN or an infinite one")
        return array

    def _check_length(self, name: str, n: int) -> None:
        if n != len(self.item_ids):
            raise ValueError(f"{name}: expected {len(self.item_ids)} values (as item_ids), got {n}")


def _keys(name: str, cell: Any) -> list[str]:
    """The values of a cell as text; nothing for what is missing."""
    if isinstance(cell, (list, tuple, set, frozenset, np.ndarray)):
        return [key for part in (sorted(cell, key=str) if isinstance(cell, (set, frozenset)) else cell)
                for key in _keys(name, part)]  # fmt: skip
    if is_missing(cell):
        return []
    if isinstance(cell, (str, int, np.integer, np.bool)):
        return [str(cell)]
    if isinstance(cell, (float, np.floating)) and np.isfinite(cell) and cell == int(cell):
        return [str(int(cell))]  # data frames make floats of integer columns with gaps
    raise TypeError(f"categories[{name!r}]: expected text, integers or lists of them, got {cell!r}")


def mean_and_spread(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 of none, and 1 of equal ones, whose computed deviation is rounding."""
    if not len(numbers):
        return 0.0, 1.0
    return float(numbers.mean()), float(numbers.std()) if numbers.min() < numbers.max() else 1.0


@dataclass(frozen=True)
class EncodedFeatures:
    """Features of the items of a catalogue as a model computes with them.

    Attributes
    ----------
    how : dict, goes into the header of a model file
        ``categories``: name to its values, sorted. ``numbers``: name to [mean, standard deviation]. ``vectors``: name
        to [width, scale].
    entries : Ragged of int32
        For each item the places of its values in the vocabulary: the values of the first category, then of the next.
    weights : (total,) float32
        Of the entries: 1 / sqrt(k) for k values of one category, so that the sum has about the length of one.
    dense : (n_items, width) float32
        Numbers (standardised), then vectors (scaled to a mean square length of 1).
    """

    how: dict[str, Any]
    entries: Ragged
    weights: Array
    dense: Array

    @classmethod
    def fit(cls, features: ItemFeatures, item_ids: NDArray[Any]) -> EncodedFeatures:
        """Learn the vocabulary and the scales from the features of these items."""
        rows = _rows(features, item_ids)
        known = rows[rows >= 0]
        how: dict[str, Any] = {"categories": {}, "numbers": {}, "vectors": {}}
        for name, lists in features.categories.items():
            how["categories"][name] = sorted({key for row in known.tolist() for key in lists[row]})
        for name, numbers in features.numbers.items():
            given = numbers[known][~np.isnan(numbers[known])]
            how["numbers"][name] = list(mean_and_spread(given))
        for name, vectors in features.vectors.items():
            square = float(np.square(vectors[known], dtype=np.float64).sum(axis=1).mean()) if len(known) else 0.0
            how["vectors"][name] = [vectors.shape[1], 1 / np.sqrt(square) if square else 1.0]
        return cls.encode(how, features, item_ids)

    @classmethod
    def encode(cls, how: dict[str, Any], features: ItemFeatures | None, item_ids: NDArray[Any]) -> EncodedFeatures:
        """The features of these items in a known vocabulary; a value that it lacks, and an item without features,
        adds nothing.

        Raises
        ------
        ValueError
            Other features than the known ones.
        """
        width = len(how["numbers"]) + sum(d for d, _ in how["vectors"].values())
        n = len(item_ids)
        if features is None or not n:
            empty = Ragged(np.empty(0, np.int32), np.zeros(n + 1, np.int64))
            return cls(how, empty, np.empty(0, np.float32), np.zeros((n, width), np.float32))
        for kind in ("categories", "numbers", "vectors"):
            expected, got = list(how[kind]), list(getattr(features, kind))
            if sorted(expected) != sorted(got):
                raise ValueError(f"features: expected {kind} {expected}, as the model has, got {got}")
        rows = _rows(features, item_ids)
        entries, weights, start = [], [], 0
        for name, values in how["categories"].items():
            place = {key: start + i for i, key in enumerate(values)}
            lists = features.categories[name]
            found = [[place[key] for key in (lists[row] if row >= 0 else ()) if key in place] for row in rows.tolist()]
            entries.append(Ragged.from_lists(found, np.int32))
            weights.append(np.repeat(1 / np.sqrt(np.maximum(entries[-1].lengths, 1)), entries[-1].lengths))
            start += len(values)
        known = rows >= 0
        dense = np.zeros((n, width), np.float32)
        for column, (name, (mean, deviation)) in enumerate(how["numbers"].items()):
            standard = (features.numbers[name][rows] - mean) / deviation
            dense[:, column] = np.where(known, np.nan_to_num(np.clip(standard, -_LARGEST, _LARGEST)), 0)
        column = len(how["numbers"])
        for name, (d, scale) in how["vectors"].items():
            vectors = features.vectors[name]
            if vectors.shape[1] != d:
                raise ValueError(f"vectors[{name!r}]: expected width {d}, as the model has, got {vectors.shape[1]}")
            dense[known, column : column + d] = vectors[rows[known]] * np.float32(scale)
            column += d
        merged, order = _side_by_side(entries, n)
        flat = np.concatenate(weights) if weights else np.empty(0)
        return cls(how, merged, flat[order].astype(np.float32), dense)

    # ---- rows ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.entries)

    def take(self, rows: NDArray[Any]) -> EncodedFeatures:
        """The features of these rows."""
        weights = Ragged(self.weights, self.entries.offsets).take(rows).values
        return replace(self, entries=self.entries.take(rows), weights=weights, dense=self.dense[rows])

    def append(self, other: EncodedFeatures) -> EncodedFeatures:
        """These items, then those of another, of the same vocabulary."""
        return replace(
            self,
            entries=Ragged.concatenate([self.entries, other.entries]),
            weights=np.concatenate([self.weights, other.weights]),
            dense=np.concatenate([self.dense, other.dense]),
        )

    # ---- as part of an item table -------------------------------------------------------------------------------

    def shapes(self, table: str, dim: int) -> Shapes:
        """Names and shapes of the parameters beside an item table."""
        n_values = sum(len(values) for values in self.how["categories"].values())
        shapes = {_categories(table): (n_values, dim), _map(table): (dim, self.dense.shape[1])}
        return {name: shape for name, shape in shapes.items() if 0 not in shape}

    def vectors(self, own: Array, params: Parameters, table: str, *, workspace: Workspace = NEW) -> Array:
        """The items' own vectors (n_items, dim) and what their features add to them."""
        y = workspace.empty(own.shape)
        np.copyto(y, own)
        if (name := _map(table)) in params:
            ops.linear_forward(self.dense, params[name], residual=own, out=y, workspace=workspace)
        if (name := _categories(table)) in params:
            ops.embedding_bag_forward(params[name], self.entries.values, self.weights, self.entries.offsets, out=y)
        return y

    def backward(
        self, dtable: Array, params: Parameters, grads: Parameters, table: str, *, workspace: Workspace = NEW
    ) -> None:
        """Add the gradients of the parameters, given that of the item table (which is that of the own vectors)."""
        if (name := _map(table)) in params:
            ops.linear_backward(dtable, self.dense, params[name], dweight=grads[name], workspace=workspace)
        if (name := _categories(table)) in params:
            entries = self.entries
            ops.embedding_bag_backward(dtable, entries.values, self.weights, entries.offsets, grads[name])

    # ---- file ---------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As they lie in a model file, beside ``how`` in its header."""
        arrays = (self.entries.values, self.entries.offsets, self.weights, self.dense)
        return dict(zip(TENSORS, arrays, strict=True))

    def add_to(self, fingerprint: Any) -> None:
        """Update a hash of ``hashlib`` with all that is here."""
        fingerprint.update(json.dumps(self.how).encode())
        for array in self.tensors().values():
            fingerprint.update(array.data)

    @classmethod
    def from_tensors(cls, path: str, how: Any, tensors: dict[str, NDArray[Any]], n_items: int) -> EncodedFeatures:
        """From a file; ValueError if they do not fit each other."""
        try:
            entries, offsets, weights, dense = (tensors[name] for name in TENSORS)
            n_values = sum(len(values) for values in how["categories"].values())
            width = len(how["numbers"]) + sum(d for d, _ in how["vectors"].values())
            types = [array.dtype.name for array in (entries, offsets, weights, dense)]
            if types != ["int32", "int64", "float32", "float32"]:
                raise ValueError(f"types {types}")
            if len(offsets) != n_items + 1 or weights.shape != entries.shape or dense.shape != (n_items, width):
                raise ValueError("shapes do not fit")
            if len(entries) and not 0 <= entries.min() <= entries.max() < n_values:
                raise ValueError("an entry is outside the vocabulary")
            if not (np.isfinite(weights).all() and np.isfinite(dense).all()):
                raise ValueError("values that are not finite")
            return cls(how, Ragged(entries, offsets), weights, dense)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: the item features are damaged ({error})") from None


TENSORS = ("features.entries", "features.offsets", "features.weights", "features.dense")


def _categories(table: str) -> str:
    return f"{table.removesuffix('.weight')}.categories"


def _map(table: str) -> str:
    return f"{table.removesuffix('.weight')}.map"


def _rows(features: ItemFeatures, item_ids: NDArray[Any]) -> NDArray[Any]:
    """Where each item's features are, -1 for an item without."""
    order = np.argsort(features.item_ids, kind="stable")
    ids = as_ids("features.item_ids", features.item_ids, item_ids)[order]
    rows = rows_of(item_ids, ids)
    return np.where(rows >= 0, np.append(order, -1)[rows], -1)


def _side_by_side(parts: list[Ragged], n: int) -> tuple[Ragged, NDArray[np.int64]]:
    """Row i of every part in one row, and from where in the parts' values, one after another, each value came."""
    if not parts:
        return Ragged(np.empty(0, np.int32), np.zeros(n + 1, np.int64)), np.empty(0, np.int64)
    order = np.argsort(np.concatenate([part.row_of for part in parts]), kind="stable")
    values = np.concatenate([part.values for part in parts])[order]
    return Ragged.from_lengths(values, sum((part.lengths for part in parts), np.zeros(n, np.int64))), order
