import datetime as dt
import gzip
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data import Interactions, RegardDataWarning
from regard.ragged import Ragged


class Frame:
    """The least that a data frame can be."""

    def __init__(self, **columns: list) -> None:
        self.columns, self.cells = list(columns), columns

    def __getitem__(self, name: str) -> list:
        return self.cells[name]


def ids(data: Interactions) -> dict:
    return {u: data.item_ids[row].tolist() for u, row in zip(data.user_ids.tolist(), data.sequences, strict=True)}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_events_become_one_sequence_for_each_user_oldest_first() -> None:
    data = Interactions([5, 3, 5, 5], [30, 10, 10, 20], datetime=[3, 1, 1, 2], weight=[1, 2, 3, 4])
    assert ids(data) == {3: [10], 5: [10, 20, 30]}
    assert (data.n_users, data.n_items, data.n_events, len(data)) == (2, 3, 4, 4)
    assert data.sequences.values.dtype == np.int32
    assert data.times is not None and data.times.tolist() == [[1], [1, 2, 3]]
    assert data.weights is not None and data.weights.tolist() == [[2], [3, 4, 1]]
    assert data.weights.values.dtype == np.float32
    assert data.popularity().tolist() == [2, 1, 1]
    assert repr(data) == "Interactions(2 users, 3 items, 4 events)"


def test_equal_times_keep_file_order() -> None:
    data = Interactions([1] * 40, np.arange(40)[::-1], datetime=np.repeat([7.5, 7], 20))
    assert ids(data) == {1: [*range(19, -1, -1), *range(39, 19, -1)]}


def test_without_times_rows_are_in_order_already() -> None:
    assert ids(Interactions(["b", "a", "b"], [3, 2, 1])) == {"a": [2], "b": [3, 1]}


@given(st.lists(st.tuples(st.integers(0, 4), st.text("abé☃", min_size=1, max_size=3), st.integers(0, 5)), min_size=1))
@settings(max_examples=30, deadline=None)
def test_any_input_equals_a_plain_stable_sort(events: list[tuple[int, str, int]]) -> None:
    expected: dict[int, list[str]] = {}
    for user, item, _ in sorted(events, key=lambda event: (event[0], event[2])):
        expected.setdefault(user, []).append(item)
    users, items, times = zip(*events, strict=True)
    data = Interactions(users, items, times)
    assert ids(data) == expected
    assert data.item_ids.tolist() == sorted(set(items))
    assert data.rows_of(data.item_ids).tolist() == list(range(data.n_items))


def test_ids_of_any_type_are_int64_or_str() -> None:
    some = uuid.UUID(int=1)
    for given_ids, kept in (
        (np.array([2, 1], np.uint8), [1, 2]),
        ([np.int32(2), 1], [1, 2]),
        (np.array([2.0, 1.0]), [1, 2]),
        (np.array(["b", "a"]), ["a", "b"]),
        (np.array([b"b", b"a"]), ["a", "b"]),
        ([b"b", b"a"], ["a", "b"]),
        (np.array(["b", "a"], object), ["a", "b"]),
        (np.array(["b", "a"], np.dtypes.StringDType()), ["a", "b"]),
        ([some], [str(some)]),
        (np.array(["2020-01-01"], "datetime64[D]"), ["2020-01-01"]),
    ):
        data = Interactions([1] * len(kept), given_ids)
        assert data.item_ids.tolist() == kept
        assert data.item_ids.dtype.kind == ("i" if isinstance(kept[0], int) else "U")


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([1, "a"], TypeError, "item_id: expected ids that are all integers or all strings, got int and str"),
        ([True, False], TypeError, "item_id: .* got bool"),
        (np.array([True, False]), TypeError, "item_id: .* got bool"),
        (np.array([1.5, 2]), TypeError, "item_id: expected integers or strings as ids, got float64 with fractions"),
        ([1.5, 2], TypeError, "item_id: .* fractions"),
        (np.array([1, 2**63], np.uint64), ValueError, "item_id: an id is beyond the range of int64"),
        ([1, 2**63], ValueError, "item_id: an id is beyond the range of int64"),
        ([1, 2, 3], ValueError, r"item_id: expected 2 values \(as user_id\), got 3"),
        (np.ones((2, 2), int), ValueError, r"item_id: expected one dimension, got shape \(2, 2\)"),
    ],
)
def test_ids_that_cannot_be_are_refused_by_name(bad: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Interactions([1, 2], bad)


def test_an_id_that_numpy_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ids: 'a\\x00' ends in a NUL character"):
        Interactions([1, 1], ["a", "a\0"])


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="user_id: expected at least one row, got 0"):
        Interactions([], [])


