"""Several recommenders as one: what the sum is, where its weights come from, its file."""

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard.baselines import EASE, ContentBased, ItemKNN, Popularity, Repeats, SequentialRules
from regard.ragged import Ragged
from regard.splits import Holdout, leave_one_out


@pytest.fixture(scope="module")
def split():
    return leave_one_out(chains(n_users=200, n_items=40))


@pytest.fixture(scope="module")
def members(split):
    return [m.fit(split.train) for m in (SequentialRules(), EASE(regularization=10.0), Popularity())] + [
        small(epochs=3, random_state=seed).fit(split.train, validation=split.validation) for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def blend(split, members):
    return regard.Blend(members).fit(split.train, validation=split.validation)


def assert_same(a, b, histories, **how):
    ours, theirs = a.recommend(histories, **how), b.recommend(histories, **how)
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_array_equal(ours.flags, theirs.flags)


HISTORIES = [[101, 102, 103], [], [7], [130, 131, 7], [105]]


@pytest.mark.parametrize("alone", range(5))
def test_all_weight_on_one_member_gives_the_answers_of_that_member(alone, split, members):
    weights = np.eye(5)[alone]
    blend = regard.Blend(members, weights=weights).fit(split.train, validation=None)
    assert_same(blend, members[alone], HISTORIES, k=5)
    ours, theirs = (regard.evaluate(model, split.test) for model in (blend, members[alone]))
    assert ours["ndcg@10"] == theirs["ndcg@10"] and ours["mrr"] == theirs["mrr"]


def test_scores_are_the_weighted_sum_of_standardised_scores(split, members):
    blend = regard.Blend(members[:2], weights=(3, 1)).fit(split.train, validation=None)
    one, two = (model.scores([[101, 102]])[0].astype(np.float64) for model in members[:2])
    expected = 0.75 * (one - one.mean()) / one.std() + 0.25 * (two - two.mean()) / two.std()
    np.testing.assert_allclose(blend.scores([[101, 102]])[0], expected, rtol=0, atol=1e-5)


def test_a_member_that_finds_all_items_alike_adds_nothing(split, members):
    class Constant(Popularity):
        def _scores(self, histories):
            return np.full((len(histories), len(self.item_ids_)), 3.5, np.float32)

    blend = regard.Blend([members[0], Constant().fit(split.train)], weights=(1, 1)).fit(split.train, validation=None)
    assert_same(blend, members[0], HISTORIES, k=5)


def test_on_the_validation_part_a_blend_is_not_worse_than_its_best_member(split, members, blend):
    values = [regard.evaluate(model, split.validation)["ndcg@10"] for model in (blend, *members)]
    assert values[0] >= max(values) - 1e-9
    assert blend.weights_.sum() == pytest.approx(1) and (blend.weights_ >= 0).all()


def test_weights_go_to_the_member_that_knows_and_not_to_one_that_knows_nothing(split):
    class Noise(Popularity):
        def _scores(self, histories):
            return np.random.default_rng(1).standard_normal((len(histories), len(self.item_ids_))).astype(np.float32)

    blend = regard.Blend([Noise(), SequentialRules()]).fit(split.train, validation=split.validation)
    assert blend.weights_[1] > 0.5


def test_two_halves_of_the_truth_are_worth_more_together(split):
    """Each member knows the answer of every second user only; a sum of both knows all."""

    class Half(Popularity):
        def __init__(self, part=0):
            self.part = part

        def _scores(self, histories):
            scores = np.zeros((len(histories), len(self.item_ids_)), np.float32)
            last = histories.values[histories.offsets[1:] - 1]
            right = (last + 1) % len(self.item_ids_)
            scores[np.arange(len(histories)), np.where(last % 2 == self.part, right, 0)] = 1
            return scores

    blend = regard.Blend([Half(0), Half(1)]).fit(split.train, validation=split.validation)
    assert (blend.weights_ > 0).all()
    alone = max(regard.evaluate(m, split.test)["ndcg@10"] for m in blend.members_)
    assert regard.evaluate(blend, split.test)["ndcg@10"] > 1.3 * alone


def test_permuting_the_test_items_changes_neither_weights_nor_answers(split, members, blend):
    targets = np.random.default_rng(0).permutation(split.test.targets.values)
    other = Holdout(
        split.test.item_ids, split.test.user_ids, split.test.histories, Ragged(targets, split.test.targets.offsets)
    )
    assert other.fingerprint() != split.fingerprint
    again = regard.Blend(members).fit(split.train, validation=split.validation)
    np.testing.assert_array_equal(again.weights_, blend.weights_)
    lists = [regard.evaluate(blend, part).per_user("popularity@5") for part in (split.test, other)]
    np.testing.assert_array_equal(*lists)


def test_members_that_are_not_fitted_are_fitted_alike_and_fitted_ones_left_alone(split, members):
    fresh = SequentialRules()
    blend = regard.Blend([fresh, members[3]], weights=(1, 1)).fit(split.train, validation=None)
    assert blend.members_[0] is fresh and blend.members_[1] is members[3]
    np.testing.assert_array_equal(fresh.scores([[101]]), members[0].scores([[101]]))


def test_without_members_a_blend_is_of_attention_and_what_counts(split, monkeypatch):
    made = small(epochs=2)
    monkeypatch.setattr(regard.SelfAttentionRecommender, "for_data", classmethod(lambda cls, data, **how: made))
    blend = regard.Blend().fit(split.train)
    assert [type(member) for member in blend.members_] == [
        regard.SelfAttentionRecommender,
        SequentialRules,
        ItemKNN,
        EASE,
    ]


def test_seen_items_that_are_ranked_count_in_the_weights():
    """Everyone comes back to the first item: only with seen items ranked is repeating worth anything."""
    users, items = np.repeat(np.arange(40), 5), np.tile([0, 1, 2, 3, 0], 40) + np.repeat(np.arange(40) % 5, 5)
    split = leave_one_out(regard.Interactions(users, items))
    members = [Popularity().fit(split.train), Repeats().fit(split.train)]
    fits = [
        regard.Blend(members).fit(split.train, validation=split.test, exclude_seen=exclude) for exclude in (False, True)
    ]
    assert fits[0].weights_[1] > 0
    assert fits[1].weights_.tolist() == [1.0, 0.0]  # of equal ones the first


# ---- file -----------------------------------------------------------------------------------------------------------


def test_a_loaded_blend_answers_with_the_same_bits_from_one_file(blend, tmp_path):
    blend.save(tmp_path / "b.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.safetensors"]
    loaded = regard.load(tmp_path / "b.safetensors", verify=True)
    a, b = (model.recommend(HISTORIES, k=5) for model in (blend, loaded))
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(loaded.weights_, blend.weights_)
    loaded.save(tmp_path / "again.safetensors")
    again = regard.load(tmp_path / "again.safetensors", verify=True)
    np.testing.assert_array_equal(again.recommend(HISTORIES, k=5).scores, a.scores)


def test_a_blend_may_hold_a_blend_and_titles_and_text_ids_survive(tmp_path):
    data = regard.Interactions(np.repeat(np.arange(30), 4), np.tile(["é", "b", "c d", "日本"], 30))
    data.titles = np.array([f"the {name}" for name in data.item_ids.tolist()])
    inner = regard.Blend([small(epochs=1), Popularity()], weights=(2, 1))
    blend = regard.Blend([inner, SequentialRules()], weights=(1, 1)).fit(data)
    blend.save(tmp_path / "b")
    loaded = regard.load(tmp_path / "b", verify=True)
    np.testing.assert_array_equal(loaded.scores([["b", "é"]]), blend.scores([["b", "é"]]))
    assert loaded.titles_.tolist() == data.titles.tolist()


@pytest.mark.parametrize(
    "model", [Popularity(), SequentialRules(decay=0.7), EASE(), ItemKNN(neighbours=3), Repeats()], ids=repr
)
@pytest.mark.parametrize("n_items", [12, 400])
def test_a_baseline_comes_back_from_its_file(model, n_items, tmp_path):
    """Small tables are kept whole, large ones without their zeros."""
    model.fit(chains(n_items=n_items)).save(tmp_path / "m")
    loaded = regard.load(tmp_path / "m", verify=True)
    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded.scores([[101, 102], [105]]), model.scores([[101, 102], [105]]))


