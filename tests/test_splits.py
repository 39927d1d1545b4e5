import datetime as dt
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data import Interactions
from regard.ragged import Ragged
from regard.splits import Holdout, by_time, leave_one_out

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=60)


def original(data: Interactions | Holdout, rows: Ragged) -> dict:
    return {u: data.item_ids[row].tolist() for u, row in zip(data.user_ids.tolist(), rows, strict=True)}


def test_leave_one_out_holds_out_the_last_two_events() -> None:
    data = Interactions(
        ["a"] * 4 + ["b"] * 2 + ["c"] * 3, [1, 2, 3, 4, 5, 6, 1, 7, 8], datetime=range(9), titles={1: "One"}
    )
    split = leave_one_out(data)
    assert original(split.train, split.train.sequences) == {"a": [1, 2], "b": [5, 6], "c": [1]}
    assert split.train.times is not None and split.train.times.tolist() == [[0, 1], [4, 5], [6]]
    assert split.train.titles is data.titles
    assert split.validation is not None
    assert original(split.validation, split.validation.histories) == {"a": [1, 2], "c": [1]}
    assert original(split.validation, split.validation.targets) == {"a": [3], "c": [7]}
    assert original(split.test, split.test.histories) == {"a": [1, 2, 3], "c": [1, 7]}
    assert original(split.test, split.test.targets) == {"a": [4], "c": [8]}
    assert split.train.item_ids is split.validation.item_ids is split.test.item_ids is data.item_ids
    assert split.test.histories.values.dtype == split.test.targets.values.dtype == np.int32
    assert len(split.test) == 2


def test_leave_one_out_needs_a_user_with_three_events() -> None:
    with pytest.raises(ValueError, match="needs a user with 3 events, got 2 at most"):
        leave_one_out(Interactions([1, 1, 2], [1, 2, 3]))


@given(EVENTS, st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_a_split_by_time_equals_plain_lists(events: list[tuple[int, int, int]], first: int, second: int) -> None:
    data = Interactions(*zip(*events, strict=True))
    start, end = sorted((first, second))
    sorted_events = sorted(events, key=lambda event: event[2])
    users = sorted({user for user, _, _ in events})

    def items(user: int, low: int, high: int) -> list[int]:
        return [i for u, i, t in sorted_events if u == user and low <= t < high]

    train = {u: kept for u in users if (kept := items(u, -1, start))}
    asked = {
        (a, b): {u: (items(u, -1, a), new) for u in users if (new := items(u, a, b)) and items(u, -1, a)}
        for a, b in ((start, end), (end, 99))
    }
    if not train or start == end or not all(asked.values()):
        with pytest.raises(ValueError, match=r"leaves no|expected a moment before at"):
            by_time(data, at=end, validation_at=start)
        return
    split = by_time(data, at=end, validation_at=start)
    assert original(split.train, split.train.sequences) == train
    assert split.train.times is not None and (split.train.times.values < start).all()
    for holdout, expected in zip((split.validation, split.test), asked.values(), strict=True):
        assert holdout is not None
        assert original(holdout, holdout.histories) == {u: history for u, (history, _) in expected.items()}
        assert original(holdout, holdout.targets) == {u: targets for u, (_, targets) in expected.items()}
    assert split.train.item_ids is data.item_ids is split.test.item_ids


def test_without_a_second_moment_there_is_no_validation() -> None:
    data = Interactions([1, 1, 1, 2], [1, 2, 3, 4], ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03"])
    split = by_time(data, at="2020-01-02")
    assert split.validation is None
    assert original(split.test, split.test.targets) == {1: [2, 3]}  # user 2 has no history
    for same in (np.datetime64("2020-01-02"), dt.datetime(2020, 1, 2, tzinfo=dt.UTC), 1_577_923_200):
        assert by_time(data, at=same).fingerprint == split.fingerprint


def test_a_split_by_time_says_how_many_times_are_unknown() -> None:
    with pytest.raises(ValueError, match="needs every time, 3 of 3 are unknown"):
        by_time(Interactions([1, 1, 1], [1, 2, 3]), at=1)
    sequences = Ragged.from_lists([[0, 1, 2]])
    times = Ragged(np.array([1, np.nan, 3]), sequences.offsets)
    data = Interactions.from_sequences(np.array([1]), np.array([1, 2, 3]), sequences, times=times)
    with pytest.raises(ValueError, match="needs every time, 1 of 3 are unknown"):
        by_time(data, at=2)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ({"at": "soon"}, "at: expected a time, got 'soon'"),
        ({"at": float("nan")}, "at: expected a finite time"),
        ({"at": 2, "validation_at": 2}, "validation_at: expected a moment before at"),
        ({"at": 0}, "at: leaves no training event; the times go from 1 to 3"),
        ({"at": 9}, "at: leaves no test target"),
        ({"at": 3, "validation_at": 2.5}, "at: leaves no validation target"),
    ],
)
def test_moments_that_split_nothing_are_refused(moments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_time(Interactions([1, 1, 1], [1, 2, 3], [1, 2, 3]), **moments)


def test_the_fingerprint_is_the_hash_of_the_documented_text() -> None:
    data = Interactions([10] * 3 + [9] * 3, [1, 2, 3, 1, 2, 33])
    assert leave_one_out(data).fingerprint == hashlib.sha256(b"10\t3\n9\t33\n").hexdigest()
    timed = Interactions([10] * 3 + [9] * 3, [1, 2, 3, 1, 2, 33], [1, 2, 3] * 2)
    assert by_time(timed, at=2).fingerprint == hashlib.sha256(b"10\t2\t3\n9\t2\t33\n").hexdigest()


def test_the_fingerprint_depends_on_targets_only() -> None:
    users, items = np.repeat([7, 12, 3], 4), np.arange(12)
    reference = leave_one_out(Interactions(users, items)).fingerprint
    order = np.argsort(np.tile(np.arange(4), 3), kind="stable")
    assert leave_one_out(Interactions(users[order], items[order])).fingerprint == reference
    assert leave_one_out(Interactions(users.astype(str), items.astype(str))).fingerprint == reference
    assert leave_one_out(Interactions([*users, 99], [*items, 1000])).fingerprint == reference  # other numbering
    other = items.copy()
    other[[3, 2]] = other[[2, 3]]
    assert leave_one_out(Interactions(users, other)).fingerprint != reference
