"""Baselines: their formulas on small data, their measured numbers on real data."""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from regard.baselines import (
    EASE,
    ContentBased,
    ItemKNN,
    MatrixFactorization,
    Popularity,
    Repeats,
    SequentialRules,
    tables,
    tune,
)
from regard.data import Interactions
from regard.features import EncodedFeatures, ItemFeatures
from regard.impressions import learn_features
from regard.metrics import evaluate
from regard.ragged import Ragged
from regard.splits import leave_one_out

DATA = Path(os.environ.get("REGARD_DATA") or Path(__file__).parents[2] / "shared" / "data")
MODELS = [Popularity(), SequentialRules(), ItemKNN(), EASE()]


def interactions(lists):
    lengths = [len(row) for row in lists]
    return Interactions(np.repeat(np.arange(len(lists)), lengths), np.concatenate(lists).astype(np.int64))


@pytest.fixture
def small():
    random = np.random.default_rng(0)
    return interactions([random.permutation(12)[: random.integers(3, 9)] for _ in range(40)])


def users_by_items(data):
    matrix = np.zeros((data.n_users, data.n_items))
    for user, row in enumerate(data.sequences):
        matrix[user, row] = 1
    return matrix


def decayed(histories, decay, n_items, last=None):
    query = np.zeros((len(histories), n_items))
    for user, row in enumerate(histories):
        for age, item in enumerate(row[::-1][:last]):
            query[user, item] += decay**age
    return query


# ---- formulas -------------------------------------------------------------------------------------------------------


def test_popularity_is_the_number_of_events():
    model = Popularity().fit(interactions([[1, 2, 2], [2, 3], [3, 2]]))
    assert model.scores([1]).tolist() == [[1, 4, 2]]
    assert model.recommend([1], k=3).items.tolist() == [[2, 3, -1]]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("backward", [0.0, 0.3])
def test_rules_are_a_decayed_sum_of_what_followed(small, monkeypatch, dense, backward):
    monkeypatch.setattr(tables, "is_dense", lambda n_items, n_filled: dense)
    model = SequentialRules(window=3, history=4, target_exponent=0.2, backward=backward).fit(small)
    table = np.zeros((small.n_items, small.n_items))
    events = small.popularity()
    for row in small.sequences:
        for i, source in enumerate(row):
            for j, target in enumerate(row):
                if 0 < abs(j - i) <= 3:
                    weight = (1 if j > i else backward) / abs(j - i)
                    table[source, target] += weight / events[source] ** 0.5 / events[target] ** 0.2
    histories = small.item_ids[small.sequences.values]
    expected = decayed(small.sequences, 0.6, small.n_items, last=4) @ table
    got = model.scores(Ragged(histories, small.sequences.offsets))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_item_knn_is_a_weighted_count_of_common_users(small, monkeypatch, dense):
    monkeypatch.setattr(tables, "is_dense", lambda n_items, n_filled: dense)
    model = ItemKNN(source_exponent=0.4, target_exponent=0.3, decay=0.8).fit(small)
    common = users_by_items(small).T @ users_by_items(small)
    users = np.diag(common).copy()
    np.fill_diagonal(common, 0)
    table = common / users[:, None] ** 0.4 / users**0.3
    expected = decayed(small.sequences, 0.8, small.n_items) @ table
    got = model.scores(Ragged(small.item_ids[small.sequences.values], small.sequences.offsets))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_item_knn_keeps_the_nearest_neighbours(small):
    all_of_them, few = ItemKNN().fit(small), ItemKNN(neighbours=3).fit(small)
    expected = all_of_them.similar_items(small.item_ids, k=3)
    found = few.similar_items(small.item_ids, k=4)
    assert found.items[:, :3].tolist() == expected.items.tolist() and (found.items[:, 3] == -1).all()


def test_ease_solves_its_regression(small):
    model = EASE(regularization=2.0, decay=0.9).fit(small)
    x = users_by_items(small)
    table = np.zeros((small.n_items, small.n_items))
    for target in range(small.n_items):  # ridge regression of each item on all the others
        others = np.flatnonzero(np.arange(small.n_items) != target)
        gram = x[:, others].T @ x[:, others] + 2 * np.eye(len(others))
        table[others, target] = np.linalg.solve(gram, x[:, others].T @ x[:, target])
    expected = decayed(small.sequences, 0.9, small.n_items) @ table
    got = model.scores(Ragged(small.item_ids[small.sequences.values], small.sequences.offsets))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_ease_refuses_a_catalogue_too_large_and_names_the_memory(small):
    with pytest.raises(ValueError, match=r"EASE: 12 items would need about 0\.0 GiB.*max_items=10"):
        EASE(max_items=10).fit(small)


