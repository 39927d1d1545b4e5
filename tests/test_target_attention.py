"""Target attention: the candidate decides which events matter; bad input; what must not change a bit."""

import copy

import numpy as np
import pytest

import regard
from regard import click_metrics as clicks
from regard.features import EncodedFeatures
from regard.impressions import Feature
from regard.layers import Run
from regard.ragged import Ragged
from regard.recommender import OK, POPULAR, SHORT, UNKNOWN
from regard.target_network import ITEMS, Batch, ClickTraining, logits
from regard.train import RunSettings
from regard.workspace import NEW

KINDS, EVENTS = 24, 16
HOW = [{}, {"normalize": "none"}, {"scorer": "additive"}, {"scorer": "dot"}, {"pooling": "mean"}]
BAD = [{"scorer": "x"}, {"dim": 0}, {"unknown_rate": 1.0}, {"scorer": "dot", "normalize": "none"}]


def liked(n=4000, seed=0, **more):
    """Items 2 kind and 2 kind + 1 are of one kind, twin 0 liked and twin 1 disliked; a candidate of a kind is clicked
    if the history has the liked twin of that kind. A history has one event of each of 16 kinds of 24: too many for
    their mean to tell them all."""
    rng = np.random.default_rng(seed)
    kinds = np.argsort(rng.random((n, KINDS)), axis=1)[:, :EVENTS]
    twins = rng.integers(0, 2, (n, EVENTS))
    chosen = rng.integers(0, EVENTS, (n, 2))
    candidates = 2 * KINDS + np.take_along_axis(kinds, chosen, axis=1)
    labels = 1 - np.take_along_axis(twins, chosen, axis=1)
    return regard.Impressions((2 * kinds + twins), candidates, labels.ravel(), **more)


def small(**settings):
    return regard.TargetAttentionRecommender(
        **{"dim": 8, "epochs": 3, "batch_size": 64, "learning_rate": 1e-2, "hidden": (16,), "random_state": 1}
        | {"attention_hidden": (8, 4)}
        | settings
    )


@pytest.fixture(scope="module")
def fitted():
    return small().fit(liked())


def same(a, b):
    return all(a.params_[name].tobytes() == b.params_[name].tobytes() for name in a.params_)


