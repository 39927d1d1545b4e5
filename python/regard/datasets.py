"""Public data sets, read from a folder that the user has, and the synthetic one that needs no files.

The files are not part of the library: their terms forbid it. Each set has a card with its size, source and terms, and
`load` compares what it reads with the card.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Interactions
from .download import ARCHIVES, members
from .features import ItemFeatures
from .ragged import Ragged
from .splits import Holdout, Split
from .synthetic import synthetic

__all__ = ["Card", "card", "given_split", "load", "names", "synthetic"]

File = Path | zipfile.Path
MOVIELENS = "research use; no redistribution without permission; no commercial use"
S3_REC = "ids of the file, order only; users and items with fewer than 5 events were removed by its authors"
SESSIONS = "training sessions in the order of clicks; the test is given: prefixes of later sessions and the next click"


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
    has_times, has_titles, has_features : bool
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
    has_features: bool
    protocol: str
    source: str
    terms: str


def _s3_rec(name: str) -> tuple[str, ...]:
    return f"{name}.txt.gz", f"{name}_item2attributes.json.gz"


_CARDS = {
    card.name: card
    for card in (
        Card(
            "synthetic", "Planted structure", 4000, 300, 96_512, (), True, True, False,
            "drawn by regard.datasets.synthetic() with its defaults; the best possible result is known exactly",
            "regard", "none",
        ),
        Card(
            "ml-1m", "MovieLens 1M", 6_040, 3_416, 999_611,
            tuple(f"ml-1m/{f}" for f in (
                "sequences-5core.txt.gz", "sequences-5core.items.tsv.gz", "sequences-5core.users.tsv.gz", "movies.dat"
            )),
            False, True, True,
            "movies with 5 ratings or more, every rating an event, as ml-1m.txt of SASRec and BERT4Rec; "
            "original movie and user ids; order only, equal seconds in the order of the rows",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets", MOVIELENS,
        ),
        Card(
            "ml-1m-timed", "MovieLens 1M, users 1 to 2,998", 2_998, 3_416, 487_209,
            ("ml-1m/ratings.tsv.gz", "ml-1m/movies.dat"),
            True, True, True,
            "the users of ml-1m of whom every time is known, with their times; the order of events is that of ml-1m",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets", MOVIELENS,
        ),
        Card(
            "ml-100k", "MovieLens 100K", 943, 1_682, 100_000, ("ml-100k/u.data.gz", "ml-100k/u.item.gz"),
            True, True, True,
            "all ratings, every rating an event, sorted by time; equal times in the order of the file",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets", MOVIELENS,
        ),
        Card(
            "ml-latest-small", "MovieLens latest-small (September 2018)", 610, 9_724, 100_836,
            ("ml-latest-small/ratings.csv.gz", "ml-latest-small/movies.csv.gz"), True, True, True,
            "all ratings, every rating an event, sorted by time; equal times in the order of the file (by movie id); "
            "its authors ask not to report results on it",
            "GroupLens; Harper and Konstan 2015, The MovieLens Datasets",
            "research use; redistribution under the same conditions; no commercial use",
        ),
        Card(
            "amazon-beauty", "Amazon Beauty (2014)", 22_363, 12_101, 198_502, _s3_rec("amazon-beauty/Beauty"),
            False, False, True, S3_REC, "J. McAuley, Amazon review data 2014; file of S3-Rec (CIKM 2020)",
            "academic use; cite the authors",
        ),
        Card(
            "amazon-sports", "Amazon Sports and Outdoors (2014)", 35_598, 18_357, 296_337,
            _s3_rec("amazon-sports/Sports_and_Outdoors"), False, False, True, S3_REC,
            "J. McAuley, Amazon review data 2014; file of S3-Rec (CIKM 2020)", "academic use; cite the authors",
        ),
        Card(
            "yelp", "Yelp (2019)", 30_431, 20_033, 316_354, _s3_rec("yelp/Yelp"), False, False, True,
            S3_REC + "; 11,830 visits are repeated ones, and a repeated target counts as a miss",
            "Yelp Open Dataset; file of S3-Rec (CIKM 2020)", "academic, non-commercial use; no redistribution",
        ),
        Card(
            "lastfm", "Last.fm (HetRec 2011)", 1_090, 3_646, 52_551, _s3_rec("lastfm/LastFM"), False, False, True,
            S3_REC,
            "Last.fm, HetRec 2011; file of S3-Rec (CIKM 2020)", "non-commercial research",
        ),
        Card(
            "amazon-beauty-bert4rec", "Amazon Beauty (2014), without filter on items", 40_226, 54_542, 353_962,
            ("amazon-beauty-bert4rec/beauty.txt.gz",), False, False, False,
            "file of BERT4Rec, users with 5 events or more; not the 12,101 items of amazon-beauty",
            "J. McAuley, Amazon review data 2014; file of BERT4Rec (CIKM 2019)", "academic use; cite the authors",
        ),
        Card(
            "amazon-grocery-rechorus", "Amazon Grocery and Gourmet Food (2014)", 14_681, 8_687, 121_892,
            ("amazon-grocery-rechorus/train.csv.gz",), True, False, False,
            "training file of ReChorus: the two events of each user that it holds out are missing",
            "J. McAuley, Amazon review data 2014; file of ReChorus", "academic use; cite the authors",
        ),
        Card(
            "diginetica", "Diginetica clicks", 186_670, 43_097, 906_140,
            ("diginetica/train_sessions.txt.gz", "diginetica/test.txt.gz"), False, False, False, SESSIONS,
            "CIKM Cup 2016 track 2; file of GCE-GNN (SIGIR 2020)", "competition data, research use",
        ),
        Card(
            "yoochoose-1-64", "Yoochoose clicks, the last 1/64", 116_167, 17_376, 486_026,
            ("yoochoose-1-64/train_sessions.txt.gz", "yoochoose-1-64/test.txt.gz"), False, False, False, SESSIONS,
            "RecSys Challenge 2015; file of DGNN (WSDM 2023)", "CC BY-NC-ND 4.0",
        ),
        Card(
            "retailrocket", "Retailrocket clicks", 126_168, 36_968, 685_984,
            ("retailrocket/train_sessions.txt.gz", "retailrocket/test.txt.gz"), False, False, False, SESSIONS,
            "Retailrocket on Kaggle; file of CGENet", "CC BY-NC-SA 4.0",
        ),
        Card(
            "college-msg", "Messages at a university", 1_350, 1_862, 59_835, ("college-msg/CollegeMsg.txt.gz",),
            True, False, False,
            "a sender meets the receivers of its messages; 39,539 messages go to somebody written to before",
            "SNAP CollegeMsg; Panzarasa, Opsahl and Carley 2009", "research; cite the authors",
        ),
        Card(
            "mind-5k", "Microsoft News, 5,000 impressions", 4_637, 17_628, 146_474, ("mind-5k/behaviors.tsv.gz",),
            False, False, False,
            "clicks: of each user the history that the first impression gives, then what was clicked in its "
            "impressions in the order of time; articles shown and not clicked are left out; a sample, not to compare",
            "Microsoft News, MIND-small; Wu et al. 2020", "Microsoft research terms: non-commercial research only",
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

    MovieLens sets have genres and years as item features, the files of S3-Rec (Amazon, Yelp, Last.fm) attributes.

    Parameters
    ----------
    name : str
        One of `names`; "synthetic" is drawn and needs no files.
    folder : path, default None
        Holds a folder for each data set, as ``ml-1m/movies.dat``. None: the environment variable REGARD_DATA; without
        it MovieLens sets are fetched from their publisher (see `regard.download`), others need the folder.

    Raises
    ------
    ValueError
        Unknown name; a damaged file; other numbers of users, items or events than the card has.
    FileNotFoundError
        No folder is given, or it lacks a file; the message says which.
    ConnectionError, ModuleNotFoundError
        A set is to be fetched, and its publisher cannot be reached, or pooch is not installed.
    """
    about = card(name)
    if name == "synthetic":
        data: Interactions = synthetic()
    else:
        files = _find(about, folder)
        original = name == "ml-1m" and not isinstance(files[0], Path)
        data = (_read_ml_1m_original if original else _READERS.get(name, _read_sequences))(*files)
    for what in ("n_users", "n_items", "n_events"):
        if (got := getattr(data, what)) != (expected := getattr(about, what)):
            raise ValueError(f"{name}: expected {what} {expected:,}, got {got:,}; the files differ from the known ones")
    return data