# ---- what all have in common ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_fitting_twice_gives_the_same_bits(model, small):
    first = type(model)(**model.get_params()).fit(small).scores([[3, 1], [0]])
    second = type(model)(**model.get_params()).fit(small).scores([[3, 1], [0]])
    assert np.array_equal(first, second)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_batch_equals_its_rows(model, small):
    fitted = type(model)(**model.get_params()).fit(small)
    histories = [[3, 1, 4], [0], [], [2, 99, 5]]
    alone = np.concatenate([fitted.scores([row]) for row in histories])
    assert np.array_equal(fitted.scores(histories), alone)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_an_item_without_training_events_does_no_harm(model):
    data = interactions([[1, 2, 3, 9], [2, 3, 1], [3, 1, 2]])
    split = leave_one_out(data)
    fitted = type(model)(**model.get_params()).fit(split.train)
    assert np.isfinite(fitted.scores([[9], [1, 9]])).all()


@pytest.mark.parametrize("model", MODELS[1:], ids=repr)
def test_items_never_seen_together_are_not_similar(model):
    fitted = type(model)(**model.get_params()).fit(interactions([[1, 2], [1, 2], [7, 8]]))
    found = fitted.similar_items(1, k=3)
    assert found.items[0, 0] == 2 and not {7, 8} & set(found.items[0].tolist())


# ---- choosing -------------------------------------------------------------------------------------------------------


def test_tuning_takes_the_best_on_validation_and_fits_once_per_table(small, monkeypatch):
    split = leave_one_out(small)
    fits = []
    fit = ItemKNN.fit
    monkeypatch.setattr(ItemKNN, "fit", lambda self, data: fits.append(self) or fit(self, data))
    candidates = [ItemKNN(target_exponent=t, decay=d) for t in (0.5, 0.0) for d in (1.0, 0.7, 0.4)]
    best = tune(candidates, split)
    assert len(fits) == 2
    values = [evaluate(fit(model, split.train), split.validation)["ndcg@10"] for model in candidates]
    assert best.get_params() == candidates[int(np.argmax(values))].get_params()
    assert evaluate(best, split.validation)["ndcg@10"] == max(values)


def test_a_class_is_tuned_over_its_own_grid(small):
    best = tune(EASE, leave_one_out(small))
    assert all(best.get_params()[name] in values for name, values in EASE.grid.items())
    assert isinstance(tune(Popularity, leave_one_out(small)), Popularity)


def test_tuning_needs_a_candidate(small):
    with pytest.raises(ValueError, match="at least one model"):
        tune([], leave_one_out(small))


# ---- real data: leave-one-out, seen items excluded, ties by expected rank -------------------------------------------


@cache
def real(name):
    if not DATA.is_dir():
        pytest.skip("no data sets here: set REGARD_DATA")
    from regard import datasets  # noqa: PLC0415  # only where there is data

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGARD_DATA", str(DATA))
        return leave_one_out(datasets.load(name))


def assert_reaches(model, name, hr, ndcg):
    """At most 0.002 HR@10 and 0.0015 NDCG@10 off numbers that were measured with an independent implementation."""
    split = real(name)
    report = evaluate(type(model)(**model.get_params()).fit(split.train), split.test, k=10, coverage=False)
    assert (report["hr@10"], report["ndcg@10"]) == (pytest.approx(hr, abs=0.002), pytest.approx(ndcg, abs=0.0015))


@pytest.mark.parametrize(
    ("model", "name", "hr", "ndcg"),
    [
        (Popularity(), "ml-100k", 0.0838, 0.0436),
        (ItemKNN(), "ml-100k", 0.1082, 0.0558),
        (ItemKNN(decay=0.6), "ml-100k", 0.1877, 0.1038),
        (EASE(), "ml-100k", 0.1400, 0.0728),
        (EASE(regularization=1000, decay=0.6), "ml-100k", 0.2047, 0.1090),
        (SequentialRules(decay=0.8, target_exponent=0.4, backward=1.0), "ml-100k", 0.2195, 0.1162),
        (Popularity(), "lastfm", 0.0385, 0.0180),
        (ItemKNN(), "lastfm", 0.0771, 0.0393),
        (EASE(), "lastfm", 0.0826, 0.0487),
        (SequentialRules(decay=0.7), "lastfm", 0.0642, 0.0361),
    ],
    ids=repr,
)
def test_baselines_reach_their_measured_numbers(model, name, hr, ndcg):
    assert_reaches(model, name, hr, ndcg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "hr", "ndcg"),
    [
        (Popularity(), "amazon-beauty", 0.0110, 0.0053),
        (ItemKNN(), "amazon-beauty", 0.0569, 0.0325),
        (ItemKNN(target_exponent=0.2, decay=0.5), "amazon-beauty", 0.0716, 0.0423),
        (SequentialRules(), "amazon-beauty", 0.0845, 0.0531),
        (EASE(), "amazon-beauty", 0.0656, 0.0349),
        (EASE(regularization=100, decay=0.6), "amazon-beauty", 0.0772, 0.0455),
        (SequentialRules(), "ml-1m", 0.2624, 0.1537),  # the two of ml-1m: with this implementation
        (EASE(regularization=1000, decay=0.8), "ml-1m", 0.2318, 0.1290),
    ],
    ids=repr,
)
def test_baselines_reach_their_measured_numbers_on_larger_data(model, name, hr, ndcg):
    assert_reaches(model, name, hr, ndcg)


