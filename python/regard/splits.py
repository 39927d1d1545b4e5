"""Splits into training, validation and test, each with a fingerprint that says which test it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import html
from .data import Interactions
from .ragged import Ragged
from .tables import seconds
from .timed import TimedHistories

__all__ = ["Holdout", "Split", "by_time", "leave_last_out", "leave_one_out"]


@dataclass(frozen=True, eq=False)
class Holdout:
    """What a model is asked: for each user a history, and the items that really followed.

    Attributes
    ----------
    item_ids : (n_items,) int64 or str
        The catalogue; histories and targets are rows of it.
    user_ids : (n,) int64 or str
        Sorted, unique.
    histories, targets : Ragged of int32
        One row for each user, oldest first; none is empty. Where every time is known the histories are
        `TimedHistories`, asked about the time of the first target.
    """

    item_ids: NDArray[Any]
    user_ids: NDArray[Any]
    histories: Ragged
    targets: Ragged

    def __len__(self) -> int:
        return len(self.user_ids)

    def __repr__(self) -> str:
        return f"Holdout({len(self):,} users, {len(self.targets.values):,} targets)"

    def take(self, rows: NDArray[Any]) -> Holdout:
        """The given users."""
        return Holdout(self.item_ids, self.user_ids[rows], self.histories.take(rows), self.targets.take(rows))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the targets in original ids.

        The hashed text is UTF-8 and has one line for each user: the user id, a tab, the ids of the targets in order
        with a tab between each two, a newline. Lines are sorted by their bytes. So neither the internal numbering,
        nor the order of the input, nor whether ids are 7 or "7" matters.
        """
        users = self.user_ids.tolist()
        items = Ragged(self.item_ids[self.targets.values], self.targets.offsets).tolist()
        lines = ["\t".join(map(str, [user, *row])) + "\n" for user, row in zip(users, items, strict=True)]
        return hashlib.sha256(b"".join(sorted(line.encode() for line in lines))).hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Training data and the two holdouts. All three share one catalogue, the `item_ids` of the whole data.

    Attributes
    ----------
    train : Interactions
    validation : Holdout, or None
        To choose settings and to stop training.
    test : Holdout
        To be looked at once.
    fingerprint : str
        ``test.fingerprint()``: two results compare only where these are equal.
    """

    train: Interactions
    validation: Holdout | None
    test: Holdout
    fingerprint: str

    def _repr_html_(self) -> str:
        rows = [
            (name, part.n_users if isinstance(part, Interactions) else len(part), _events(part))
            for name in ("train", "validation", "test")
            if (part := getattr(self, name)) is not None
        ]
        return html.table(f"Split {self.fingerprint[:12]}", rows, ["", "users", "events or targets"])


def _events(part: Interactions | Holdout) -> int:
    return part.n_events if isinstance(part, Interactions) else len(part.targets.values)


def leave_one_out(data: Interactions) -> Split:
    """Hold out the last two events of every user.

    With ``seq`` a user's sequence: train on ``seq[:-2]``; the validation target is ``seq[-2]`` given ``seq[:-2]``; the
    test target is ``seq[-1]`` given ``seq[:-1]``, so that the history of the test has the validation target. Users
    with fewer than 3 events only train, with all of them. An item that is seen in held-out places only stays in the
    catalogue.

    Raises
    ------
    ValueError
        If no user has 3 events.
    """
    sequences = data.sequences
    asked = np.flatnonzero(sequences.lengths >= 3)
    if not len(asked):
        most = sequences.lengths.max(initial=0)
        raise ValueError(f"data: leave-one-out needs a user with 3 events, got {most} at most")
    long = data.timed_sequences.take(asked)
    users = data.user_ids[asked]
    validation = _asked(data.item_ids, users, long.drop_last(2), long.drop_last(1).tail(1))
    test = _asked(data.item_ids, users, long.drop_last(1), long.tail(1))
    train = _heads(data, sequences.lengths - np.where(sequences.lengths >= 3, 2, 0))
    return Split(train, validation, test, test.fingerprint())


def leave_last_out(data: Interactions) -> tuple[Interactions, Holdout]:
    """Hold out the last event of every user with 3 events or more, to choose settings when no test is wanted.

    Returns
    -------
    train : Interactions
    validation : Holdout
        Empty if no user has 3 events.
    """
    lengths = data.sequences.lengths
    kept = lengths - (lengths >= 3)
    return _heads(data, kept), _holdout(data, kept, lengths)


def by_time(data: Interactions, *, at: Any, validation_at: Any = None) -> Split:
    """Hold out what happened from a moment on, the same moment for all users.

    Test: for every user with events before `at` and from `at` on, the history is all events before `at` (those of the
    validation span as well) and the targets are all events from `at` on, in order; the history does not grow from
    target to target. Validation likewise: history before `validation_at`, targets from there to `at`. Train: the
    events before the first of the two moments, of the users who have any.

    Users without an event before a moment are not asked there: no history, nothing personal to predict. Items first
    seen after the training span remain in the catalogue and among the targets, where a model cannot but miss them.

    Parameters
    ----------
    data : Interactions
        With the time of every event.
    at : number (Unix seconds), datetime, numpy.datetime64 or ISO 8601 text
    validation_at : like `at`, default None
        An earlier moment. None: ``split.validation`` is None.

    Raises
    ------
    ValueError
        If a time is unknown (the message says how many), if the moments are in the wrong order, or if nothing is left
        to train on or to test.
    """
    unknown = data.n_events if data.times is None else int(np.isnan(data.times.values).sum())
    if data.times is None or unknown:
        raise ValueError(f"data: a split by time needs every time, {unknown:,} of {data.n_events:,} are unknown")
    end = _moment("at", at)
    start = end if validation_at is None else _moment("validation_at", validation_at)
    if start > end or (start == end and validation_at is not None):
        raise ValueError(f"validation_at: expected a moment before at ({at}), got {validation_at}")
    n_train, n_before = _counts_before(data.times, start), _counts_before(data.times, end)
    train = _heads(data, n_train, np.flatnonzero(n_train))
    test = _holdout(data, n_before, data.sequences.lengths)
    validation = None if validation_at is None else _holdout(data, n_train, n_before)
    for name, left in (("training event", len(train)), ("test target", len(test)), ("validation target", validation)):
        if left is not None and not (left if isinstance(left, int) else len(left)):
            known = data.times.values
            raise ValueError(f"at: leaves no {name}; the times go from {known.min()} to {known.max()} (Unix seconds)")
    return Split(train, validation, test, test.fingerprint())


def _moment(name: str, time: Any) -> float:
    try:
        moment = seconds(time)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a time, got {time!r}") from error
    if not np.isfinite(moment):
        raise ValueError(f"{name}: expected a finite time, got {time!r}")
    return moment


def _counts_before(times: Ragged, moment: float) -> NDArray[np.int64]:
    """How many times of each row are before the moment."""
    before = np.concatenate([[0], np.cumsum(times.values < moment)])
    return np.diff(before[times.offsets])


def _heads(data: Interactions, counts: NDArray[np.int64], users: NDArray[np.int64] | None = None) -> Interactions:
    """The first `counts` events of each user; of the given users only, if given."""

    def cut(rows: Ragged | None) -> Ragged | None:
        kept = None if rows is None else rows.head(counts)
        return kept if kept is None or users is None else kept.take(users)

    sequences = cut(data.sequences)
    assert sequences is not None
    heads = Interactions.from_sequences(
        data.user_ids if users is None else data.user_ids[users],
        data.item_ids,
        sequences,
        times=cut(data.times),
        weights=cut(data.weights),
        titles=data.titles,
        features=data.features,
    )
    heads.library = data.library
    return heads


def _holdout(data: Interactions, start: NDArray[np.int64], end: NDArray[np.int64]) -> Holdout:
    """Histories ``seq[:start]`` and targets ``seq[start:end]`` of the users who have both."""
    asked = np.flatnonzero((start > 0) & (end > start))
    known = data.timed_sequences.head(end).take(asked)
    targets = known.tail((end - start)[asked])
    return _asked(data.item_ids, data.user_ids[asked], known.head(start[asked]), targets)


def _asked(item_ids: NDArray[Any], user_ids: NDArray[Any], histories: Ragged, targets: Ragged) -> Holdout:
    if isinstance(histories, TimedHistories) and isinstance(targets, TimedHistories):
        histories.asked_at = targets.times[targets.offsets[:-1]]
    return Holdout(item_ids, user_ids, histories, Ragged(targets.values, targets.offsets))