class TestLearning:
    @pytest.mark.parametrize("how", [{}, {"normalize": "none"}, {"scorer": "additive"}, {"scorer": "dot"}])
    def test_attention_finds_the_event_that_decides_and_the_mean_does_not(self, how):
        train, test = liked(), liked(1000, seed=9)
        model, mean = small(epochs=16, **how).fit(train), small(epochs=16, pooling="mean").fit(train)
        a, m = (clicks.auc(test.labels, one.predict(test).values) for one in (model, mean))
        assert a > 0.97 and a > m + 0.05

    def test_history_tells_loss_and_metrics_of_each_epoch(self, fitted):
        entry = fitted.history_[fitted.best_epoch_ - 1]
        assert {"loss", "metric", "log_loss", "auc", "user_auc"} <= entry.keys() and entry["metric"] == entry["auc"]
        assert entry["metric"] == max(e["metric"] for e in fitted.history_)

    def test_interactions_train_against_drawn_items(self):
        users = np.repeat(np.arange(150), 6)  # all six events of a user are in one half of the catalogue
        rng = np.random.default_rng(0)
        items = np.concatenate([rng.permutation(10)[:6] + 10 * (u % 2) for u in range(150)])
        model = small(epochs=15, n_negatives=3).fit(regard.Interactions(users, items))
        p = model.predict([0, 1, 2], [5, 15])[0]
        assert p[0] > 2 * p[1]

    def test_probabilities_are_calibrated_on_the_validation_part(self):
        rng = np.random.default_rng(3)
        n = 3000
        data = regard.Impressions([[1]] * n, rng.integers(0, 5, (n, 1)), (rng.random(n) < 0.1).astype(int))
        model = small().fit(data)
        held = data.take(np.arange(n - n // 10, n))
        assert model.predict(held).values.mean() == pytest.approx(held.labels.mean(), abs=0.01)


def assert_central_differences(value, params, grads, rng):
    for name, weight in params.items():
        flat, step = weight.reshape(-1), 1e-2
        for i in rng.permutation(flat.size)[:12]:
            before = flat[i]
            flat[i] = before + step
            up, high = value(), flat[i]
            flat[i] = before - step
            down, low = value(), flat[i]
            flat[i] = before
            assert grads[name].reshape(-1)[i] == pytest.approx((up - down) / (high - low), abs=3e-3), name


def batch_of(rng, n_items=6):
    """Three impressions; the last row stands for an unknown item."""
    return Batch(
        Ragged(rng.integers(0, n_items, 7).astype(np.int32), [0, 4, 4, 7]),
        Ragged(rng.integers(0, n_items, 6).astype(np.int32), [0, 3, 4, 6]),
        np.array([[0], [1], [2]], np.int32),
        rng.standard_normal((3, 1)).astype(np.float32),
    )


def begun(model, n_items, rng):
    params = model.initial_parameters(n_items, [Feature(name="a", words=["x", "y"]), Feature(name="b", mean=0, std=1)])
    for weight in params.values():
        weight[...] += (0.3 * rng.standard_normal(weight.shape)).astype(np.float32)
    return params


class TestGradients:
    @pytest.mark.parametrize("how", HOW)
    def test_of_the_whole_model_are_those_of_central_differences(self, how):
        model = small(dim=4, activation="silu", feature_dim=3, **how)
        rng = np.random.default_rng(0)
        params, batch, dz = begun(model, 5, rng), batch_of(rng), rng.standard_normal(6)

        def value():
            run = Run(batch.histories.values, batch.histories.offsets, params)
            return (logits(model._attention, model.steps(), run, batch)[0] * dz).sum()

        grads = {name: np.zeros_like(weight) for name, weight in params.items()}
        run = Run(batch.histories.values, batch.histories.offsets, params, grads)
        logits(model._attention, model.steps(), run, batch)[1](dz)
        assert np.abs(grads["unknown_item.weight"]).max() > 0.01
        assert_central_differences(value, params, grads, rng)

    def test_of_a_training_step_reach_what_the_item_features_add(self):
        model = small(dim=4, activation="silu", feature_dim=3)
        known = {"categories": {"kind": [["a", "b"], "a", None, "c", "b", "a"]}, "numbers": {"size": range(6)}}
        model.features_ = EncodedFeatures.fit(regard.ItemFeatures(np.arange(6), **known), np.arange(6))
        rng = np.random.default_rng(0)
        params, batch = begun(model, 6, rng), batch_of(rng, 7)
        labels = rng.integers(0, 2, 6).astype(np.float32)
        settings = RunSettings(**{name: getattr(model, name) for name in RunSettings.__dataclass_fields__})
        run = ClickTraining(model._attention, model.steps(), params, settings, batch, labels, features=model.features_)
        run.begin_epoch()

        def value():
            return run._gradients(np.arange(3), 1)[0]

        for gradient in run.grads.values():
            gradient.fill(0)
        _, _, grads, rows = run._gradients(np.arange(3), 1)
        table = np.zeros_like(params[ITEMS])
        table[rows[ITEMS]] = grads[ITEMS]
        assert np.abs(grads["items.categories"]).max() > 0.01 and np.abs(grads["items.map"]).max() > 0.01
        kept = {name: gradient.copy() for name, gradient in grads.items()} | {ITEMS: table}
        assert_central_differences(value, params, kept, rng)


class TestSameBits:
    def test_whatever_the_number_of_threads(self, fitted, threads):
        assert same(small().fit(liked()), fitted)

    def test_a_step_that_takes_every_item_for_unknown_goes_on(self):
        model = small(epochs=1, batch_size=1, unknown_rate=0.9).fit(liked(60))
        assert (
            np.isfinite(model.params_["items.weight"]).all() and np.abs(model.params_["unknown_item.weight"]).max() > 0
        )

    def test_another_seed_gives_another_model(self, fitted):
        assert not same(small(random_state=2).fit(liked()), fitted)

    def test_a_stopped_run_goes_on_to_the_same_end(self, fitted, tmp_path):
        def stop(entry):
            if entry["epoch"] == 2:
                raise KeyboardInterrupt

        path = tmp_path / "run"
        stopped = small().fit(liked(), checkpoint=path, checkpoint_seconds=0, callbacks=[stop])
        assert stopped.interrupted_ and path.exists()
        assert same(small().fit(liked(), checkpoint=path), fitted)
        with pytest.raises(ValueError, match="another run"):
            small(normalize="none").fit(liked(), checkpoint=path)

    def test_a_saved_model_answers_the_same(self, tmp_path):
        data = liked(
            500, user_features={"age": np.arange(500.0), "sex": ["f", "m"] * 250}, context={"new": [True] * 500}
        )
        model = small(epochs=1).fit(data)
        model.save(tmp_path / "m")
        loaded = regard.load(tmp_path / "m", verify=True)
        assert loaded.predict(data) == model.predict(data) and loaded.get_params() == model.get_params()


@pytest.fixture(scope="module")
def described():
    """Each event and candidate says its kind and its twin."""
    ids = np.arange(4 * KINDS)
    kind = np.where(ids < 2 * KINDS, ids // 2, ids % KINDS)
    role = np.where(ids < 2 * KINDS, np.where(ids % 2, "disliked", "liked"), "candidate")
    return regard.ItemFeatures(ids, categories={"kind": kind, "role": role})


@pytest.fixture(scope="module")
def known(described):
    return small(epochs=16, weight_decay=0.1).fit(liked(item_features=described))


class TestItemFeatures:
    def test_a_candidate_that_training_never_had_is_scored_by_its_features(self, known, described):
        test = liked(1000, seed=9)
        new = regard.Impressions(
            test.histories, test.candidates.with_values(test.candidates.values + KINDS), test.labels
        )
        model = copy.copy(known)
        before = clicks.auc(new.labels, model.predict(new).values)
        assert before == pytest.approx(0.5, abs=0.1)  # one vector for all of them
        model.add_items(np.arange(3 * KINDS, 4 * KINDS), features=described)
        after = clicks.auc(new.labels, model.predict(new).values)
        assert after > 0.9 and model.popularity_[-KINDS:].tolist() == [0] * KINDS
        assert (model.rank([[0, 3]], [[3 * KINDS, 3 * KINDS + 1]]).flags == OK).all()

    def test_the_fitted_table_is_the_sum_and_a_saved_model_has_the_features(self, known, tmp_path):
        again = known._folded(known._unfolded())
        np.testing.assert_allclose(again["items.weight"], known.params_["items.weight"], atol=1e-5)
        assert np.abs(known._unfolded()["items.weight"] - known.params_["items.weight"]).max() > 0.1
        known.save(tmp_path / "m")
        loaded, data = regard.load(tmp_path / "m", verify=True), liked(20)
        assert loaded.predict(data) == known.predict(data) and loaded.features_.how == known.features_.how

    def test_they_can_be_left_out_and_interactions_bring_them_too(self, described):
        assert same(small(item_features=False).fit(liked(300, item_features=described)), small().fit(liked(300)))
        pairs = regard.Interactions(np.repeat(np.arange(40), 3), np.arange(120) % 30).with_features(described)
        assert small(epochs=1).fit(pairs).params_["items.categories"].shape == (15 + 2, 8)

    def test_a_checkpoint_of_other_features_is_another_run(self, described, tmp_path):
        small(epochs=1).fit(liked(200), checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match="data"):
            small(epochs=1).fit(liked(200, item_features=described), checkpoint=tmp_path / "run")

    def test_bad_ones_are_named(self, known):
        with pytest.raises(TypeError, match="item_features: expected ItemFeatures or None, got dict"):
            liked(20, item_features={"kind": 1})
        with pytest.raises(TypeError, match=r"item_features\.item_ids: expected int64 item ids, got str"):
            liked(20, item_features=regard.ItemFeatures(["a"], numbers={"x": [1]}))
        with pytest.raises(ValueError, match="features: expected categories"):
            copy.copy(known).add_items([900], features=regard.ItemFeatures([900], numbers={"x": [1]}))


class TestAnswers:
    def test_many_candidates_in_one_call_are_as_many_calls(self, fitted):
        history, candidates = [0, 3, 4, 7, 8, 10], np.arange(100) % 30
        together = fitted.predict(history, candidates)[0]
        alone = [fitted.predict(history, [c])[0][0] for c in candidates.tolist()]
        np.testing.assert_allclose(together, alone, rtol=2e-6)

    def test_rank_puts_the_most_probable_first_and_flags_unknown_candidates(self, fitted):
        answer = fitted.rank([[0, 3, 999], [1]], [[49, 48, 555], [48]])
        p = fitted.predict([[0, 3], [1]], [[49, 48, 555], [48]])
        assert answer.scores[0].tolist() == sorted(p[0].tolist(), reverse=True)
        assert set(answer.items[0].tolist()) == {48, 49, 555} and answer.items[1].tolist() == [48, -1, -1]
        assert answer.flags.tolist() == [UNKNOWN, SHORT] and answer.n_unknown.tolist() == [1, 0]
        one, other = fitted.predict([0, 3], [555, 556])[0]
        assert one == other

    def test_recommend_ranks_what_the_first_stage_finds(self, fitted):
        answer = fitted.recommend([[0, 3], []], k=4)
        assert answer.flags[1] == POPULAR and answer.items.shape == (2, 4)
        assert not {0, 3} & set(answer.items[0].tolist())
        few = fitted.recommend([[0, 3]], k=4, allow_items=[48, 49])
        assert set(few.items[0, :2].tolist()) == {48, 49} and few.flags[0] == SHORT
        rules = regard.baselines.Popularity().fit(regard.Interactions([1, 1], [48, 49]))
        assert set(fitted.recommend([[0]], k=2, retriever=rules).items[0].tolist()) == {48, 49}

    @pytest.mark.parametrize("how", HOW)
    def test_attention_weights_are_those_that_pool_the_history(self, how):
        model = small(epochs=2, **how).fit(liked(500))
        weights, events = model.attention_weights(np.arange(0, 32, 2), 2 * KINDS + 1)
        rows = np.searchsorted(model.item_ids_, np.append(events, 2 * KINDS + 1))
        vectors = model.params_["items.weight"][rows]
        cu = np.array([0, 1]), np.array([0, 16])
        pooled, _ = model._attention.pool(model.params_, vectors[-1:], vectors[:-1], cu, NEW)
        assert events.tolist() == list(range(0, 32, 2))
        np.testing.assert_allclose(weights @ vectors[:-1], pooled[0], rtol=1e-4, atol=1e-5)

    def test_a_history_that_is_empty_gets_probabilities(self, fitted):
        assert np.isfinite(fitted.predict([[]], [[48, 49]])[0]).all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": [[1, 2]]}, "labels: expected 0 or 1, got 2"),
            ({"labels": [[1, np.nan]]}, "labels: expected 0 or 1, got nan"),
            ({"labels": [[1]]}, "labels: expected one for each candidate"),
            ({"labels": [1]}, "labels: expected 2"),
            ({"histories": [[1], [2]]}, "histories: expected 1 lists"),
            ({"user_ids": [1, 2]}, "user_ids: expected 1 ids"),
            ({"context": {"hour": [1, 2]}}, "context: 'hour': expected 1 values, got 2"),
            ({"context": {"hour": [np.inf]}}, "context: 'hour': expected finite numbers, got inf"),
        ],
    )
    def test_in_impressions_is_named(self, change, message):
        good = {"histories": [[1]], "candidates": [[1, 2]], "labels": [[1, 0]]}
        with pytest.raises(ValueError, match=message):
            regard.Impressions(**good | change)

    def test_of_a_wrong_type_is_named(self):
        with pytest.raises(TypeError, match="candidates: expected int64 item ids, got float"):
            regard.Impressions([[1]], [[1, np.nan]], [[1, 0]])
        with pytest.raises(TypeError, match="context: 'x': expected text, bools or numbers, got int and str"):
            regard.Impressions([[1]] * 2, [[1]] * 2, [[1]] * 2, context={"x": [1, "a"]})
        with pytest.raises(TypeError, match="data: expected Impressions or Interactions"):
            small().fit([[1]])

    def test_in_features_is_an_error_or_the_documented_default(self):
        data = liked(400, user_features={"age": np.arange(400.0), "sex": ["f", "m"] * 200})
        model = small(epochs=1).fit(data)
        ask = {"histories": [[0, 3]], "candidates": [[48]]}
        usual = model.predict(**ask, user_features={"age": [np.mean(np.arange(360.0))], "sex": [None]})
        assert usual == model.predict(**ask, user_features={"age": [None], "sex": ["other"]})
        with pytest.raises(ValueError, match="user_features: expected the columns age, sex, got none"):
            model.predict(**ask)
        with pytest.raises(TypeError, match="user_features: 'age': expected numbers, as in training, got text"):
            model.predict(**ask, user_features={"age": ["old"], "sex": ["f"]})
        with pytest.raises(TypeError, match="user_features: 'sex': expected text, as in training, got numbers"):
            model.predict(**ask, user_features={"age": [3], "sex": [1.0]})

    @pytest.mark.parametrize("wrong", BAD)
    def test_in_settings_is_named(self, wrong):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]}.*: expected"):
            small(**wrong).fit(liked(50))