@pytest.mark.slow
def test_tuning_chooses_the_rules_that_reach_the_measured_number():
    split = real("ml-100k")
    report = evaluate(tune(SequentialRules, split), split.test, k=10)
    assert (report["hr@10"], report["ndcg@10"]) == (pytest.approx(0.2195, abs=0.002), pytest.approx(0.1162, abs=0.0015))


@pytest.mark.parametrize("n_users", [5, 60])
def test_ease_is_the_same_by_users_and_by_items(n_users):
    random = np.random.default_rng(2)
    data = interactions([*(random.permutation(20)[:6] for _ in range(n_users)), np.arange(20)])
    x = users_by_items(data)
    inverse = np.linalg.inv(x.T @ x + 7 * np.eye(20))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    model = EASE(regularization=7.0).fit(data)
    assert model.table_.weights == pytest.approx(expected, abs=1e-6)


# ---- repeats, content, matrix factorisation -------------------------------------------------------------------------


def test_repeats_are_what_the_history_holds_by_number_and_age():
    model = Repeats(decay=0.5).fit(interactions([[1, 2, 3]]))
    assert model.scores([1, 2, 1]).tolist() == [[1.25, 0.5, 0]]
    assert Repeats(decay=1.0).fit(interactions([[1, 2, 3]])).scores([1, 2, 1]).tolist() == [[2, 1, 0]]


def with_features(data, **features):
    return data.with_features(ItemFeatures(data.item_ids, **features))


@pytest.fixture
def described(small):
    random = np.random.default_rng(1)
    return with_features(
        small,
        categories={
            "kind": [["a", "b", "all"], ["b", "all"], ["c", "all"], [], *[["a", "all"]] * 8],
            "maker": list("xxyyzzxxyyzz"),
        },
        numbers={"price": [None, *range(11)], "year": random.normal(size=12)},
        vectors={"text": random.normal(size=(12, 3))},
    )


def test_content_is_the_cosine_of_weighted_features(described):
    features, n = described.features, described.n_items
    columns = []
    for lists in features.categories.values():
        for value in sorted({value for row in lists for value in row}):
            had = np.array([value in row for row in lists])
            columns.append(had / np.sqrt(np.maximum([len(row) for row in lists], 1)) * np.log(n / had.sum()))
    categories = np.array(columns).T
    categories /= np.linalg.norm(categories, axis=1, keepdims=True)
    numbers = np.array([(x - np.nanmean(x)) / np.nanstd(x) for x in features.numbers.values()]).T / np.sqrt(2)
    vectors = features.vectors["text"] / np.sqrt(np.square(features.vectors["text"]).sum(axis=1).mean())
    profiles = np.hstack([categories, np.nan_to_num(numbers), vectors])
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)

    model = ContentBased(decay=0.7).fit(described)
    wanted = 0.49 * profiles[4] + 0.7 * profiles[0] + profiles[7]
    expected = profiles @ (wanted / np.linalg.norm(wanted))
    assert model.scores(described.item_ids[[4, 0, 7]])[0] == pytest.approx(expected, abs=1e-5)
    similar = model.similar_items(described.item_ids[0], k=11)
    assert similar.scores[0] == pytest.approx(np.sort((profiles @ profiles[0])[1:])[::-1], abs=1e-5)


def test_content_knows_items_that_nobody_had():
    data = interactions([[1, 2, 3], [2, 1], [4, 5], [1, 2]])
    data = with_features(data, categories={"kind": ["tea", "cup", "pot", "tea", "cup"]})
    split = leave_one_out(data)  # item 3 is in the test only
    model = ContentBased().fit(split.train)
    assert model.recommend([1], k=1).items.tolist() == [[4]]
    assert model.recommend([3], k=1).scores[0, 0] == 0  # nothing is like it


