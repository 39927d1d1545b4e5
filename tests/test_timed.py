"""Histories with times, and models with a bias by time."""

import time

import numpy as np
import pandas
import pytest
from small_models import chains, small

import regard
from regard import TimedHistories, report
from regard.data import Interactions
from regard.ids import drop_unknown
from regard.ragged import Ragged
from regard.splits import by_time, leave_one_out
from regard.train import Training

ROWS, TIMES = [[1, 2, 3], [], [4, 5]], [[10, 20, 30], [], [5, 6]]


def histories():
    return TimedHistories.from_lists(ROWS, times=TIMES, asked_at=[40, 50, 60])


def parts(timed):
    return timed.tolist(), timed.with_values(timed.times).tolist(), timed.asked_at.tolist()


def test_times_stay_with_their_events():
    rows = histories()
    assert parts(rows.tail(2)) == ([[2, 3], [], [4, 5]], [[20, 30], [], [5, 6]], [40, 50, 60])
    assert parts(rows.head(1)) == ([[1], [], [4]], [[10], [], [5]], [40, 50, 60])
    assert parts(rows.drop_last(1)) == ([[1, 2], [], [4]], [[10, 20], [], [5]], [40, 50, 60])
    assert parts(rows.take([2, 0])) == ([[4, 5], [1, 2, 3]], [[5, 6], [10, 20, 30]], [60, 40])
    assert parts(rows.take([])) == ([], [], [])
    assert parts(rows.take([-1])) == parts(rows.take([False, False, True])) == ([[4, 5]], [[5, 6]], [60])
    assert parts(rows[1:]) == ([[], [4, 5]], [[], [5, 6]], [50, 60])
    assert parts(rows[::2]) == ([[1, 2, 3], [4, 5]], [[10, 20, 30], [5, 6]], [40, 60])
    assert rows[0].tolist() == [1, 2, 3]
    known = drop_unknown(rows.with_values(np.array([0, -1, 2, -1, 4])))
    assert parts(known) == ([[0, 2], [], [4]], [[10, 30], [], [6]], [40, 50, 60])
    assert rows.next_times.tolist() == [20, 30, 40, 6, 60]


def test_a_moment_is_one_for_all_or_one_for_each_or_now():
    assert TimedHistories([1], [0, 1], [2.9], asked_at=7.5).asked_at.tolist() == [7]
    assert TimedHistories([1], [0, 0, 1], [2.9], asked_at="1970-01-02").asked_at.tolist() == [86400] * 2
    before = int(time.time())
    assert before <= TimedHistories([1], [0, 1], [2]).asked_at[0] <= time.time()


def test_wrong_times_are_refused():
    with pytest.raises(ValueError, match="times: expected a list for each history, with a time for each event"):
        TimedHistories.from_lists([[1, 2]], times=[[1]])
    with pytest.raises(ValueError, match=r"times: expected 1 numbers \(Unix seconds\), got int64 of shape \(2,\)"):
        TimedHistories([1], [0, 1], [1, 2])
    with pytest.raises(ValueError, match="times: expected finite numbers, got NaN"):
        TimedHistories([1], [0, 1], [np.nan])
    with pytest.raises(ValueError, match=r"asked_at: expected 1 numbers"):
        TimedHistories([1], [0, 1], [1], asked_at=[1, 2])


def test_splits_ask_at_the_time_of_the_first_target():
    data = Interactions([1] * 4 + [2] * 3, [1, 2, 3, 4, 1, 2, 3], [10, 20, 30, 40, 5, 25, 45])
    split = leave_one_out(data)
    assert parts(split.test.histories)[1:] == ([[10, 20, 30], [5, 25]], [40, 45])
    assert parts(split.validation.histories)[1:] == ([[10, 20], [5]], [30, 25])
    split = by_time(data, at=28)
    assert parts(split.test.histories)[1:] == ([[10, 20], [5, 25]], [30, 45])
    assert not isinstance(leave_one_out(chains()).test.histories, TimedHistories)


# ---- models ----


