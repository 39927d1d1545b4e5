"""Data frames of each library give what plain lists give, and get back their own kind."""

import datetime as dt
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import regard
from regard.baselines import Popularity
from regard.data import Interactions, RegardDataWarning
from regard.ragged import Ragged
from regard.splits import leave_one_out
from regard.tables import encode, event_order

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("narwhals")

Columns = dict[str, list[Any]]
EPOCH = dt.datetime(1970, 1, 1)


def dictionary_encoded(columns: Columns) -> Any:
    table = pyarrow.table(columns)
    for i, name in enumerate(table.column_names):
        if pyarrow.types.is_string(table.schema.field(name).type):
            table = table.set_column(i, name, table[name].dictionary_encode())
    return table


MAKERS: dict[str, Callable[[Columns], Any]] = {
    "pandas": pandas.DataFrame,
    "pandas objects": lambda c: pandas.DataFrame(
        {name: pandas.Series(cells, dtype=object) for name, cells in c.items()}
    ),
    "pandas nullable": lambda c: pandas.DataFrame(c).convert_dtypes(),
    "pandas arrow": lambda c: pandas.DataFrame(c).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, odd index": lambda c: pandas.DataFrame(c, index=[7] * len(c["user_id"])),
    "polars": polars.DataFrame,
    "polars lazy": polars.LazyFrame,
    "polars categories": lambda c: polars.DataFrame(c).with_columns(polars.col(polars.String).cast(polars.Categorical)),
    "polars chunks": lambda c: polars.concat([polars.DataFrame(c)[:1], polars.DataFrame(c)[1:]], rechunk=False),
    "pyarrow": pyarrow.table,
    "pyarrow chunks": lambda c: pyarrow.concat_tables([pyarrow.table(c)[:1], pyarrow.table(c)[1:]]),
    "pyarrow dictionaries": dictionary_encoded,
}
FRAMES = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def same(a: Interactions, b: Interactions) -> bool:
    """Whether everything but the text of the report is equal to the bit, types included."""
    pairs: list[tuple[Any, Any]] = [(a.user_ids, b.user_ids), (a.item_ids, b.item_ids)]
    for x, y in ((a.sequences, b.sequences), (a.times, b.times), (a.weights, b.weights)):
        if x is not None and y is not None:
            pairs += [(x.values, y.values), (x.offsets, y.offsets)]
        elif x is not y:
            return False
    counts = [[(bad.reason, bad.count, [row for row, _ in bad.examples]) for bad in d.report.bad] for d in (a, b)]
    return counts[0] == counts[1] and all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def quietly(read: Callable[..., Interactions], *args: Any) -> Interactions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegardDataWarning)
        return read(*args)


def numbers(lowest: float | None = None, highest: float | None = None) -> st.SearchStrategy[float]:
    """Finite, and zero without a sign: pandas makes integers of whole numbers, which have no -0.0."""
    return st.floats(lowest, highest, allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)


words = st.text("aé☃𝄞'\", \t\\", max_size=3)
ids = st.one_of(
    st.lists(st.integers(-3, 40), min_size=1, max_size=30),
    st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=30),
    st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=30),
    st.lists(st.none() | words, min_size=1, max_size=30),
)
times = st.one_of(
    st.lists(st.integers(0, 5), min_size=30, max_size=30),
    st.lists(st.none() | st.integers(0, 5), min_size=30, max_size=30),
    st.lists(numbers(-1e3, 1e3), min_size=30, max_size=30),
    st.lists(st.none() | numbers(0, 9), min_size=30, max_size=30),
    st.lists(st.none() | st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2060, 1, 1)), min_size=30, max_size=30),
    st.lists(
        st.sampled_from([None, "2020-01-01", "7", "", "soon", "1969-12-31T23:59:59.5+01:00"]), min_size=30, max_size=30
    ),
)
weights = st.lists(st.none() | numbers(), min_size=30, max_size=30)