def has_given_split(name: str) -> bool:
    """Whether a set comes with a test, see `given_split`."""
    return card(name).protocol is SESSIONS


def given_split(name: str, *, folder: str | Path | None = None) -> Split:
    """The split that a set of sessions comes with: the test is prefixes of later sessions and the click after each.

    Parameters
    ----------
    name : "diginetica", "yoochoose-1-64" or "retailrocket"
    folder : as in `load`

    Returns
    -------
    Split
        Train: the training sessions. Validation: the last click of every tenth session that has two clicks or more,
        which is not in the training part. Test: one "user" for each prefix, numbered in the order of the file. The
        catalogue also has items that occur in the test only: nobody can know them, and they count as misses.

    Raises
    ------
    ValueError
        The set has no given test; and as for `load`.
    """
    data = load(name, folder=folder)
    about = card(name)
    if not has_given_split(name):
        given = ", ".join(filter(has_given_split, _CARDS))
        raise ValueError(f"name: {name} comes without a test; {given} have one")
    path = _find(about, folder)[1]
    lines = [line.split("\t") for line in _lines(path)]
    if wrong := [i for i, line in enumerate(lines) if len(line) < 2 or not line[0].strip()]:
        raise ValueError(f"{path}: expected lines of items, a tab and a target, got another in line {wrong[0] + 1}")
    prefixes = [line[0].split() for line in lines]
    histories = Ragged.from_lengths(_integers(path, prefixes), [len(prefix) for prefix in prefixes])
    targets = _integers(path, ([line[1]] for line in lines))

    item_ids = np.unique(np.concatenate([data.item_ids, histories.values, targets]))

    def rows(ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> Ragged:
        return Ragged(np.searchsorted(item_ids, ids).astype(np.int32), offsets)

    sequences = rows(data.item_ids[data.sequences.values], data.sequences.offsets)
    asked = np.flatnonzero(sequences.lengths >= 2)[::10]
    kept = sequences.lengths.copy()
    kept[asked] -= 1
    chosen = sequences.take(asked)
    train = Interactions.from_sequences(data.user_ids, item_ids, sequences.head(kept))
    validation = Holdout(item_ids, data.user_ids[asked], chosen.drop_last(1), chosen.tail(1))
    each = np.arange(len(targets) + 1)
    test = Holdout(item_ids, each[:-1], rows(histories.values, histories.offsets), rows(targets, each))
    return Split(train, validation, test, test.fingerprint())


def _find(about: Card, folder: str | Path | None) -> Sequence[File]:
    given = folder if folder is not None else os.environ.get("REGARD_DATA")
    if not given and about.name in ARCHIVES:
        return members(about.name, _ORIGINALS[about.name], about.terms)
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


def _lines(path: File, encoding: str = "utf-8") -> list[str]:
    import gzip  # noqa: PLC0415  # import regard loads NumPy only
    import zlib  # noqa: PLC0415

    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(encoding)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the file is damaged or cut off ({error})") from error
    return text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")


def _integers(path: File, rows: Iterable[list[str]]) -> NDArray[np.int64]:
    try:
        return np.fromiter(map(int, chain.from_iterable(rows)), np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected integers ({error})") from error


def _columns(path: File, *, header: bool, width: int) -> NDArray[np.int64]:
    """A table of integers, one row of the result for each of its columns."""
    rows = [line.split() for line in _lines(path)[header:]]
    if wrong := [i for i, row in enumerate(rows) if len(row) != width]:
        raise ValueError(f"{path}: expected {width} fields, got {len(rows[wrong[0]])} in line {wrong[0] + 1 + header}")
    return _integers(path, rows).reshape(-1, width).T


def _sequence_file(path: File) -> tuple[NDArray[np.int64], Ragged]:
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


def _read_sequences(sequences: Path, attributes: Path) -> Interactions:
    import json  # noqa: PLC0415

    try:
        lists = {int(item): values for item, values in json.loads("\n".join(_lines(attributes))).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{attributes}: expected a JSON object of item to attributes ({error})") from error
    features = ItemFeatures(list(lists), categories={"attributes": list(lists.values())})
    return _from_ids(*_sequence_file(sequences)).with_features(features)


Movies = dict[int, tuple[str, list[str]]]  # title and genres


def _movies(path: File, separator: str, genres: Callable[[list[str]], list[str]]) -> Movies:
    """Those of a Latin-1 file with lines of id, title and more."""
    rows = [line.split(separator) for line in _lines(path, "latin-1")]
    try:
        return {int(row[0]): (row[1], genres(row)) for row in rows}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected lines of id{separator}title and genres ({error})") from error


def _movies_1m(path: File) -> Movies:
    return _movies(path, "::", lambda row: row[2].split("|"))


def _titles(movies: Movies) -> dict[int, str]:
    return {item: title for item, (title, _) in movies.items()}


def _movie_features(movies: Movies) -> ItemFeatures:
    """Genres, and the year in parentheses that ends a title."""
    years = [title.strip()[-5:-1] for title, _ in movies.values()]
    return ItemFeatures(
        list(movies),
        categories={"genres": [genres for _, genres in movies.values()]},
        numbers={"year": [int(year) if year.isdigit() else None for year in years]},
    )


def _read_ml_1m(sequences: Path, item_map: Path, user_map: Path, movies: Path) -> Interactions:
    users, items = _sequence_file(sequences)
    original = []
    for path, values in ((user_map, users), (item_map, items.values)):
        ours, theirs = _columns(path, header=True, width=2)
        order = np.argsort(ours)
        original.append(theirs[order][np.searchsorted(ours[order], values)])
    about = _movies_1m(movies)
    data = _from_ids(original[0], Ragged(original[1], items.offsets), _titles(about))
    return data.with_features(_movie_features(about))


def _read_ml_100k(ratings: File, movies: File) -> Interactions:
    user, item, _, time = _columns(ratings, header=False, width=4)
    about = _movies(movies, "|", lambda row: [str(i) for i, flag in enumerate(row[-19:]) if int(flag)])
    return Interactions(user, item, time, titles=_titles(about)).with_features(_movie_features(about))


def _read_ml_latest_small(ratings: File, movies: File) -> Interactions:
    import csv  # noqa: PLC0415

    rows = list(csv.reader(_lines(ratings)[1:]))
    user, item, time = (_integers(ratings, ([row[column]] for row in rows)) for column in (0, 1, 3))
    about = {int(row[0]): (row[1], row[2].split("|")) for row in csv.reader(_lines(movies)[1:])}
    return Interactions(user, item, time, titles=_titles(about)).with_features(_movie_features(about))


def _read_ml_1m_original(ratings: File, movies: File) -> Interactions:
    """As published: movies with 5 ratings or more are kept, equal seconds stay in the order of the rows."""
    rows = [line.split("::") for line in _lines(ratings)]
    user, item, time = (_integers(ratings, ([row[column]] for row in rows)) for column in (0, 1, 3))
    _, place, count = np.unique(item, return_inverse=True, return_counts=True)
    kept = (count >= 5)[place]
    about = _movies_1m(movies)
    data = Interactions(user[kept], item[kept], time[kept], titles=_titles(about))
    data.times = None  # as in the prepared files, which have the order alone
    return data.with_features(_movie_features(about))


def _read_ml_1m_timed(ratings: Path, movies: Path) -> Interactions:
    user, item, _, time, _ = _columns(ratings, header=True, width=5)
    kept = (user <= 2998) & (np.bincount(item)[item] >= 5)
    about = _movies_1m(movies)
    data = Interactions(user[kept], item[kept], time[kept], titles=_titles(about))
    return data.with_features(_movie_features(about))


def _read_sessions(sessions: Path, test: Path) -> Interactions:
    rows = [line.split() for line in _lines(sessions)]
    return _from_ids(np.arange(len(rows)), Ragged.from_lengths(_integers(sessions, rows), [len(row) for row in rows]))


def _read_pairs(path: Path) -> Interactions:
    return Interactions(*_columns(path, header=False, width=2))


def _read_college_msg(path: Path) -> Interactions:
    return Interactions(*_columns(path, header=False, width=3))


def _read_mind(path: Path) -> Interactions:
    rows = [line.split("\t") for line in _lines(path)]
    if wrong := [i for i, row in enumerate(rows) if len(row) != 5]:
        raise ValueError(f"{path}: expected 5 fields, got {len(rows[wrong[0]])} in line {wrong[0] + 1}")
    try:
        rows.sort(key=lambda row: datetime.strptime(row[2], "%m/%d/%Y %I:%M:%S %p"))  # stable
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    clicks: dict[str, list[str]] = {}
    for _, user, _, history, shown in rows:
        if user not in clicks:
            clicks[user] = history.split()
        clicks[user] += [article[:-2] for article in shown.split() if article.endswith("-1")]
    return Interactions(
        [user for user, articles in clicks.items() for _ in articles],
        [article for articles in clicks.values() for article in articles],
    )


# The files of a published archive, where it holds them in another form than a folder of data sets.
_ORIGINALS = {
    "ml-1m": ("ml-1m/ratings.dat", "ml-1m/movies.dat"),
    "ml-100k": ("ml-100k/u.data", "ml-100k/u.item"),
    "ml-latest-small": ("ml-latest-small/ratings.csv", "ml-latest-small/movies.csv"),
}
_READERS: dict[str, Callable[..., Any]] = {
    "ml-1m": _read_ml_1m,
    "ml-1m-timed": _read_ml_1m_timed,
    "ml-100k": _read_ml_100k,
    "ml-latest-small": _read_ml_latest_small,
    "amazon-beauty-bert4rec": _read_pairs,
    "amazon-grocery-rechorus": Interactions.from_file,
    "diginetica": _read_sessions,
    "yoochoose-1-64": _read_sessions,
    "retailrocket": _read_sessions,
    "college-msg": _read_college_msg,
    "mind-5k": _read_mind,
}
