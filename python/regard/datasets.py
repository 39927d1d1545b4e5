"""Public data sets, read from a folder that the user has, and the synthetic one that needs no files.

The files are not part of the library: their terms forbid it. Each set has a card with its size, source and terms, and
`load` compares what it reads with the card.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Interactions
from .ragged import Ragged
from .synthetic import synthetic

__all__ = ["Card", "card", "load", "names", "synthetic"]

MOVIELENS = "research use; no redistribution without permission; no commercial use"
S3_REC = "ids of the file, order only; users and items with fewer than 5 events were removed by its authors"


@dataclass(frozen=True)
class Card:
    """What a data set is.

    Attributes
    ----------
    name, title : str
    n_users, n_items, n_events : int
        Checked by `load`.
    files : tuple of str
        Under the folder of data sets.
    has_times, has_titles : bool
    protocol : str
        Which version of the data this is and what to mind when comparing with published numbers.
    source, terms : str
        Where the data are from, and what they may be used for.
    """

    name: str
    title: str
    n_users: int
    n_items: int
    n_events: int
    files: tuple[str, ...]
    has_times: bool
    has_titles: bool
    protocol: str
    source: str
    terms: str


_CARDS = {
    card.name: card
    for card in (
        Card(
            "synthetic", "Planted structure", 4000, 300, 96_512, (), True, True,
            "drawn by regard.datasets.synthetic() with its defaults; the best possible result is known exactly",
            "regard", "none",
        ),
        Card(
            "ml-1m", "MovieLens 1M", 6_040, 3_416, 999_611,
            tuple(f"ml-1m/{f}" for f in (
                "sequences-5core.txt.gz", "sequences-5core.items.tsv.gz", "sequences-5core.users.tsv.gz", "movies.dat"
            )),
            False, True,
            "movies with 5 ratings or more, every rating an event, as ml-1m.txt of SASRec and BERT4Rec; "
            "original movie and user ids; order only, equal seconds in the order of the rows",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets", MOVIELENS,
        ),
        Card(
            "ml-100k", "MovieLens 100K", 943, 1_682, 100_000, ("ml-100k/u.data.gz", "ml-100k/u.item.gz"), True, True,
            "all ratings, every rating an event, sorted by time; equal times in the order of the file",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets", MOVIELENS,
        ),
        Card(
            "ml-latest-small", "MovieLens latest-small (September 2018)", 610, 9_724, 100_836,
            ("ml-latest-small/ratings.csv.gz", "ml-latest-small/movies.csv.gz"), True, True,
            "all ratings, every rating an event, sorted by time; equal times in the order of the file (by movie id); "
            "its authors ask not to report results on it",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets",
            "research use; redistribution under the same conditions; no commercial use",
        ),
        Card(
            "amazon-beauty", "Amazon Beauty (2014)", 22_363, 12_101, 198_502, ("amazon-beauty/Beauty.txt.gz",),
            False, False, S3_REC, "J. McAuley, Amazon review data 2014; file of S3-Rec (CIKM 2020)",
            "academic use; cite the authors",
        ),
        Card(
            "amazon-sports", "Amazon Sports and Outdoors (2014)", 35_598, 18_357, 296_337,
            ("amazon-sports/Sports_and_Outdoors.txt.gz",), False, False, S3_REC,
            "J. McAuley, Amazon review data 2014; file of S3-Rec (CIKM 2020)", "academic use; cite the authors",
        ),
        Card(
            "yelp", "Yelp (2019)", 30_431, 20_033, 316_354, ("yelp/Yelp.txt.gz",), False, False,
            S3_REC + "; 11,830 visits are repeated ones, and a repeated target counts as a miss",
            "Yelp Open Dataset; file of S3-Rec (CIKM 2020)", "academic, non-commercial use; no redistribution",
        ),
        Card(
            "lastfm", "Last.fm (HetRec 2011)", 1_090, 3_646, 52_551, ("lastfm/LastFM.txt.gz",), False, False, S3_REC,
            "Last.fm, HetRec 2011; file of S3-Rec (CIKM 2020)", "non-commercial research",
        ),
    )
}  # fmt: skip


def names() -> list[str]:
    """Names that `load` knows."""
    return list(_CARDS)


def card(name: str) -> Card:
    """The card of a data set. ValueError for a name that is not in `names`."""
    if name not in _CARDS:
        raise ValueError(f"name: expected one of {', '.join(_CARDS)}, got {name!r}")
    return _CARDS[name]


def load(name: str, *, folder: str | Path | None = None) -> Interactions:
    """Read a data set; every rating, review or visit is one event, weights are not set.

    Parameters
    ----------
    name : str
        One of `names`; "synthetic" is drawn and needs no files.
    folder : path, default None
        Holds a folder for each data set, as ``ml-1m/movies.dat``. None: the environment variable REGARD_DATA.

    Raises
    ------
    ValueError
        Unknown name; a damaged file; other numbers of users, items or events than the card has.
    FileNotFoundError
        No folder is given, or it lacks a file; the message says which.
    """
    about = card(name)
    if name == "synthetic":
        data: Interactions = synthetic()
    else:
        data = _READERS.get(name, _read_sequences)(*_find(about, folder))
    for what in ("n_users", "n_items", "n_events"):
        if (got := getattr(data, what)) != (expected := getattr(about, what)):
            raise ValueError(f"{name}: expected {what} {expected:,}, got {got:,}; the files differ from the known ones")
    return data


def _find(about: Card, folder: str | Path | None) -> list[Path]:
    given = folder if folder is not None else os.environ.get("REGARD_DATA")
    if not given:
        raise FileNotFoundError(
            f"{about.name}: set the environment variable REGARD_DATA, or folder=, to the folder that holds "
            f"{', '.join(about.files)}; the data are not part of regard (source: {about.source})"
        )
    paths = [Path(given) / file for file in about.files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{about.name}: no file {path}; the folder must hold {', '.join(about.files)}")
    return paths


def _lines(path: Path, encoding: str = "utf-8") -> list[str]:
    import gzip  # noqa: PLC0415  # import regard loads NumPy only
    import zlib  # noqa: PLC0415

    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(encoding)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the file is damaged or cut off ({error})") from error
    return text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")


def _integers(path: Path, rows: Iterable[list[str]]) -> NDArray[np.int64]:
    try:
        return np.fromiter(map(int, chain.from_iterable(rows)), np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected integers ({error})") from error


def _columns(path: Path, *, header: bool, width: int) -> NDArray[np.int64]:
    """A table of integers, one row of the result for each of its columns."""
    rows = [line.split() for line in _lines(path)[header:]]
    if wrong := [i for i, row in enumerate(rows) if len(row) != width]:
        raise ValueError(f"{path}: expected {width} fields, got {len(rows[wrong[0]])} in line {wrong[0] + 1 + header}")
    return _integers(path, rows).reshape(-1, width).T


def _sequence_file(path: Path) -> tuple[NDArray[np.int64], Ragged]:
    """Users, and the item ids of each, of a file with lines ``user item item ...``."""
    rows = [line.split() for line in _lines(path)]
    numbers = Ragged.from_lengths(_integers(path, rows), [len(row) for row in rows])
    if not rows or not numbers.lengths.min():
        raise ValueError(f"{path}: expected lines with a user and items, got an empty one")
    return numbers.values[numbers.offsets[:-1]], numbers.tail(numbers.lengths - 1)


def _from_ids(users: NDArray[np.int64], items: Ragged, titles: dict[int, str] | None = None) -> Interactions:
    order = np.argsort(users, kind="stable")
    items = items.take(order)
    item_ids, rows = np.unique(items.values, return_inverse=True)
    return Interactions.from_sequences(
        users[order],
        item_ids,
        Ragged(rows, items.offsets),
        titles=None if titles is None else np.array([titles.get(i, str(i)) for i in item_ids.tolist()]),
    )


def _read_sequences(path: Path) -> Interactions:
    return _from_ids(*_sequence_file(path))


def _titles(path: Path, separator: str) -> dict[int, str]:
    """Item id → title of a Latin-1 file with lines of id, title and more."""
    rows = [line.split(separator) for line in _lines(path, "latin-1")]
    try:
        return {int(row[0]): row[1] for row in rows}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected lines of id{separator}title ({error})") from error


def _read_ml_1m(sequences: Path, item_map: Path, user_map: Path, movies: Path) -> Interactions:
    users, items = _sequence_file(sequences)
    original = []
    for path, values in ((user_map, users), (item_map, items.values)):
        ours, theirs = _columns(path, header=True, width=2)
        order = np.argsort(ours)
        original.append(theirs[order][np.searchsorted(ours[order], values)])
    return _from_ids(original[0], Ragged(original[1], items.offsets), _titles(movies, "::"))


def _read_ml_100k(ratings: Path, movies: Path) -> Interactions:
    user, item, _, time = _columns(ratings, header=False, width=4)
    return Interactions(user, item, time, titles=_titles(movies, "|"))


def _read_ml_latest_small(ratings: Path, movies: Path) -> Interactions:
    import csv  # noqa: PLC0415

    data = Interactions.from_file(ratings)
    titles = {int(row[0]): row[1] for row in csv.reader(_lines(movies)[1:])}
    data.titles = np.array([titles.get(i, str(i)) for i in data.item_ids.tolist()])
    return data


_READERS: dict[str, Callable[..., Any]] = {
    "ml-1m": _read_ml_1m,
    "ml-100k": _read_ml_100k,
    "ml-latest-small": _read_ml_latest_small,
}
