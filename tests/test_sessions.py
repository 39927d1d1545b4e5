"""Sessions: after every event the answer is that of the model for the session's window."""

import itertools
import threading

import numpy as np
import pytest
from small_models import chains, small
from test_serving import untrained

import regard
from regard.models.self_attention import CHOICES
from regard.recommender import POPULAR, SHORT
from regard.sessions import Sessions
from regard.timed import TimedHistories

OPTIONS = {name: CHOICES[name] for name in ("positions", "norm", "ffn", "residual")} | {"n_heads": (1, 3)}
COMBINATIONS = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in itertools.product(*OPTIONS.values())]


def assert_alike(session, model, k=5, **how):
    """Scores to float32 accuracy; items wherever scores are not next to equal."""
    got, expected = session.recommend(k, **how), model.recommend(session.window, k, **how)
    room = 1e-5 * np.abs(expected.scores[np.isfinite(expected.scores)]).max(initial=1.0)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=0, atol=room)
    clear = np.abs(np.diff(expected.scores[0])) > 2 * room if np.isfinite(expected.scores).all() else np.zeros(0, bool)
    if clear.all() and clear.size:
        assert got.items[0, :-1].tolist() == expected.items[0, :-1].tolist()
    np.testing.assert_array_equal(got.flags, expected.flags)


@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_append_answers_as_the_window_does(settings, rng):
    """Over slides, with one item table or two, and unknown events between."""
    max_len = int(rng.integers(3, 60))
    model = untrained(rng, n_blocks=2, max_len=max_len, output_table=rng.choice(["tied", "separate"]), **settings)
    session, window = model.session(), []
    for item in rng.integers(95, 140, 150).tolist():
        session.append(item)
        if item >= 100:
            window = window[max(1, max_len // 4) :] if len(window) == max_len else window
            window.append(item)
        assert session.window.tolist() == window
        assert_alike(session, model)
    assert session.recommend(1).n_unknown[0] > 0


def test_every_instruction_set_appends_alike(isa, rng):
    model = untrained(rng, dim=48, ffn_dim=40, max_len=300, n_heads=3)
    session = model.session()
    for item in rng.integers(100, 140, 310).tolist():
        session.append(item)
        if len(session) % 13 == 0:
            assert_alike(session, model)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 30])
def test_a_session_begins_with_the_newest_events(length, rng):
    model = untrained(rng)
    history = rng.integers(100, 140, length).tolist()
    session = model.session(history)
    assert session.window.tolist() == history[-8:]
    assert_alike(session, model)
    session.append(history)
    assert_alike(session, model)


def test_events_at_once_give_the_window_of_events_one_by_one(rng):
    model = untrained(rng)
    for n in (2, 5, 7):
        together, alone = model.session([101, 102, 103]), model.session([101, 102, 103])
        events = rng.integers(100, 140, n).tolist()
        together.append(events)
        for event in events:
            alone.append(event)
        assert together.window.tolist() == alone.window.tolist()
        assert_alike(together, model)


def test_allowed_and_denied_items_and_seen_ones(rng):
    model = untrained(rng)
    session = model.session([101, 102, 103])
    assert_alike(session, model, allow_items=[103, 104, 105, 999], deny_items=[105])
    assert session.recommend(3, allow_items=[103, 104]).flags.tolist() == [SHORT]
    assert_alike(session, model, exclude_seen=False, k=40)
    empty = model.session([-1])
    assert empty.recommend(3, allow_items=[110, 111, 112, 113], deny_items=[111]).flags.tolist() == [POPULAR]
    assert_alike(empty, model, allow_items=[110, 111, 112, 113, 114, 110], deny_items=[111], k=3)


def test_text_ids(rng):
    model = untrained(rng)
    model.item_ids_ = np.array(sorted(f"é{i:02}" for i in range(40)))
    session = model.session("é05")
    session.append(["é07", "no such"])
    session.append(np.array(["é09"]))
    assert session.window.tolist() == ["é05", "é07", "é09"]
    assert session.recommend(50).items[0, -1] == "" and session.recommend(1).n_unknown.tolist() == [1]
    assert_alike(session, model)


@pytest.mark.parametrize("wrong", [1.5, "101", [101, "a"], [True], None])
def test_ids_of_another_type_are_refused_and_change_nothing(wrong, rng):
    session = untrained(rng).session([101])
    with pytest.raises(TypeError, match="item_ids: expected int64 item ids"):
        session.append(wrong)
    assert session.window.tolist() == [101]


def test_k_below_one_is_refused(rng):
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        untrained(rng).session([101]).recommend(0)