def test_content_scores_do_not_depend_on_the_batch(described):
    model = ContentBased().fit(described)
    lists = described.item_ids[described.sequences.values]
    batch = Ragged(lists, described.sequences.offsets)
    together = model.scores(batch)
    assert (together == np.vstack([model.scores(row) for row in batch])).all()


def test_content_without_features_is_refused(small):
    with pytest.raises(ValueError, match="needs item features"):
        ContentBased().fit(small)


def test_matrix_factorization_says_which_package_it_needs(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'regard\[compare\]'"):
        MatrixFactorization().fit(small)


class TestMatrixFactorization:
    @pytest.fixture(autouse=True)
    def _needs_implicit(self):
        pytest.importorskip("implicit")

    @pytest.fixture
    def taste(self):
        """Two kinds of people, each with a half of 20 items."""
        random = np.random.default_rng(0)
        return interactions([random.permutation(10)[:6] + 10 * (user % 2) for user in range(60)])

    def test_new_users_are_folded_in_from_their_history(self, taste):
        model = MatrixFactorization(factors=2).fit(taste)
        assert (model.recommend([1, 2, 3], k=5).items < 10).all()
        assert (model.recommend([11, 12, 13], k=5).items >= 10).all()

    def test_a_user_is_the_least_squares_answer_for_the_history(self, taste):
        model = MatrixFactorization(factors=4, alpha=3.0, regularization=0.2).fit(taste)
        items = model.item_vectors_.astype(np.float64)
        confidence = np.ones(20)
        confidence[[5, 7]] = 3 * 2, 3  # item 5 twice; implicit takes alpha * count in place of 1
        wanted = np.zeros(20)
        wanted[[5, 7]] = 1
        gram = items.T @ (confidence[:, None] * items) + 0.2 * np.eye(4)
        user = np.linalg.solve(gram, items.T @ (confidence * wanted))
        assert model.scores([5, 7, 5])[0] == pytest.approx(items @ user, abs=1e-4)

    def test_the_data_stay_as_they_are(self, taste):
        before = taste.sequences.values.copy()
        model = MatrixFactorization(factors=4).fit(taste)
        model.scores(Ragged(taste.item_ids[before], taste.sequences.offsets))
        assert (taste.sequences.values == before).all()

    def test_the_same_seed_gives_the_same_bits(self, taste):
        first, again, other = (MatrixFactorization(factors=4, random_state=seed).fit(taste) for seed in (0, 0, 1))
        assert (first.scores([3, 4]) == again.scores([3, 4])).all()
        assert (first.scores([3, 4]) != other.scores([3, 4])).any()

    def test_similar_items_are_those_of_the_same_people(self, taste):
        model = MatrixFactorization(factors=4).fit(taste)
        assert (model.similar_items(3, k=5).items < 10).all()
        assert model.similar_items(3, k=3).scores[0, 0] <= 1 + 1e-6


@pytest.mark.parametrize("name", ["source_exponent", "target_exponent"])
@pytest.mark.parametrize("kind", [SequentialRules, ItemKNN])
def test_exponents_may_be_whole_numbers(kind, name, small):
    one, other = (kind(**{name: value}).fit(small).scores([[small.item_ids[0]]]) for value in (1, 1.0))
    np.testing.assert_array_equal(one, other)


def test_a_value_that_is_listed_twice_is_one_value():
    items = Interactions([1, 1, 2, 2], [10, 11, 12, 13])
    once, twice = (
        ContentBased().fit(items.with_features(ItemFeatures([10, 11, 12, 13], categories={"tag": tags})))
        for tags in ([["a"], ["a"], ["b"], ["c"]], [["a", "a"], ["a", "a"], ["b"], ["c"]])
    )
    np.testing.assert_allclose(twice.similar_items(10, 1).scores, once.similar_items(10, 1).scores, rtol=1e-6)


def test_numbers_that_are_all_the_same_tell_nothing():
    items = Interactions([1, 1, 2], [10, 11, 12])
    features = ItemFeatures([10, 11, 12], numbers={"price": [0.1] * 3, "year": [1.0, 2.0, 3.0]})
    how = EncodedFeatures.fit(features, items.item_ids).how["numbers"]
    assert how["price"][1] == 1 and how["year"][1] == pytest.approx(np.std([1, 2, 3]))
    assert learn_features({"price": np.full(100, 19.99)})[0]["std"] == 1