class TestMetrics:
    @pytest.fixture
    def drawn(self, rng):
        return rng.integers(0, 2, 300), rng.integers(0, 20, 300) / 20, rng.integers(0, 40, 300)

    def test_auc_is_the_share_of_pairs_in_order_ties_by_half(self, drawn):
        y, s, users = drawn

        def pairs(y, s):
            d = s[y == 1][:, None] - s[y == 0][None]
            return ((d > 0) + 0.5 * (d == 0)).mean()

        assert clicks.auc(y, s) == pytest.approx(pairs(y, s), abs=1e-12)
        of = [(pairs(y[m], s[m]), m.sum()) for m in (users == u for u in range(40)) if 0 < y[m].mean() < 1]
        assert clicks.user_auc(y, s, users) == pytest.approx(
            np.average([a for a, _ in of], weights=[n for _, n in of]), abs=1e-12
        )
        assert np.isnan(clicks.auc([1, 1], [0.1, 0.2])) and np.isnan(clicks.user_auc([1, 0], [0, 1], [1, 2]))

    def test_they_are_those_of_scikit_learn(self, drawn):
        judge = pytest.importorskip("sklearn.metrics")
        y, s, _ = drawn
        assert clicks.auc(y, s) == pytest.approx(judge.roc_auc_score(y, s), abs=1e-12)
        p = 0.9 * s + 0.05
        assert clicks.log_loss(y, p) == pytest.approx(judge.log_loss(y, p), abs=1e-12)

    def test_calibration_error_is_0_for_shares_and_large_for_the_opposite(self):
        y = np.tile([1, 0, 0, 0], 100)
        assert clicks.calibration(y, np.full(400, 0.25), n_bins=1).error == pytest.approx(0)
        assert clicks.calibration(y, 1 - y, n_bins=4).error == pytest.approx(1)

    @pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
    def test_calibration_error_does_not_depend_on_the_order_of_equal_probabilities(self, order):
        y = np.repeat([0, 1], 500)[order]
        assert clicks.calibration(y, np.full(1000, 0.5)).error == pytest.approx(0)

    @pytest.mark.parametrize("seed", range(40))
    def test_a_model_that_knows_nothing_is_calibrated_to_the_share_of_clicks(self, seed):
        rng = np.random.default_rng(seed)
        z, y = 2.4 + rng.standard_normal(300), rng.integers(0, 2, 300)
        slope, shift = clicks.platt(z, y)
        assert slope > 0 and clicks.sigmoid(slope * z + shift).mean() == pytest.approx(y.mean(), abs=0.01)

    def test_a_paired_interval_holds_the_difference_and_excludes_0_where_one_is_better(self, rng):
        y = rng.integers(0, 2, 1000)
        good, bad = y + rng.standard_normal(1000), y + 3 * rng.standard_normal(1000)
        d, low, high = clicks.auc_difference(y, good, bad, n_resamples=200)
        assert d == pytest.approx(clicks.auc(y, good) - clicks.auc(y, bad), abs=1e-12) and 0 < low < d < high
        assert clicks.auc_difference(y, good, good, users=np.arange(1000) // 5, n_resamples=50) == (0, 0, 0)

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="labels: expected 0 or 1, got 2"):
            clicks.auc([2, 0], [0.1, 0.2])
        with pytest.raises(ValueError, match="probabilities: expected numbers from 0 to 1"):
            clicks.log_loss([1, 0], [1.5, 0.2])
        with pytest.raises(ValueError, match="scores: expected finite numbers, got nan"):
            clicks.auc([1, 0], [np.nan, 0.2])
