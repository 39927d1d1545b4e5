"""Models whose items of the history have a second way to be the answer: every answer is that of the same scores."""

import functools
import json

import numpy as np
import pytest
from small_models import chains, returning, small
from test_serving import ATTENTION, SQUARES, batch, header, untrained
from test_sessions import assert_alike

import regard
from regard import _core
from regard.ragged import Ragged
from regard.ranking import best, expected_ranks, masked, union

N_ITEMS = 40


def pointing(rng, n_items=N_ITEMS, **settings):
    return untrained(rng, n_items, pointer=True, **settings)


def scores_by_the_formula(model, histories):
    """log(exp(h·item) + sum of exp(w_a·h + b_a)), a: the places of the item in the window, counted from the newest."""
    h, params = model._encode(histories).astype(float), model.params_
    scores = h @ params[model._tables[1]].T.astype(float)
    by_age = h @ params["pointer.weight"].T.astype(float) + params["pointer.bias"]
    for row, window in enumerate(histories.tail(model.max_len)):
        newest_first = window[::-1]
        for item in set(window.tolist()):
            again = np.logaddexp.reduce(by_age[row][: len(window)][newest_first == item])
            scores[row, item] = np.logaddexp(scores[row, item], again)
    return scores


def drawn(rng, n_items=N_ITEMS, n=30):
    """Histories that come back to items, none empty, some longer than max_len = 8."""
    lengths = rng.integers(1, 20, n)
    return Ragged.from_lengths(rng.integers(0, n_items, lengths.sum()).astype(np.int32), lengths)