def test_bad_rows_are_counted_by_reason_and_shown() -> None:
    nan = float("nan")
    with pytest.warns(RegardDataWarning, match="4 of 10 rows used") as caught:
        data = Interactions(
            ["a", None, "b", "c", "d", "e", "", "f", "g", "h"],
            ["x", "y", None, "x", "x", "x", "x", "x", "x", "z"],
            datetime=[1, 2, 3, nan, 5, np.inf, 7, 8, 9, 10],
            weight=[1, 1, 1, 1, "heavy", 1, nan, 1, 1, 1],
        )
    assert len(caught) == 1 and caught[0].filename == __file__
    report = data.report
    assert (report.n_rows, report.n_used, report.n_bad) == (10, 4, 6)
    assert [(bad.reason, bad.count) for bad in report.bad] == [
        ("user_id is missing", 2),
        ("item_id is missing", 1),
        ("datetime is missing or not a finite time", 2),
        ("weight is missing or not a finite number", 1),
    ]
    assert report.bad[0].examples[0] == (1, "user_id=None, item_id=y, datetime=2, weight=1")
    assert [number for number, _ in report.bad[2].examples] == [3, 5]
    assert data.user_ids.tolist() == ["a", "f", "g", "h"] and data.item_ids.tolist() == ["x", "z"]


def test_only_the_first_examples_are_shown() -> None:
    with pytest.warns(RegardDataWarning, match=r"20 left out, user_id is missing \(row 0: .*; \.\.\.\)"):
        data = Interactions(np.array([np.nan] * 20 + [4]), [1] * 21)
    assert len(data.report.bad[0].examples) == 3
    assert data.user_ids.tolist() == [4]


def test_only_bad_rows_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match="no usable rows: 0 of 1 rows used\n  1 left out, item_id is missing"):
        Interactions([1], [None])


def test_good_input_has_a_report_without_bad_rows() -> None:
    report = Interactions([1], [1]).report
    assert (report.n_rows, report.n_bad, report.bad) == (1, 0, ())


def test_all_ways_to_write_a_time_are_the_same_seconds() -> None:
    noon = 1_577_880_000
    for times in (
        [noon],
        [float(noon)],
        np.array(["2020-01-01T12"], "datetime64[h]"),
        np.array(["2020-01-01T12:00:00.000000000"], "datetime64[ns]"),
        [np.datetime64("2020-01-01T12")],
        [dt.datetime(2020, 1, 1, 12)],
        [dt.datetime(2020, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1)))],
        ["2020-01-01T12:00:00Z"],
        ["2020-01-01 14:00:00+02:00"],
        [str(noon)],
    ):
        data = Interactions([1], [1], times)
        assert data.times is not None and data.times.tolist() == [[noon]]
        assert data.times.values.dtype == np.int64
    for half in (np.array(["2020-01-01T12:00:00.5"], "datetime64[ms]"), [noon + 0.5], ["2020-01-01T12:00:00.5"]):
        data = Interactions([1], [1], half)
        assert data.times is not None and data.times.tolist() == [[noon + 0.5]]
    with pytest.warns(RegardDataWarning, match="datetime is missing"):
        Interactions([1, 1], [1, 2], np.array(["NaT", "2020-01-01"], "datetime64[D]"))
    with pytest.raises(TypeError, match="datetime: expected numbers, got bool"):
        Interactions([1], [1], np.array([True]))


def test_rows_of_unknown_ids_are_minus_one() -> None:
    data = Interactions([1, 1], ["b", "a"])
    rows = data.rows_of(["a", "zzz", "b", ""])
    assert rows.tolist() == [0, -1, 1, -1] and rows.dtype == np.int32
    assert data.rows_of([]).tolist() == []
    with pytest.raises(TypeError, match="expected str item ids, got int64"):
        data.rows_of([1])


