"""Histories in, recommendations out: what holds for every recommender, shown on one with fixed scores."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.ragged import Ragged
from regard.ranking import best, expected_ranks, masked, union
from regard.recommender import OK, POPULAR, SHORT, Recommender

IDS = np.array([10, 20, 30, 40, 50])
NAMES = np.array(["ant", "bee", "cat", "dog", "eel"])


class Fixed(Recommender):
    """The same scores for everyone: 10 is best, then 20, 30, 40, 50; popularity says the opposite."""

    def __init__(self, *, slope: float = 1.0) -> None:
        self.slope = slope

    def fit(self, data):
        self._set_catalogue(data)
        return self

    def _scores(self, histories):
        assert histories.lengths.all()
        return np.repeat(-self.slope * np.arange(len(self.item_ids_), dtype=np.float32)[None], len(histories), axis=0)

    def _item_similarities(self, rows):
        return -np.abs(rows[:, None] - np.arange(len(self.item_ids_))).astype(np.float32)


def fitted(item_ids=IDS):
    popularity = np.arange(len(item_ids)) + 1
    return Fixed().fit(SimpleNamespace(item_ids=item_ids, titles=None, popularity=lambda: popularity))


model, named = fitted(), fitted(NAMES)


# ---- forms of histories ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history", [[10, 30], (10, 30), np.array([10, 30]), np.array([10, 30], np.uint8), range(10, 31, 20)]
)
def test_a_flat_list_is_one_history(history):
    items, scores, flags, n_unknown = model.recommend(history, k=2)
    assert items.tolist() == [[20, 40]] and scores.tolist() == [[-1, -3]]
    assert flags.tolist() == [OK] and n_unknown.tolist() == [0]
    assert (items.dtype, scores.dtype, n_unknown.dtype) == (np.int64, np.float32, np.int64)


@pytest.mark.parametrize(
    "histories",
    [
        [[10, 30], [20, 40]],
        ([10, 30], np.array([20, 40])),
        np.array([[10, 30], [20, 40]]),
        Ragged.from_lists([[10, 30], [20, 40]]),
    ],
)
def test_a_list_of_lists_is_a_batch(histories):
    assert model.recommend(histories, k=2).items.tolist() == [[20, 40], [10, 30]]


def test_strings_are_ids_and_not_lists_of_letters():
    assert named.recommend(["ant", "cat"], k=2).items.tolist() == [["bee", "dog"]]
    assert named.recommend([["ant"], ["bee", "?"]], k=1).items.tolist() == [["bee"], ["ant"]]
    assert named.recommend(np.array(["ant"], object), k=1).items.tolist() == [["bee"]]
    with pytest.raises(TypeError, match="list of item ids"):
        named.recommend("ant")


def test_a_data_frame_gives_one_row_per_user_in_order_of_appearance_and_events_in_order_of_time():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"user_id": ["z", "a", "z"], "item_id": [10, 20, 30], "datetime": [2.0, 1.0, 1.0]})
    seen = []
    watcher = fitted()
    watcher._scores = lambda histories: seen.append(histories.tolist()) or Fixed._scores(watcher, histories)
    assert watcher.recommend(frame, k=1).items.tolist() == [[20], [10]]
    assert watcher.recommend(frame.drop("datetime"), k=1).items.tolist() == [[20], [10]]
    assert seen == [[[2, 0], [1]], [[0, 2], [1]]]


def test_a_data_frame_without_a_needed_column_or_with_missing_times_is_refused():
    polars = pytest.importorskip("polars")
    with pytest.raises(ValueError, match="no column 'user_id', only item_id"):
        model.recommend(polars.DataFrame({"item_id": [1]}))
    with pytest.raises(ValueError, match="datetime"):
        model.recommend(polars.DataFrame({"user_id": [1, 1], "item_id": [10, 20], "datetime": [1.0, None]}))


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        (["10"], "str"),
        ([10.0], "float"),
        ([10, float("nan")], "float"),
        ([10, None], "None"),
        ([10, "bee"], "int64 and str"),
        ([True], "bool"),
        (np.array([10.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array(["10"]), "str"),
        ([[10], ["10"]], "str"),
        ([[[10]]], "list"),
    ],
)
def test_ids_of_another_type_are_refused_with_expected_and_got(ids, got):
    with pytest.raises(TypeError, match=f"histories: expected int64 item ids, got .*{got}"):
        model.recommend(ids)


def test_a_model_of_strings_refuses_numbers():
    with pytest.raises(TypeError, match="histories: expected str item ids, got int64"):
        named.recommend([1, 2])
    with pytest.raises(TypeError, match="allow_items: expected str item ids, got int64"):
        named.recommend(["ant"], allow_items=[1])


def test_a_flat_list_must_not_be_mixed_with_lists():
    with pytest.raises(TypeError, match="mix of both"):
        model.recommend([10, [20]])


def test_an_integer_beyond_int64_is_refused():
    with pytest.raises(ValueError, match="int64"):
        model.recommend([2**63])
    with pytest.raises(ValueError, match="int64"):
        model.recommend(np.array([2**63], np.uint64))


def test_a_model_that_is_not_fitted_says_so():
    with pytest.raises(RuntimeError, match="Fixed is not fitted"):
        Fixed().recommend([1])


# ---- flags, unknown items, padding ----------------------------------------------------------------------------------


def test_unknown_items_are_skipped_and_counted():
    result = model.recommend([[10, 999, -5], [20]], k=1)
    assert result.n_unknown.tolist() == [2, 0] and result.flags.tolist() == [OK, OK]


@pytest.mark.parametrize("histories", [[], [[]], [999], [[999]], np.empty(0)])
def test_a_history_without_usable_events_gets_the_most_popular_items(histories):
    items, scores, flags, _ = model.recommend(histories, k=2)
    assert items.tolist() == [[50, 40]] and scores.tolist() == [[5, 4]] and flags.tolist() == [POPULAR]


def test_popular_and_ordinary_rows_mix_in_a_batch():
    result = model.recommend([[10], [], [20], [7]], k=1)
    assert result.items.tolist() == [[20], [50], [10], [50]]
    assert result.flags.tolist() == [OK, POPULAR, OK, POPULAR]


def test_a_batch_of_no_histories_gives_no_rows():
    assert model.recommend(Ragged.from_lists([]), k=3).items.shape == (0, 3)


@pytest.mark.parametrize(("which", "padding"), [(model, -1), (named, "")])
def test_too_few_items_are_padded_and_flagged(which, padding):
    items, scores, flags, _ = which.recommend(which.item_ids_[:1], k=6)
    assert items[0, 4:].tolist() == [padding] * 2 and (scores[0, 4:] == -np.inf).all()
    assert flags.tolist() == [SHORT]


def test_k_must_be_at_least_1():
    for k in (0, -1):
        with pytest.raises(ValueError, match="k: expected at least 1"):
            model.recommend([10], k=k)
        with pytest.raises(ValueError, match="k: expected at least 1"):
            model.similar_items(10, k=k)


def test_a_batch_larger_than_a_block_equals_its_rows_one_by_one():
    histories = [[int(IDS[i % 5])] * (i % 3) for i in range(600)]
    denied = [[int(IDS[(i + 1) % 5])] for i in range(600)]
    whole = model.recommend(histories, k=3, deny_items=denied)
    for i in (0, 1, 255, 256, 257, 511, 512, 599):
        alone = model.recommend([histories[i]], k=3, deny_items=denied[i])
        assert whole.items[i].tolist() == alone.items[0].tolist() and whole.flags[i] == alone.flags[0]


# ---- what may be recommended ----------------------------------------------------------------------------------------


def test_seen_items_come_back_only_on_request():
    assert model.recommend([10], k=1).items.tolist() == [[20]]
    assert model.recommend([10], k=1, exclude_seen=False).items.tolist() == [[10]]


def test_one_flat_list_is_for_all_and_lists_are_for_each():
    histories = [[10], [20], []]
    assert model.recommend(histories, k=1, allow_items=[40, 50]).items.tolist() == [[40], [40], [50]]
    assert model.recommend(histories, k=1, allow_items=[[30], [50], [10]]).items.tolist() == [[30], [50], [10]]
    assert model.recommend(histories, k=1, deny_items=[20, 10]).items.tolist() == [[30], [30], [50]]
    assert model.recommend(histories, k=1, deny_items=[[], [10, 30], [50]]).items.tolist() == [[20], [40], [40]]


def test_an_item_that_is_allowed_and_denied_is_denied():
    assert model.recommend([10], k=2, allow_items=[20, 30], deny_items=[20]).items.tolist() == [[30, -1]]


def test_unknown_allowed_and_denied_items_are_ignored():
    assert model.recommend([10], k=2, allow_items=[20, 999], deny_items=[-7]).items.tolist() == [[20, -1]]


@pytest.mark.parametrize("histories", [[[10]], [[]]])
@pytest.mark.parametrize(
    "options", [{"allow_items": []}, {"allow_items": [[]]}, {"deny_items": IDS}, {"deny_items": [IDS]}]
)
def test_nothing_allowed_gives_padding_only(histories, options):
    items, scores, flags, _ = model.recommend(histories, k=2, **options)
    assert items.tolist() == [[-1, -1]] and (scores == -np.inf).all() and flags[0] & SHORT


def test_the_number_of_lists_must_be_that_of_the_histories():
    with pytest.raises(ValueError, match=r"deny_items: expected one flat list or 2 lists.*got 3"):
        model.recommend([[10], [20]], deny_items=[[1], [2], [3]])


# ---- scores, similar items, frames ----------------------------------------------------------------------------------


def test_scores_are_those_of_the_model_and_popularity_for_empty_histories():
    assert model.scores([[10], []]).tolist() == [[0, -1, -2, -3, -4], [1, 2, 3, 4, 5]]
    assert model.scores([10]).dtype == np.float32


def test_similar_items_leave_out_the_item_itself():
    items, scores, _, _ = model.similar_items([10, 30], k=2)
    assert items.tolist() == [[20, 30], [20, 40]] and scores.tolist() == [[-1, -2], [-1, -1]]
    assert named.similar_items("eel", k=1).items.tolist() == [["dog"]]
    assert model.similar_items(10, k=5).flags.tolist() == [SHORT]


def test_similar_items_of_an_unknown_item_is_an_error():
    with pytest.raises(ValueError, match="item_ids: 999 is not among the 5 items"):
        model.similar_items([10, 999])


def test_a_frame_has_a_line_per_item_and_none_for_padding():
    polars = pytest.importorskip("polars")
    frame = model.recommend([[10], [20, 30]], k=4).to_frame("polars")
    assert isinstance(frame, polars.DataFrame)
    assert frame.to_dict(as_series=False) == {
        "row": [0, 0, 0, 0, 1, 1, 1],
        "item_id": [20, 30, 40, 50, 10, 40, 50],
        "score": [-1, -2, -3, -4, 0, -3, -4],
        "rank": [1, 2, 3, 4, 1, 2, 3],
    }


def test_a_frame_without_a_library_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("regard.recommender.importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="needs polars, pandas or pyarrow: pip install polars"):
        model.recommend([10]).to_frame()


def test_parameters_can_be_read_and_set():
    changed = Fixed(slope=2.0)
    assert changed.get_params() == {"slope": 2.0} and repr(changed) == "Fixed(slope=2.0)"
    assert changed.set_params(slope=3.0).slope == 3.0
    with pytest.raises(ValueError, match="tilt: not a parameter of Fixed, which has slope"):
        changed.set_params(tilt=1)


# ---- selection, ranks, sets -----------------------------------------------------------------------------------------

few_scores = st.lists(st.sampled_from([-np.inf, np.nan, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(few_scores, st.integers(1, 15))
def test_the_best_are_those_of_a_stable_sort_with_ties_to_the_lower_row(values, k):
    scores = masked(np.array([values], np.float32), None, None)
    columns, highest = best(scores, k)
    order = [i for i in sorted(range(len(values)), key=lambda i: -scores[0, i]) if scores[0, i] > -np.inf][:k]
    missing = k - len(order)
    assert columns[0].tolist() == order + [-1] * missing
    assert highest[0].tolist() == scores[0, order].tolist() + [-np.inf] * missing


@settings(max_examples=30, deadline=None)
@given(few_scores, st.data())
def test_the_expected_rank_is_the_mean_over_all_orders_of_equal_scores(values, data):
    scores = masked(np.array([values], np.float32), None, None)
    target = data.draw(st.integers(0, len(values) - 1))
    first = 1 + sum(other > scores[0, target] for other in scores[0])
    last = sum(other >= scores[0, target] for other in scores[0])
    rank = expected_ranks(scores, Ragged(np.array([target], np.int32), [0, 1]))
    assert rank.tolist() == [(first + last) / 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6))), max_size=5))
def test_the_union_is_sorted_and_without_repeats(pairs):
    left, right = (Ragged.from_lists([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    assert union(7, left, right).tolist() == [sorted({*a, *b}) for a, b in pairs]