@FRAMES
@given(users=ids, items=ids, when=times, weight=weights)
@settings(max_examples=60, deadline=None)
def test_a_frame_of_any_library_gives_what_lists_give(
    make: Callable[[Columns], Any], users: list, items: list, when: list, weight: list
) -> None:
    n = min(len(users), len(items))
    columns = {"user_id": users[:n], "item_id": items[:n], "datetime": when[:n], "weight": weight[:n]}
    if any(all(cell is None for cell in cells) for cells in columns.values()):
        return  # a column without a type; has its own test
    plain: Columns = {name: list(cells) for name, cells in columns.items()}
    try:
        expected = quietly(Interactions, *plain.values())
    except ValueError:
        with pytest.raises(ValueError, match="no usable rows"):
            quietly(Interactions.from_frame, make(columns))
        return
    assert same(quietly(Interactions.from_frame, make(columns)), expected)


@FRAMES
def test_a_column_of_nothing_but_missing_values_leaves_no_usable_row(make: Callable[[Columns], Any]) -> None:
    with pytest.raises(ValueError, match="2 left out, item_id is missing"):
        Interactions.from_frame(make({"user_id": [1, 2], "item_id": [None, None]}))


def test_times_with_a_zone_are_moments() -> None:
    noon = dt.datetime(2020, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    utc = pandas.Series([noon]).dt.tz_convert("Asia/Tokyo")
    for when in (utc, polars.Series("t", [noon]).dt.convert_time_zone("Asia/Tokyo")):
        columns = {"user_id": [1], "item_id": [1], "datetime": when}
        frames = [pandas.DataFrame(columns)] if when is utc else [polars.DataFrame(columns), polars.LazyFrame(columns)]
        for frame in frames:
            data = Interactions.from_frame(frame)
            assert data.times is not None and data.times.tolist() == [[1_577_880_000]]
    table = pyarrow.table({"user_id": [1], "item_id": [1], "datetime": pyarrow.array([noon])})
    assert Interactions.from_frame(table).times.tolist() == [[1_577_880_000]]


def test_missing_integers_do_not_cost_the_last_digits_of_the_others() -> None:
    frame = polars.DataFrame({"user_id": [2**62 + 1, None], "item_id": [1, 2]})
    with pytest.warns(RegardDataWarning, match=r"user_id is missing \(row 1: user_id=None, item_id=2\)"):
        assert Interactions.from_frame(frame).user_ids.tolist() == [2**62 + 1]


def test_bad_cells_of_a_frame_are_shown_as_they_are() -> None:
    frame = polars.DataFrame({"user_id": ["ann", "bob", " "], "item_id": ["x", None, "y"], "datetime": ["3", "4", "5"]})
    with pytest.warns(RegardDataWarning) as caught:
        Interactions.from_frame(frame)
    assert str(caught[0].message).splitlines()[1:] == [
        "  1 left out, user_id is missing (row 2: user_id= , item_id=y, datetime=5)",
        "  1 left out, item_id is missing (row 1: user_id=bob, item_id=None, datetime=4)",
    ]
    assert caught[0].filename == __file__


def test_only_the_needed_columns_of_a_lazy_frame_are_computed() -> None:
    def fail(_: Any) -> Any:
        raise AssertionError("computed")

    lazy = polars.LazyFrame({"user": [1], "item": [2]}).with_columns(
        other=polars.col("user").map_batches(fail, return_dtype=polars.Int64)
    )
    assert Interactions.from_frame(lazy).n_events == 1


@pytest.mark.parametrize("make", [MAKERS[name] for name in ("pandas", "pandas objects", "polars")])
def test_frames_are_read_without_narwhals(make: Callable[[Columns], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"user_id": ["b", "a", "b"], "item_id": [3, 1, 2], "datetime": [EPOCH, EPOCH, EPOCH]}
    monkeypatch.setitem(sys.modules, "narwhals.stable.v1", None)
    assert same(Interactions.from_frame(make(columns)), Interactions(*columns.values()))


@pytest.mark.parametrize("kind", ["pyarrow", "polars lazy"])
def test_a_lazy_frame_or_a_table_without_narwhals_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = MAKERS[kind]({"user_id": [1], "item_id": [2]})
    monkeypatch.setitem(sys.modules, "narwhals.stable.v1", None)
    with pytest.raises(ImportError, match=r"reading a .* needs narwhals: pip install 'regard\[frames\]'"):
        Interactions.from_frame(frame)


# ---- frames out ------------------------------------------------------------------------------------------------------

KINDS = {
    "pandas": pandas.DataFrame,
    "polars": polars.DataFrame,
    "polars lazy": polars.DataFrame,
    "pyarrow": pyarrow.Table,
}


def cells(frame: Any) -> Columns:
    if isinstance(frame, pyarrow.Table):
        return frame.to_pydict()
    return frame.to_dict("list") if isinstance(frame, pandas.DataFrame) else frame.to_dict(as_series=False)


@pytest.mark.parametrize("kind", KINDS)
def test_recommendations_for_a_frame_are_a_frame_of_its_kind_with_the_users(kind: str) -> None:
    model = Popularity().fit(Interactions([1, 1, 1, 2, 2, 3], ["a", "b", "c", "a", "b", "a"]))
    histories = MAKERS[kind](
        {"user_id": ["zoe", "ann", "zoe"], "item_id": ["b", "a", "q"], "datetime": [EPOCH, EPOCH, EPOCH]}
    )
    result = model.recommend(histories, k=2)
    frame = result.to_frame()
    assert type(frame) is KINDS[kind]
    assert cells(frame) == {
        "user_id": ["zoe", "zoe", "ann", "ann"],
        "item_id": ["a", "c", "b", "c"],
        "score": [3, 1, 2, 1],
        "rank": [1, 2, 1, 2],
    }
    items, scores, *_ = result
    assert items is result.items and scores is result.scores and len(result) == 4
    assert result.n_unknown.tolist() == [1, 0]


@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_recommendations_for_lists_are_a_frame_of_the_library_that_is_asked_for(library: str) -> None:
    result = Popularity().fit(Interactions([1, 1], [5, 6])).recommend([[5]], k=1)
    frame = result.to_frame(library)
    assert type(frame) is KINDS[library]
    assert cells(frame) == {"row": [0], "item_id": [6], "score": [1], "rank": [1]}
    with pytest.raises(ValueError, match="library: expected one of polars, pandas, pyarrow, got 'excel'"):
        result.to_frame("excel")


def test_histories_of_a_frame_without_rows_are_no_histories() -> None:
    frame = polars.DataFrame(schema={"user_id": polars.String, "item_id": polars.Int64})
    result = Popularity().fit(Interactions([1], [5])).recommend(frame)
    assert result.items.shape == (0, 10) and cells(result.to_frame())["user_id"] == []


@pytest.mark.parametrize("column", ["user_id", "item_id", "datetime"])
def test_missing_values_in_a_frame_of_histories_are_refused_by_column(column: str) -> None:
    model = Popularity().fit(Interactions([1], [5]))
    columns: Columns = {"user_id": [1, 2], "item_id": [5, 5], "datetime": [1, 2]}
    columns[column][1] = None
    for kind in ("polars", "pyarrow", "pandas nullable"):
        with pytest.raises((TypeError, ValueError), match=f"histories: column '{column}' has missing values"):
            model.recommend(MAKERS[kind](columns))


@given(
    st.lists(st.tuples(words.filter(str.strip), st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=20),
    st.sampled_from(["pandas", "polars", "polars lazy", "pyarrow"]),
)
@settings(max_examples=60, deadline=None)
def test_interactions_become_a_frame_of_the_kind_that_came_in_and_the_same_again(events: list, kind: str) -> None:
    users, items, when = map(list, zip(*events, strict=True))
    columns = {"user_id": users, "item_id": items, "datetime": when, "weight": [t / 3 for t in when]}
    data = Interactions.from_frame(MAKERS[kind](columns))
    frame = data.to_frame()
    assert type(frame) is KINDS[kind] and list(cells(frame)) == list(columns)
    again = Interactions.from_frame(frame)
    assert same(again, data)
    assert cells(again.to_frame()) == cells(frame)


def test_interactions_of_lists_become_the_frame_that_is_asked_for_without_unknown_columns() -> None:
    data = Interactions([2, 1], ["x", "y"])
    for library in ("pandas", "polars", "pyarrow"):
        frame = data.to_frame(library)
        assert type(frame) is KINDS[library] and cells(frame) == {"user_id": [1, 2], "item_id": ["y", "x"]}


def test_the_training_part_of_a_frame_becomes_a_frame_of_its_kind() -> None:
    split = leave_one_out(Interactions.from_frame(pyarrow.table({"user_id": [1, 1, 1], "item_id": [5, 6, 7]})))
    assert split.train.to_frame().to_pydict() == {"user_id": [1], "item_id": [5]}


# ---- what makes it fast equals what is plain -------------------------------------------------------------------------

wide = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.one_of(st.integers(-5, 5), st.integers(0, 3000), wide), min_size=1, max_size=50))
def test_encoding_integers_equals_unique(numbers: list[int]) -> None:
    array = np.array(numbers, np.int64)
    unique, places = encode(array)
    expected, inverse = np.unique(array, return_inverse=True)
    assert unique.dtype == np.int64 and unique.tolist() == expected.tolist() and places.tolist() == inverse.tolist()


moments = st.one_of(
    st.lists(st.integers(0, 3), min_size=50, max_size=50),
    st.lists(st.one_of(st.integers(2**40, 2**40 + 70_000), wide), min_size=50, max_size=50),
    st.lists(st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(0, 1e10)), min_size=50, max_size=50),
    st.lists(st.floats(-1e10, 1e10), min_size=50, max_size=50),
)


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 200_000)), min_size=1, max_size=50), moments, st.booleans())
@settings(max_examples=300)
def test_the_order_of_events_equals_a_lexical_sort(users: list[int], when: list, ordered: bool) -> None:
    user, time = np.array(users), np.array(sorted(when) if ordered else when)[: len(users)]
    assert event_order(user, time).tolist() == np.lexsort((time, user)).tolist()
    assert event_order(user, None).tolist() == np.argsort(user, kind="stable").tolist()


