"""Models that grow and shrink: new users, new items, items that go."""

import pickle

import numpy as np
import pytest
from small_models import chains, returning, small

import regard


@pytest.fixture
def fitted():
    return small().fit(chains(), validation=None)


def more(n_users=40, first=112, n_items=4, seed=1, old_users=0):
    """New users who walk up a ring of new items; with `old_users`, so many of the users known before as well."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n_items, n_users)
    items = first + (starts[:, None] + np.arange(6)) % n_items
    users, items = np.repeat(np.arange(n_users) + 1000, 6), items.ravel()
    if old_users:
        old = chains(old_users)
        users = np.concatenate([old.user_ids[old.sequences.row_of], users])
        items = np.concatenate([old.item_ids[old.sequences.values], items])
    return regard.Interactions(users, items)


def test_new_items_and_users_are_learned_beside_the_old(fitted):
    n_before, epochs_before = len(fitted.item_ids_), len(fitted.history_)
    popularity = fitted.popularity_.sum()
    data = more(old_users=20)
    fitted.fit_more(data, epochs=30, learning_rate=1e-2, validation=None)
    assert fitted.recommend([[112, 113], [115, 112]], k=1, exclude_seen=False).items[:, 0].tolist() == [114, 113]
    assert fitted.recommend([[101, 102, 103]], k=1).items[0, 0] == 104
    assert len(fitted.item_ids_) == n_before + 4
    assert fitted.popularity_.sum() == popularity + data.n_events
    assert [entry["epoch"] for entry in fitted.history_] == list(range(1, epochs_before + 31))


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_normalised_items_keep_length_1_through_training_and_growth(loss, tmp_path):
    model = small(normalize_items=True, loss=loss).fit(chains(), validation=None)
    assert model.recommend([[101, 102, 103]], k=1).items[0, 0] == 104
    model.save(tmp_path / "m")
    model = regard.load(tmp_path / "m").fit_more(more(old_users=20), epochs=30, learning_rate=1e-2, validation=None)
    assert model.recommend([[112, 113], [115, 112]], k=1, exclude_seen=False).items[:, 0].tolist() == [114, 113]
    assert model.recommend([[101, 102, 103]], k=1).items[0, 0] == 104
    np.testing.assert_allclose(np.linalg.norm(model.params_["items.weight"], axis=1), 1, rtol=1e-6)


def test_growing_keeps_the_answers_for_known_items_until_it_trains(fitted):
    before = fitted.scores([[101, 102, 103]])[0]
    fitted.add_items([5, 500, 106 * 7])
    after = fitted.scores([[101, 102, 103]])[0]
    known = np.isin(fitted.item_ids_, np.arange(100, 112))
    np.testing.assert_array_equal(after[known], before)
    assert fitted.item_ids_.tolist() == sorted(fitted.item_ids_.tolist())


def test_a_new_item_begins_where_those_are_that_it_is_like(fitted):
    fitted.add_items([7, 8, 9], like=[[104], [104, 105], []])
    table = fitted.params_["items.weight"]
    row = {item: i for i, item in enumerate(fitted.item_ids_.tolist())}
    np.testing.assert_array_equal(table[row[7]], table[row[104]])
    np.testing.assert_allclose(table[row[8]], (table[row[104]] + table[row[105]]) / 2, rtol=1e-6)
    known = [row[i] for i in range(100, 112)]
    np.testing.assert_allclose(table[row[9]], table[known].mean(axis=0), atol=1e-6)
    assert set(fitted.similar_items(7, k=1).items[0].tolist()) == {104}


def test_retired_items_are_gone_from_answers_and_histories(fitted):
    before = fitted.scores([[101, 103]])[0]
    fitted.retire_items([102, 104])
    result = fitted.recommend([[101, 102, 103]], k=12)
    assert result.n_unknown.tolist() == [1]
    assert not {102, 104} & set(result.items[0].tolist())
    np.testing.assert_array_equal(fitted.scores([[101, 103]])[0], np.delete(before, [2, 4]))


def test_what_is_added_and_retired_again_leaves_the_model_as_it_was(fitted):
    before = {name: weight.copy() for name, weight in fitted.params_.items()}
    fitted.add_items([1, 1000]).retire_items([1000, 1])
    for name, weight in before.items():
        np.testing.assert_array_equal(weight, fitted.params_[name])
    assert fitted.item_ids_.tolist() == list(range(100, 112))


@pytest.mark.parametrize("output_table", ["tied", "separate"])
def test_ids_titles_and_tables_stay_in_step_through_the_file(output_table, tmp_path):
    data = chains()
    data.titles = np.array([f"item {i}" for i in data.item_ids.tolist()])
    model = small(output_table=output_table).fit(data, validation=None)
    model.add_items([50, 200], like=[[104], [105]], titles={50: "fifty"}).retire_items([100])
    model.save(tmp_path / "m")
    loaded = regard.load(tmp_path / "m", verify=True)
    assert loaded.titles_.tolist() == ["fifty", *(f"item {i}" for i in range(101, 112)), "200"]
    a, b = (m.recommend([[101, 102, 103]], k=4) for m in (model, loaded))
    np.testing.assert_array_equal(a.items, b.items)
    assert {50, 104} <= set(a.items[0].tolist())  # equal vectors, equal scores
    assert loaded.popularity_.tolist() == model.popularity_.tolist()


def test_text_ids_can_be_longer_than_all_known_ones(tmp_path):
    data = regard.Interactions(np.repeat([1, 2, 3], 4), ["a", "b", "c", "d"] * 3)
    model = small(epochs=1).fit(data, validation=None).add_items(["a much longer id"])
    assert model.item_ids_.tolist() == ["a", "a much longer id", "b", "c", "d"]


def test_a_failed_continuation_leaves_the_model_as_it_was(fitted):
    before = {name: weight.copy() for name, weight in fitted.params_.items()}
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError):
        fitted.fit_more(more(), learning_rate=1e30)
    assert len(fitted.item_ids_) == 12
    for name, weight in before.items():
        np.testing.assert_array_equal(weight, fitted.params_[name])


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m: m.add_items([104]), ValueError, "item_ids: 104 is in the catalogue already"),
        (lambda m: m.add_items([1, 1]), ValueError, "expected every id once"),
        (lambda m: m.add_items(["a"]), TypeError, "item_ids: expected int64 item ids, got str"),
        (lambda m: m.add_items([1], like=[[104], [105]]), ValueError, r"like: expected 1 lists .*, got 2"),
        (lambda m: m.add_items([1], like=[[3]]), ValueError, "like: 3 is not in the catalogue"),
        (lambda m: m.retire_items([3]), ValueError, "item_ids: 3 is not in the catalogue"),
        (lambda m: m.retire_items(range(100, 112)), ValueError, "at least one item to be left"),
        (lambda m: m.fit_more(regard.Interactions([1, 1], ["a", "b"])), TypeError, "expected int64 item ids, got str"),
        (lambda m: m.fit_more(more(), epochs=0), ValueError, "epochs: expected at least 1, got 0"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(fitted, act, error, message):
    with pytest.raises(error, match=message):
        act(fitted)
    assert fitted.item_ids_.tolist() == list(range(100, 112))


@pytest.mark.parametrize("name", ["add_items", "retire_items"])
def test_an_unfitted_model_says_so(name):
    with pytest.raises(RuntimeError, match="not fitted yet"):
        getattr(small(), name)([1])


def test_whatever_becomes_of_the_catalogue_its_8_bit_copy_is_of_the_vectors_as_they_are(monkeypatch, tmp_path, rng):
    """Answers, between all the ways to change a model, are those of float32 scores in a plain sort."""
    monkeypatch.setattr("regard.sequence_answers._QUANTIZED", 1)
    items = np.concatenate([np.arange(700), rng.integers(0, 700, 500)])
    data = regard.Interactions(np.arange(1200) // 6, rng.permutation(items))

    def check(model):
        histories = rng.integers(0, 700, (20, 3))
        found, scores = model.recommend(histories, k=5, exclude_seen=False), model.scores(histories)
        np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], rtol=1e-5, atol=1e-6)

    model = small(epochs=4, learning_rate=0.1).fit(data, validation=None)
    check(model)
    model.fit(data, callbacks=[lambda _: check(model)])  # between epochs: trained in place
    check(model)
    check(model.add_items([7000, 500000]))
    check(model.retire_items([104]))
    check(model.fit_more(more(first=5000), epochs=2, learning_rate=0.1))
    model.save(tmp_path / "model")
    check(regard.load(tmp_path / "model"))


def test_without_many_items_or_with_allowed_ones_no_8_bit_copy_is_made(fitted, monkeypatch):
    fitted.recommend([[101, 102]], k=2)
    monkeypatch.setattr("regard.sequence_answers._QUANTIZED", 1)
    fitted.recommend([[101, 102]], k=2, allow_items=[103, 104])
    assert fitted._quantized is None


def test_training_goes_on_with_seen_items_ranked():
    data = returning()
    model = small(epochs=2).fit(data, exclude_seen=False)
    model.fit_more(data, epochs=1, exclude_seen=False)
    assert model.history_[-1]["metric"] > 0
    model.fit_more(data, epochs=1)  # what is held out was seen by all
    assert model.history_[-1]["metric"] == 0


FAILURES = {
    "no user with two events": lambda model: model.fit(regard.Interactions(np.arange(9), np.arange(100, 109))),
    "a callback": lambda model: model.fit(chains(n_items=9), callbacks=[lambda entry: 1 / 0]),
    "a loss that is not finite": lambda model: model.set_params(learning_rate=1e38).fit(chains(n_items=9)),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_failed_fit_leaves_the_model_as_it_was(failure):
    model = small(epochs=2).fit(chains())
    params, answer = model.get_params(), model.recommend([[101, 102]], k=5)
    with pytest.raises((ValueError, ZeroDivisionError, FloatingPointError)):
        failure(model)
    np.testing.assert_array_equal(model.recommend([[101, 102]], k=5).scores, answer.scores)
    model.similar_items([101])
    assert params == model.set_params(learning_rate=params["learning_rate"]).get_params()
    unfitted = small()
    with pytest.raises((ValueError, ZeroDivisionError, FloatingPointError)):
        failure(unfitted)
    with pytest.raises(RuntimeError, match="not fitted yet"):
        unfitted.recommend([101])


def test_settings_of_a_fitted_model_wait_for_the_next_fit(tmp_path):
    model = small(epochs=1).fit(chains())
    before = model.recommend([[101, 102]], k=5)
    model.set_params(n_heads=2, dim=8, max_len=3)
    assert (model.get_params()["n_heads"], model.n_heads) == (2, 1)
    model.save(tmp_path / "m")
    again = regard.load(tmp_path / "m")
    for one in (model, again, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(one.recommend([[101, 102]], k=5).scores, before.scores)
    assert again.get_params()["n_heads"] == 1
    model.fit(chains())
    assert (model.n_heads, model.dim, model.max_len) == (2, 8, 3)
    fresh = small(epochs=1, n_heads=2, dim=8, max_len=3).fit(chains())
    np.testing.assert_array_equal(model.encode([[101]]), fresh.encode([[101]]))