def test_titles_follow_the_catalogue() -> None:
    data = Interactions([1, 1], [9, 4], titles={9: "Nine"})
    assert data.titles is not None and data.titles.tolist() == ["4", "Nine"]
    assert Interactions([1], [1]).titles is None


def test_columns_of_a_frame_are_found_by_name_by_alias_or_renamed() -> None:
    plain = Interactions.from_frame(
        Frame(user_id=[1, 1], item_id=[5, 4], datetime=[2, 1], weight=[1, 2], rating=[1, 5])
    )
    assert ids(plain) == {1: [4, 5]} and plain.weights is not None
    alias = Interactions.from_frame(Frame(userId=[1, 1], Movie_ID=[5, 4], timestamp=[2, 1], rating=[1, 5]))
    assert ids(alias) == {1: [4, 5]} and alias.weights is None
    named = Interactions.from_frame(Frame(who=[1], item_id=[5], item=[6]), columns={"who": "user_id"})
    assert ids(named) == {1: [5]}
    for frame, columns, message in (
        (Frame(who=[1], item_id=[5]), None, "no user_id among who, item_id; rename with {'who': 'user_id'}"),
        (
            Frame(user_id=[1], item=[5], movie=[5]),
            None,
            "item and movie could be item_id; say which, {'item': 'item_id'}",
        ),
        (Frame(user_id=[1], item=[5]), {"what": "item_id"}, "no column 'what', only user_id, item"),
        (Frame(user_id=[1], item=[5]), {"item": "thing"}, "expected one of user_id, item_id, datetime, weight"),
    ):
        with pytest.raises(ValueError, match=message):
            Interactions.from_frame(frame, columns=columns)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", " ", "::"])
def test_text_files_of_any_separator_are_read(tmp_path: Path, separator: str) -> None:
    rows = ["user item timestamp", "2 x 5", "1 y 4", "2 z 4"]
    path = write(tmp_path / "events.txt", "\n".join(row.replace(" ", separator) for row in rows) + "\n\n")
    data = Interactions.from_file(path, separator="::" if separator == "::" else None)
    assert ids(data) == {1: ["y"], 2: ["z", "x"]}
    assert data.times is not None and data.times.values.dtype == np.int64


def test_a_gzipped_file_with_quotes_a_byte_order_mark_and_crlf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.csv.gz"
    path.write_bytes(gzip.compress('\ufeffuser_id,item_id,datetime\r\nann,"tea, green",2020-01-01\r\n'.encode()))
    data = Interactions.from_file(path)
    assert ids(data) == {"ann": ["tea, green"]}
    assert data.times is not None and data.times.tolist() == [[1_577_836_800]]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"events.csv.gz: damaged or cut-off gzip file"):
        Interactions.from_file(path)


def test_a_file_without_header_takes_the_given_names(tmp_path: Path) -> None:
    path = write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    data = Interactions.from_file(path, columns=["user_id", "item_id", None, "datetime"])
    assert ids(data) == {186: [302], 196: [242]}


def test_bad_lines_of_a_file_are_reported_by_line_number(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "user,item,time\n1,2,3\n1,2\n,7,3\n1,5,soon\n1,9,1\n")
    with pytest.warns(RegardDataWarning, match="2 of 5 rows used") as caught:
        data = Interactions.from_file(path)
    assert str(caught[0].message).splitlines() == [
        "2 of 5 rows used",
        "  1 left out, not 3 fields (line 3: 1,2)",
        "  1 left out, user_id is missing (line 4: user_id=None, item_id=7, datetime=3)",
        "  1 left out, datetime is missing or not a finite time (line 5: user_id=1, item_id=5, datetime=soon)",
    ]
    assert ids(data) == {1: [9, 2]}
    assert caught[0].filename == __file__


def test_ids_in_text_are_integers_only_if_all_are_plain_ones(tmp_path: Path) -> None:
    for cells, expected in ((["1", "-2"], [-2, 1]), (["1", "02"], ["02", "1"]), (["1", "a"], ["1", "a"])):
        path = write(tmp_path / "x.csv", "user,item\n" + "".join(f"7,{cell}\n" for cell in cells))
        assert Interactions.from_file(path).item_ids.tolist() == expected
    path = write(tmp_path / "x.csv", f"user,item\n1,{2**63}\n1,{2**63 - 1}\n")
    assert Interactions.from_file(path).item_ids.dtype.kind == "U"