@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_with_a_time_bias_every_append_answers_as_the_timed_window_does(settings, rng):
    """Events one by one and a few at once, unknown ones between, over slides, asked at several moments."""
    max_len = int(rng.integers(3, 40))
    model = untrained(rng, n_blocks=2, max_len=max_len, time_bias=True, **settings)
    session, window, now = model.session(), [], 0
    while now < 10**6:
        n = int(rng.choice([1, 1, 1, 2, 7]))
        items, gaps = rng.integers(95, 140, n), rng.integers(0, 20_000, n)
        times = now + np.cumsum(gaps)
        now = int(times[-1])
        session.append(items.tolist() if n > 1 else int(items[0]), times if n > 1 else now)
        events = [(i, t) for i, t in zip(items.tolist(), times.tolist(), strict=True) if i >= 100]
        for event in events if len(events) < max_len else []:
            window = window[max(1, max_len // 4) :] if len(window) == max_len else window
            window.append(event)
        window = events[-max_len:] if len(events) >= max_len else window
        assert list(zip(session.window.tolist(), session.times.tolist(), strict=True)) == window
        for asked_at in (now, now + 3600, now + 10**6):
            histories = TimedHistories(session.window, [0, len(window)], session.times, asked_at)
            got, expected = session.recommend(5, asked_at=asked_at), model.recommend(histories, 5)
            room = 1e-5 * np.abs(expected.scores).max()
            np.testing.assert_allclose(got.scores, expected.scores, rtol=0, atol=room)
    again = model.session(TimedHistories(session.window, [0, len(window)], session.times))
    answers = [one.recommend(5, asked_at=now) for one in (again, session)]
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, rtol=0, atol=room)


def test_the_moment_that_is_asked_about_is_seen_and_is_now_unless_given(rng, monkeypatch):
    model = untrained(rng, time_bias=True)
    session = model.session(TimedHistories([101, 102], [0, 2], [10, 20]))
    soon, late = (session.recommend(3, asked_at=at).scores for at in (21, "1980-01-01"))
    assert np.abs(soon - late).max() > 1e-3
    monkeypatch.setattr("time.time", lambda: 21.9)
    np.testing.assert_array_equal(session.recommend(3).scores, soon)


def test_times_that_are_missing_or_do_not_fit_are_refused_and_change_nothing(rng):
    model = untrained(rng, time_bias=True)
    session = model.session(TimedHistories([101], [0, 1], [10]))
    for wrong in (None, [1, 2], [np.nan], ["a"]):
        with pytest.raises(ValueError, match="times: expected"):
            session.append(102, wrong)
    with pytest.raises(ValueError, match="times: expected"):
        model.session([101])
    with pytest.raises(ValueError, match="history: expected one history, got 2"):
        model.session(TimedHistories([101, 102], [0, 1, 2], [10, 20]))
    assert session.window.tolist() == [101] and session.times.tolist() == [10]
    assert untrained(rng).session([101]).times is None


def test_a_session_keeps_the_model_that_it_began_with():
    model = small(epochs=2).fit(chains(), validation=None)
    session = model.session([101, 102])
    before = session.recommend(3)
    model.fit_more(chains(seed=1), epochs=2)
    session.append(103)
    after = model.session([101, 102, 103]).recommend(3)
    assert (session.recommend(3).scores != after.scores).any()
    assert before.scores.shape == (1, 3)


def test_the_memory_of_a_session_is_as_stated(rng):
    model = untrained(rng, n_items=300, dim=64, max_len=200)
    session = model.session()
    assert session.nbytes < 2000
    for length in (50, 200):
        session.append(rng.integers(100, 400, length - len(session)).tolist())
        assert len(session) == length
        assert 8 * length * 64 * 2 <= session.nbytes < 16 * length * 64 * 2 + 8000


def test_threads_may_share_a_session(rng):
    model = untrained(rng)
    session = model.session()

    def append():
        for item in range(100, 140):
            session.append(item)
            session.recommend(3)

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_alike(session, model)


def test_the_session_that_nobody_asked_for_the_longest_goes_first(rng):
    sessions = Sessions(untrained(rng), capacity=2)
    first, second = sessions.begin("a", [101]), sessions.begin("b")
    assert sessions.get("a") is first
    sessions.begin("c")
    assert sessions.get("b") is None and sessions.get("a") is first and len(sessions) == 2
    assert sessions.begin("a") is not first and len(sessions) == 2
    sessions.drop("a"), sessions.drop("nobody")
    assert len(sessions) == 1 and len(second) == 0
    with pytest.raises(ValueError, match="capacity: expected at least 1, got 0"):
        Sessions(sessions.model, 0)


def test_a_closed_model_does_not_take_its_sessions_along():
    model = small(epochs=1).fit(chains(), validation=None)
    session = model.session([101, 102])
    expected = session.recommend(3).items
    del model
    np.testing.assert_array_equal(session.recommend(3).items, expected)
    assert regard.num_threads() > 0