@pytest.mark.parametrize("settings", [{}, {"output_table": "separate"}, {"normalize_items": True}], ids=str)
def test_scores_are_those_of_the_formula(settings, isa, rng):
    model, histories = pointing(rng, **settings), drawn(rng)
    expected = scores_by_the_formula(model, histories)
    np.testing.assert_allclose(model._scores(histories), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_gains_without_bounds_are_still_numbers(rng):
    model, histories = pointing(rng), drawn(rng)
    for push in (-1e4, 1e4):
        model.params_ = model.params_ | {"pointer.bias": np.full(8, push, np.float32)}
        expected = scores_by_the_formula(model, histories)
        np.testing.assert_allclose(model._scores(histories), expected, rtol=1e-6, atol=1e-4)


def test_gains_that_are_no_numbers_are_never_chosen(rng):
    model, histories = pointing(rng), drawn(rng)
    model.params_ = model.params_ | {"pointer.bias": np.full(8, np.nan, np.float32)}
    items, scores = model._top_k(histories, N_ITEMS, None, None)
    with np.errstate(invalid="ignore"):
        expected = best(masked(model._scores(histories), None, None), N_ITEMS)
    np.testing.assert_array_equal(items, expected[0])
    assert not np.isnan(scores).any()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_items", [N_ITEMS, 1500])  # and by the 8-bit copy
def test_the_best_items_are_those_of_the_scores(n_items, n_threads, isa, rng):
    model, histories = pointing(rng, n_items), drawn(rng, n_items, 90)
    scores = model._scores(histories)
    lists = Ragged.from_lengths(rng.integers(0, n_items, 900).astype(np.int32), [10] * 90)
    lists, seen = union(n_items, lists, histories[:90].head([2] * 90)), union(n_items, histories)
    before = regard.num_threads()
    try:
        regard.set_num_threads(n_threads)
        for allow, deny in ((None, None), (lists, None), (None, lists), (seen, lists), (lists, seen)):
            for k in (1, 5, n_items + 3):
                items, values = model._top_k(histories, k, allow, deny)
                expected = best(masked(scores.copy(), allow, deny), k)
                np.testing.assert_array_equal(items, expected[0])
                np.testing.assert_array_equal(values, expected[1])
    finally:
        regard.set_num_threads(before)


def test_ranks_are_those_of_the_scores(isa, rng):
    model, histories = pointing(rng), drawn(rng)
    scores, seen = model._scores(histories), union(N_ITEMS, histories)
    targets = Ragged.from_lengths(rng.integers(0, N_ITEMS, 120).astype(np.int32), [4] * 30)
    targets = union(N_ITEMS, targets, histories.tail(1))
    some = union(N_ITEMS, Ragged.from_lengths(rng.integers(0, N_ITEMS, 90).astype(np.int32), [3] * 30))
    for deny in (None, some, seen):
        kept = np.array(
            [deny is None or item not in deny[row] for row, item in zip(targets.row_of, targets.values, strict=True)]
        )
        expected = expected_ranks(masked(scores.copy(), None, deny), targets)
        np.testing.assert_array_equal(model._ranks(histories, targets, deny)[kept], expected[kept])


def test_one_history_and_a_session_are_answered_like_a_batch(rng):
    model = pointing(rng)
    session = model.session()
    for item in rng.integers(95, 140, 100).tolist():
        session.append(item)
        for how in ({"exclude_seen": False}, {"exclude_seen": False, "k": 60}, {}):
            assert_alike(session, model, **how)
        assert_alike(session, model, exclude_seen=False, deny_items=[item, 101], allow_items=range(100, 130))
    for history in ([101, 7, 102, 101], list(range(100, 130)), [7], []):
        one, many = (model.recommend(past, 9, exclude_seen=False) for past in (history, [history]))
        for part, other in zip(one, many, strict=True):
            np.testing.assert_array_equal(part, other)


def test_where_seen_items_are_left_out_the_pointer_changes_nothing(rng):
    model = pointing(rng)
    plain = small(dim=12, ffn_dim=20, n_blocks=2)
    plain.params_ = {name: weight for name, weight in model.params_.items() if "pointer" not in name}
    plain.item_ids_, plain.popularity_, plain.titles_ = model.item_ids_, model.popularity_, None
    histories = drawn(rng)
    deny = union(N_ITEMS, histories)
    for one, other in zip(model._top_k(histories, 5, None, deny), plain._top_k(histories, 5, None, deny), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_time_bias_and_a_pointer_go_together(rng):
    model, histories = pointing(rng, time_bias=True), batch(rng)
    histories = histories.take(np.flatnonzero(histories.lengths))
    scores = model._scores(histories)
    for one, other in zip(model._top_k(histories, 7, None, None), best(scores, 7), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_who_comes_back_to_items_that_never_met_before_is_found_by_the_pointer_alone(loss, tmp_path):
    """Of 12 items each user has two and comes back to both: most pairs of the asked users are new."""
    data, asked = returning(), returning(seed=1).sequences
    how = {"loss": loss, "n_negatives": 9, "epochs": 20, "max_len": 9}
    found = {}
    for pointer in (False, True):
        model = small(pointer=pointer, **how).fit(data, validation=None)
        rows = model.recommend([model.item_ids_[past].tolist() for past in asked], 2, exclude_seen=False).items
        pairs = zip(rows.tolist(), asked, strict=True)
        found[pointer] = np.mean([set(row) == set(model.item_ids_[past].tolist()) for row, past in pairs])
    assert found[True] > 0.99
    assert found[True] >= found[False]
    model.save(tmp_path / "m")
    histories = [[100, 103, 100], [104, 111]]
    before, after = (m.recommend(histories, 5, exclude_seen=False) for m in (model, regard.load(tmp_path / "m")))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_seen_item_gains_is_part_of_its_explanation(rng):
    model = pointing(rng)
    found = model.explain([101, 102, 103, 102], 102)
    scores = model.scores([[101, 102, 103, 102], [102, 103, 102]])[:, 2]
    assert found.score == pytest.approx(scores[0], rel=1e-5)
    assert found.effect[0] == pytest.approx(scores[0] - scores[1], rel=1e-3, abs=1e-5)


def test_new_items_and_events_keep_the_pointer():
    model = small(pointer=True, epochs=10).fit(returning(), validation=None)
    model.add_items([7])
    bias = model.params_["pointer.bias"].copy()
    model.fit_more(returning(20, seed=3), epochs=2, validation=None)
    assert 7 in model.item_ids_ and (model.params_["pointer.bias"] != bias).any()


@pytest.mark.parametrize("loss", ["bce", "gbce"])
def test_binary_losses_are_refused(loss):
    with pytest.raises(ValueError, match=f"loss: expected 'softmax' or 'sampled_softmax' with a pointer, got '{loss}'"):
        small(pointer=True, loss=loss).fit(chains())
    for_data = functools.partial(regard.SelfAttentionRecommender.for_data, returning(), exclude_seen=False)
    assert for_data().pointer and not for_data(loss=loss).pointer and not for_data(device="cuda").pointer


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "p.weight"),
        ({"p.weight": (4, 8), "p.bias": (5,)}, r"p\.weight.*\(5, 8\)"),
        ({"p.weight": (5, 8), "p.bias": (4,)}, r"p\.bias.*\(5\)"),
    ],
)
def test_a_file_whose_pointer_does_not_fit_is_refused(shapes, message, rng):
    steps = [{"kind": "embed", "table": "items", "scale": 1.5}, ATTENTION]
    steps.append({"kind": "score", "table": "items", "pointer": "p"})
    params = {name: rng.standard_normal(shape).astype(np.float32)
              for name, shape in ({"items": (10, 8)} | SQUARES | shapes).items()}  # fmt: skip
    ids = {"ids.items": np.arange(10), "popularity": np.arange(10)}
    with pytest.raises(ValueError, match=message):
        _core.ServingModel(header(steps), params | ids)
    assert json.loads(header(steps))["steps"] == steps