def test_files_that_cannot_be_read_say_so_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.csv: the file is empty"):
        Interactions.from_file(write(tmp_path / "x.csv", ""))
    with pytest.raises(ValueError, match="expected at least one row, got 0"):
        Interactions.from_file(write(tmp_path / "x.csv", "user,item\n"))
    with pytest.raises(ValueError, match=r"no usable rows: .*\n.*not 2 fields"):
        Interactions.from_file(write(tmp_path / "x.csv", "user,item\n1\n"))
    (tmp_path / "x.csv").write_bytes(b"user,item\n1,\xff\n")
    with pytest.raises(ValueError, match=r"x.csv: expected UTF-8 text"):
        Interactions.from_file(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError):
        Interactions.from_file(tmp_path / "none.csv")


def test_parquet_is_read_with_polars(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    path = tmp_path / "x.parquet"
    frame = polars.DataFrame(
        {"user": ["a", "a", None], "item": [2, None, 3], "datetime": [dt.datetime(2020, 1, 1)] * 3}
    )
    frame.write_parquet(path)
    with pytest.warns(RegardDataWarning, match="1 of 3 rows used"):
        data = Interactions.from_file(path)
    assert ids(data) == {"a": [2]}
    assert data.times is not None and data.times.tolist() == [[1_577_836_800]]


def test_parquet_without_polars_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=r"pip install 'regard\[files\]'"):
        Interactions.from_file(tmp_path / "x.parquet")


def test_from_sequences_keeps_the_catalogue_and_checks_its_arguments() -> None:
    users, items, sequences = np.array([1, 2]), np.array(["a", "b", "c"]), Ragged.from_lists([[2], [0, 2]])
    data = Interactions.from_sequences(users, items, sequences, times=Ragged([1, 2, 3], sequences.offsets))
    assert ids(data) == {1: ["c"], 2: ["a", "c"]}
    assert data.popularity().tolist() == [1, 0, 2]
    for wrong, message in (
        ({"user_ids": users[::-1]}, "user_ids: expected sorted, unique"),
        ({"item_ids": items[[0, 0, 1]]}, "item_ids: expected sorted, unique"),
        ({"sequences": sequences[:1]}, r"sequences: expected 2 rows \(as user_ids\), got 1"),
        ({"sequences": Ragged([3, 0], [0, 1, 2])}, "sequences: expected item rows from 0 to 2"),
        ({"times": Ragged([1, 2, 3], [0, 2, 3])}, "times: expected the offsets of sequences"),
        ({"titles": np.array(["A"])}, r"titles: expected 3 \(as item_ids\), got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Interactions.from_sequences(**{"user_ids": users, "item_ids": items, "sequences": sequences, **wrong})


def test_a_sample_of_users_keeps_what_they_had_and_no_other_item() -> None:
    data = Interactions(["a", "b", "b", "c"], [7, 9, 8, 7], datetime=[1, 3, 2, 4], weight=[1, 2, 3, 4], titles={8: "x"})
    sample = data.take([2, 1, 1])
    assert sample.user_ids.tolist() == ["b", "c"] and sample.item_ids.tolist() == [7, 8, 9]
    assert sample.sequences.tolist() == [[1, 2], [0]] and data.take(range(1, 2)).item_ids.tolist() == [8, 9]
    assert sample.times is not None and sample.times.tolist() == [[2, 3], [4]]
    assert sample.weights is not None and sample.weights.tolist() == [[3, 2], [4]]
    assert sample.titles is not None and sample.titles.tolist() == ["7", "x", "9"]


def test_a_sample_is_taken_by_numbers_or_by_a_mask():
    data = Interactions([1, 1, 2, 3], [5, 6, 6, 7])
    for users in ([0, 2], [2, -3], np.array([True, False, True]), range(0, 3, 2)):
        assert data.take(users).user_ids.tolist() == [1, 3]
    assert data.take([]).n_users == 0
    with pytest.raises(IndexError):
        data.take([True, False])


def test_ids_of_ready_sequences_become_int64():
    data = Interactions([1, 1, 2], [5, 6, 6])
    short = Interactions.from_sequences(data.user_ids.astype(np.int16), data.item_ids.astype(np.int32), data.sequences)
    assert short.user_ids.dtype == short.item_ids.dtype == np.int64