def test_a_member_without_a_file_is_named(split, tmp_path):
    features = regard.ItemFeatures(split.train.item_ids, numbers={"n": np.arange(40)})
    data = split.train.with_features(features)
    blend = regard.Blend([Popularity(), ContentBased()], weights=(1, 1)).fit(data)
    with pytest.raises(NotImplementedError, match="ContentBased cannot be saved"):
        blend.save(tmp_path / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(members=3), r"header is damaged \(members: expected a list\)"),
        (lambda header: header["members"].append({}), r"header is damaged \(kind: expected a str\)"),
        (lambda header: header["members"].pop(), r"weights: expected 4 numbers|is not of this model|members"),
        (lambda header: header["members"][0].update(kind="lstm"), "unknown kind of model 'lstm'"),
        (lambda header: header["weights"].pop(), "weights: expected 5 numbers of at least 0"),
        (lambda header: header.pop("weights"), "header is damaged"),
    ],
)
def test_a_damaged_file_of_a_blend_is_refused(change, message, blend, tmp_path):
    from test_model_file import rewrite  # noqa: PLC0415

    blend.save(tmp_path / "b")
    rewrite(tmp_path / "b", change)
    with pytest.raises(ValueError, match=message):
        regard.load(tmp_path / "b")


def test_members_that_were_fitted_on_other_events_keep_their_counts(split, tmp_path):
    earlier = Popularity().fit(split.train)
    counts = earlier.popularity_[::-1].copy()
    earlier.popularity_ = counts
    regard.Blend([earlier, SequentialRules()], weights=(1, 1)).fit(split.train, validation=None).save(tmp_path / "b")
    loaded = regard.load(tmp_path / "b")
    np.testing.assert_array_equal(loaded.members_[0].popularity_, counts)
    np.testing.assert_array_equal(loaded.popularity_, split.train.popularity())


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1,), (1, -1), (0, 0), (np.nan, 1), [[1, 1]]])
def test_weights_that_do_not_fit_are_refused(weights, split, members):
    with pytest.raises(ValueError, match="weights: expected 2 numbers of at least 0, not all 0, got"):
        regard.Blend(members[:2], weights=weights).fit(split.train, validation=None)


