"""Input that users really have, through the whole path: a clear error, or a documented result; nothing is lost."""

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard.data import RegardDataWarning
from regard.recommender import POPULAR, SHORT


@pytest.fixture(scope="module")
def fitted():
    return small(epochs=2).fit(chains())


def test_times_out_of_order_give_the_model_of_times_in_order():
    rng = np.random.default_rng(0)
    users, items, times = np.repeat(np.arange(30), 6), rng.integers(0, 9, 180), np.tile(np.arange(6), 30)
    order = rng.permutation(180)
    models = [
        small(epochs=2).fit(regard.Interactions(users[rows], items[rows], times[rows]), validation=None)
        for rows in (np.arange(180), order)
    ]
    for name, weight in models[0].params_.items():
        np.testing.assert_array_equal(weight, models[1].params_[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_leaves_its_row_out_with_a_warning(value):
    with pytest.warns(RegardDataWarning, match="1 left out, weight is missing or not a finite number"):
        data = regard.Interactions([1, 1, 1], [5, 6, 7], weight=[1.0, value, 2.0])
    assert data.item_ids.tolist() == [5, 7] and data.weights is not None and data.weights.values.tolist() == [1.0, 2.0]


def test_mixed_types_of_ids_are_refused_wherever_they_come(fitted):
    with pytest.raises(TypeError, match="item_id: expected ids that are all integers or all strings, got int and str"):
        regard.Interactions([1, 1], [5, "6"])
    for call in (
        lambda: fitted.recommend([[101, "102"]]),
        lambda: fitted.recommend([[101]], deny_items=["x"]),
        lambda: fitted.similar_items("104"),
        lambda: fitted.encode([["101"]]),
        lambda: fitted.add_items([1, "b"]),
    ):
        with pytest.raises(TypeError, match="expected int64 item ids, got"):
            call()


NASTY = [
    '"',
    "'",
    "a,b",
    "a\tb",
    "line\nbreak",
    "\u00e9",
    "e\u0301",
    "日本語",
    "\u202egnol",
    " ",
    "-1",
    "None",
    "😀" * 40,
]


def test_ids_with_quotes_and_unicode_come_back_as_they_went_in(tmp_path):
    words = [word for word in NASTY if word.strip()]
    users = np.repeat([f"u{word}" for word in words], len(words))
    data = regard.Interactions(users.tolist(), words * len(words))
    assert sorted(data.item_ids.tolist()) == sorted(words)
    model = small(epochs=1, max_len=20).fit(data)
    model.save(tmp_path / "m")
    result = regard.load(tmp_path / "m", verify=True).recommend([words[:3]], k=len(words))
    assert sorted(filter(None, result.items[0].tolist())) == sorted(words[3:])


def test_masked_cells_are_missing():
    items = np.ma.array([5, 6, 7], mask=[False, True, False])
    with pytest.warns(RegardDataWarning, match="1 left out, item_id is missing"):
        assert regard.Interactions([1, 1, 1], items).item_ids.tolist() == [5, 7]


def test_blank_ids_are_missing_ids():
    with pytest.warns(RegardDataWarning, match="2 left out, item_id is missing"):
        data = regard.Interactions([1, 1, 1], ["a", "", " "])
    assert data.n_events == 1


def test_a_user_with_a_million_events_trains_and_is_answered():
    rng = np.random.default_rng(0)
    long, short = rng.integers(0, 50, 1_000_000), rng.integers(0, 50, 40)
    data = regard.Interactions(
        np.concatenate([np.zeros(len(long), int), np.repeat(np.arange(1, 11), 4)]), np.concatenate([long, short])
    )
    model = small(epochs=2).fit(data)
    result = model.recommend([long], k=3, exclude_seen=False)
    np.testing.assert_array_equal(result.items, model.recommend([long[-8:]], k=3, exclude_seen=False).items)


def test_an_item_seen_once_can_be_asked_for_and_recommended():
    data = chains()
    users = np.append(data.user_ids[data.sequences.row_of], 0)
    items = np.append(data.item_ids[data.sequences.values], 999)
    model = small(epochs=2).fit(regard.Interactions(users, items), validation=None)
    assert 999 in model.item_ids_ and model.popularity_[-1] == 1
    assert model.recommend([[999]], k=3).flags.tolist() == [0]
    assert model.recommend([[101]], k=1, allow_items=[999]).items.tolist() == [[999]]


@pytest.mark.parametrize("content", [b"", b"\n", b"user_id,item_id\n", b"user_id,item_id\n\n\n"])
def test_an_empty_file_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "e.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"e\.csv: the file is empty|at least one row|no user_id"):
        regard.Interactions.from_file(tmp_path / "e.csv")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / "m.csv").write_text("user_id,price\n1,2\n")
    with pytest.raises(ValueError, match=r"columns: no item_id among user_id, price; rename with"):
        regard.Interactions.from_file(tmp_path / "m.csv")


@pytest.mark.parametrize("name", ["dim", "n_heads", "max_len", "batch_size", "epochs", "patience", "random_state"])
@pytest.mark.parametrize("value", [2.5, np.nan, 2.0, "2", None])
def test_counts_that_are_no_whole_numbers_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name}: expected a whole number, got {value!r}"):
        small(**{name: value}).fit(chains())