def test_a_user_with_a_million_events_keeps_their_order() -> None:
    n = 1_000_000
    when = np.random.default_rng(0).integers(0, 1000, n)
    data = Interactions.from_frame(
        polars.DataFrame({"user_id": np.zeros(n, int), "item_id": np.arange(n), "datetime": when})
    )
    assert data.sequences == Ragged(np.argsort(when, kind="stable"), [0, n])


@FRAMES
def test_a_frame_without_rows_or_without_a_needed_column_is_refused(make: Callable[[Columns], Any]) -> None:
    with pytest.raises(ValueError, match="user_id: expected at least one row, got 0"):
        Interactions.from_frame(make({"user_id": [], "item_id": []}))
    with pytest.raises(ValueError, match="columns: no item_id among user_id, price; rename with"):
        Interactions.from_frame(make({"user_id": ["a"], "price": [2]}))


@pytest.mark.slow
def test_the_benchmark_of_the_data_path_agrees_with_pandas_and_polars(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "data_path.py"
    results = tmp_path / "results.json"
    subprocess.run(
        [sys.executable, str(script), "--rows", "20000", "--repeats", "1", "--results", str(results)],
        check=True,
        timeout=600,
    )
    rows = json.loads(results.read_text())
    assert len(rows) == 10 and len({(row["ids"], row["digest"]) for row in rows}) == 2
    assert all(row["rows_per_second"] > 0 and row["peak_memory_mb"] > 0 for row in rows)


def test_missing_values_of_nullable_columns_are_missing_features() -> None:
    price, kind = pandas.array([3, None], dtype="Int64"), pandas.array(["a", None], dtype="string")
    frame = pandas.DataFrame({"item_id": [1, 2], "price": price, "kind": kind})
    features = regard.ItemFeatures.from_frame(frame, numbers=["price"], categories=["kind"])
    np.testing.assert_array_equal(features.numbers["price"], [3, np.nan])
    assert features.categories["kind"] == [["a"], []]
    with pytest.raises(TypeError, match="categories"):
        regard.ItemFeatures([1], categories={"kind": [np.inf]})


def test_columns_named_by_numbers_are_found() -> None:
    frame = pandas.DataFrame([[1, 5], [1, 6]])
    for columns in ({0: "user_id", 1: "item_id"}, {"0": "user_id", "1": "item_id"}):
        assert regard.Interactions.from_frame(frame, columns=columns).item_ids.tolist() == [5, 6]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"bad\.parquet: damaged, or not a Parquet file"):
        regard.Interactions.from_file(tmp_path / "bad.parquet")