def gaps(n_users=150, n_items=12, seed=0):
    """A ring of items: after a short wait the next one follows, after a day the one opposite."""
    rng = np.random.default_rng(seed)
    users, items, times = [], [], []
    for user in range(n_users):
        item, now = int(rng.integers(n_items)), int(rng.integers(10**9))
        for _ in range(8):
            users.append(user), items.append(item + 100), times.append(now)
            long = rng.random() < 0.5
            item = (item + (n_items // 2 if long else 1)) % n_items
            now += int(rng.integers(80_000, 90_000) if long else rng.integers(5, 60))
    return Interactions(users, items, times)


def test_a_time_bias_sees_when_the_next_event_happens(tmp_path):
    data = gaps(300)
    split = leave_one_out(data)
    settings = {"epochs": 40, "patience": 40, "dropout": 0.0, "n_heads": 2, "dim": 32}
    found = {}
    for name, time_bias in (("without", False), ("with", True)):
        model = small(time_bias=time_bias, **settings).fit(split.train, validation=split.validation)
        found[name] = regard.evaluate(model, split.test, k=1, exclude_seen=False)["hr@1"]
    assert found["without"] < 0.6  # the wait decides, and is one or the other as often
    assert found["with"] > 0.95  # a softmax of scores by time alone reaches 0.7: what all events share is lost in it

    soon = TimedHistories.from_lists([[101, 102, 103]] * 2, times=[[0, 20, 40]] * 2, asked_at=[60, 86_400])
    answer = model.recommend(soon, k=1, exclude_seen=False).items[:, 0].tolist()
    assert answer == [104, 109]
    now = int(time.time())
    frame = pandas.DataFrame(
        {"user_id": [1, 1, 1], "item_id": [101, 102, 103], "datetime": [now - 60, now - 40, now - 20]}
    )
    assert model.recommend(frame, k=1, exclude_seen=False).items[0, 0] == 104
    weights, _ = model.attention_weights(soon[:1])
    np.testing.assert_allclose(weights.sum(axis=2), 1, rtol=1e-5)
    why = model.explain(soon[:1], 104)
    np.testing.assert_allclose(why.score, model.scores(soon[:1])[0, 4], rtol=1e-5)
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(regard.load(tmp_path / "m.safetensors").scores(soon), model.scores(soon))
    with pytest.raises(ValueError, match="histories: expected TimedHistories or a data frame with datetime"):
        model.recommend([101, 102])


def test_a_time_bias_needs_every_time():
    with pytest.raises(ValueError, match="data: a model with a time bias needs the time of every event"):
        small(time_bias=True).fit(chains())


def test_other_models_answer_timed_histories_by_their_items_alone():
    model = small(epochs=2).fit(gaps(20))
    soon = TimedHistories.from_lists([[101, 102, 999], []], times=[[0, 20, 40], []], asked_at=60)
    np.testing.assert_array_equal(model.scores(soon), model.scores(Ragged.from_lists([[101, 102, 999], []])))
    assert model.recommend(soon).n_unknown.tolist() == [1, 0]


def test_gradients_of_the_time_bias_are_those_of_differences(rng):
    data = gaps(20)
    model = small(time_bias=True, dropout=0.0, activation="gelu", precision="highest")
    model._set_catalogue(data)
    params = model.initial_parameters(data.n_items)
    run = Training(model.steps(), params, data.timed_sequences, model._settings(), data.popularity())

    def value():
        run.begin_epoch()
        run.ws.reset()
        for gradient in run.grads.values():
            gradient.fill(0)
        return run._gradients(np.arange(20), 1)

    found = value()[2]
    for name, least, room in (("blocks.0.attention.time_bias", 10, 5e-5), ("gaps.weight", 50, 3e-4)):
        table, gradient = params[name], found[name].copy()
        assert np.count_nonzero(gradient) > least
        places = np.argwhere(gradient)
        for place in map(tuple, places[:: max(1, len(places) // 50)]):
            sides = []
            for step in (1e-2, -1e-2):
                table[place] = step
                sides.append(value()[0])
            table[place] = 0
            np.testing.assert_allclose((sides[0] - sides[1]) / 2e-2, gradient[place], rtol=2e-2, atol=room)


def test_growth_goes_on_with_times():
    model = small(time_bias=True, epochs=2).fit(gaps(40), validation=None)
    before = model.params_["blocks.0.attention.time_bias"].copy()
    model.fit_more(gaps(40, seed=1), epochs=1)
    assert (model.params_["blocks.0.attention.time_bias"] != before).any()


def test_histories_at_other_times_are_others_and_are_joined_with_their_times():
    same, other = histories(), TimedHistories(histories().values, histories().offsets, histories().times + 1, 60)
    assert same == histories() and same != other
    assert parts(TimedHistories.concatenate([same, other])) == tuple(
        a + b for a, b in zip(parts(same), parts(other), strict=True)
    )


def test_a_model_with_a_time_bias_is_compared_and_reported(tmp_path):
    pytest.importorskip("matplotlib")
    data = chains()
    rows = data.sequences
    timed = Interactions(data.user_ids[rows.row_of], data.item_ids[rows.values], np.arange(len(rows.values)) * 60.0)
    split = leave_one_out(timed)
    found = regard.compare(split, models=["popularity", "regard"], time_bias=True, epochs=1, dim=8)
    model = found.models["regard"]
    report.write(tmp_path / "page.html", model, split, {"regard": found.reports["regard"]})
    assert "Attention in one history" in (tmp_path / "page.html").read_text()