def test_a_quote_that_is_never_closed_is_an_error(tmp_path):
    rows = [f"{user},{user % 7},film {user}\n" for user in range(100)]
    rows[10] = '10,3,"odd film\n'
    for ending in ("\n", ""):
        (tmp_path / "q.csv").write_text("user_id,item_id,title\n" + "".join(rows).rstrip("\n") + ending)
        with pytest.raises(ValueError, match=r'q\.csv: the quote " in line 12 is never closed'):
            regard.Interactions.from_file(tmp_path / "q.csv")
    rows[10] = '10,3,"two\nlines"\n'
    rows[20] = "20\n"
    (tmp_path / "q.csv").write_text("user_id,item_id,title\n" + "".join(rows))
    with pytest.warns(UserWarning, match="line 23"):
        assert regard.Interactions.from_file(tmp_path / "q.csv").n_events == 99


def test_ids_of_another_type_are_not_judged_as_misses():
    data = chains()
    words = regard.Interactions(data.user_ids[data.sequences.row_of], data.item_ids[data.sequences.values].astype(str))
    split = regard.splits.leave_one_out(words)
    with pytest.raises(TypeError, match="holdout: expected item ids of the model's type, int64, got <U"):
        regard.evaluate(small(epochs=1).fit(data), split.test)
    with pytest.raises(TypeError, match="holdout: expected item ids"):
        small(epochs=1).fit(data, validation=split.validation)


def test_one_text_is_no_list_of_ids():
    data = chains()
    words = regard.Interactions(
        data.user_ids[data.sequences.row_of], [f"i{item}" for item in data.item_ids[data.sequences.values]]
    )
    model = small(epochs=1).fit(words)
    for act in (model.add_items, model.retire_items):
        with pytest.raises(TypeError, match="item_ids: expected a list of item ids, got str 'i101'"):
            act("i101")


def test_ids_that_are_no_ids_are_named():
    with pytest.raises(TypeError, match="user_id: expected an id for each event, got None"):
        regard.Interactions(None, [1])
    with pytest.raises(TypeError, match="item_id: expected an id for each event, got None"):
        regard.Interactions([1], None)


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(TypeError, match="depth"):
        regard.SelfAttentionRecommender(depth=3)
    with pytest.raises(ValueError, match="depth: not a parameter of SelfAttentionRecommender, which has dim"):
        regard.SelfAttentionRecommender().set_params(depth=3)


@pytest.mark.parametrize(
    "name", ["dim", "n_blocks", "n_heads", "max_len", "ffn_dim", "batch_size", "epochs", "n_negatives"]
)
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_that_are_not_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got {value}"):
        small(**{name: value}).fit(chains())


def test_more_than_the_catalogue_has_is_padded_and_said(fitted):
    result = fitted.recommend([[101]], k=1000)
    assert result.flags.tolist() == [SHORT]
    assert (result.items[0] != -1).sum() == 11 and sorted(result.items[0][:11]) == [100, *range(102, 112)]


@pytest.mark.parametrize("options", [{"allow_items": []}, {"deny_items": range(100, 112)}, {"allow_items": [[]]}])
def test_nothing_left_to_recommend_is_padding_and_said(options, fitted):
    for history, flags in (([101], SHORT), ([], SHORT | POPULAR)):
        result = fitted.recommend([history], k=3, **options)
        assert result.items.tolist() == [[-1] * 3] and result.flags.tolist() == [flags]