def test_weights_cannot_be_learned_without_a_validation_part(split, members):
    with pytest.raises(ValueError, match="validation: expected a part with users to learn the weights on"):
        regard.Blend(members).fit(split.train, validation=None)


def test_a_member_with_another_catalogue_is_named(split, members):
    other = Popularity().fit(chains(n_items=7))
    with pytest.raises(
        ValueError, match=r"members: expected models of the catalogue .* Popularity has another, 7 items"
    ):
        regard.Blend([members[0], other]).fit(split.train, validation=split.validation)


def test_a_blend_of_nothing_is_refused(split):
    with pytest.raises(ValueError, match="members: expected at least one recommender, got none"):
        regard.Blend([]).fit(split.train, validation=split.validation)


def test_before_fit_a_blend_says_so(members):
    with pytest.raises(RuntimeError, match="this Blend is not fitted yet"):
        regard.Blend(members).recommend([[101]])


def test_a_validation_part_of_another_catalogue_is_refused(split):
    few = split.train.take(np.arange(5))
    with pytest.raises(ValueError, match="validation: expected the catalogue of the data"):
        regard.Blend([SequentialRules(), Popularity()]).fit(few, validation=split.validation)


def test_a_seen_target_stands_in_nobodys_way_while_weights_are_learned():
    """Each user has two targets, of which one was seen; a member that puts it first loses nothing by that."""
    data = chains()
    rows = data.sequences

    class Right(Popularity):
        def _scores(self, histories):
            scores = np.zeros((len(histories), len(self.item_ids_)), np.float32)
            last = histories.values[histories.offsets[1:] - 1]
            scores[np.arange(len(histories)), last] = 2
            scores[np.arange(len(histories)), (last + 1) % len(self.item_ids_)] = 1
            return scores

    last = rows.values[rows.offsets[1:] - 2]
    targets = Ragged(np.stack([last, rows.tail(1).values], axis=1).ravel(), 2 * np.arange(len(rows) + 1))
    holdout = Holdout(data.item_ids, data.user_ids, rows.drop_last(1), targets)
    members = [Right().fit(data), SequentialRules().fit(data)]
    alone = [regard.evaluate(member, holdout)["ndcg@10"] for member in members]
    blend = regard.Blend(members).fit(data, validation=holdout)
    assert regard.evaluate(blend, holdout)["ndcg@10"] >= max(alone) - 1e-9
