"""No test target influences a choice: other test items, the same model to the last bit."""

import numpy as np
import pytest
from small_models import chains

import regard
from regard.baselines import EASE, SequentialRules, tune
from regard.ragged import Ragged


def with_other_tests(data):
    """The same data with the last items dealt to other users."""
    items, last = data.sequences.values.copy(), data.sequences.offsets[1:] - 1
    items[last] = np.random.default_rng(5).permutation(items[last])
    sequences = Ragged(items, data.sequences.offsets)
    times = Ragged(np.arange(len(items)) * 60, data.sequences.offsets)
    return regard.Interactions.from_sequences(
        data.user_ids, data.item_ids, sequences, times=times, features=data.features
    )


@pytest.fixture(scope="module")
def splits():
    data = chains(n_users=80)
    features = regard.ItemFeatures(data.item_ids, categories={"half": (np.arange(data.n_items) // 6).astype(str)})
    data = data.with_features(features)
    data.times = Ragged(np.arange(data.n_events) * 60, data.sequences.offsets)
    found = [regard.splits.leave_one_out(one) for one in (data, with_other_tests(data))]
    assert found[0].fingerprint != found[1].fingerprint
    return found


@pytest.mark.parametrize("settings", [{}, {"loss": "sampled_softmax", "negatives": "popularity"}, {"time_bias": True}])
@pytest.mark.parametrize("preset", ["best", "fast"])
def test_other_test_items_give_the_same_recipe_and_the_same_bits(preset, settings, splits):
    models = [
        regard.SelfAttentionRecommender.for_data(split.train, preset, dim=16, epochs=3, **settings).fit(
            split.train, validation=split.validation
        )
        for split in splits
    ]
    assert models[0].get_params() == models[1].get_params()
    assert models[0].best_epoch_ == models[1].best_epoch_
    assert models[0].params_.keys() == models[1].params_.keys()
    for name, weight in models[0].params_.items():
        np.testing.assert_array_equal(weight, models[1].params_[name])


def test_other_test_items_choose_the_same_settings_of_baselines_and_weights_of_a_blend(splits):
    chosen = []
    for split in splits:
        members = [tune(kind, split) for kind in (SequentialRules, EASE)]
        blend = regard.Blend(members).fit(split.train, validation=split.validation)
        chosen.append((repr(members), blend.weights_.tolist()))
    assert chosen[0] == chosen[1]


def test_a_change_in_the_training_part_does_change_the_model(splits):
    """So that the tests above can fail."""
    split = splits[0]
    values = split.train.sequences.values[::-1].copy()
    other = regard.Interactions.from_sequences(
        split.train.user_ids, split.train.item_ids, Ragged(values, split.train.sequences.offsets)
    )
    models = [
        regard.SelfAttentionRecommender(dim=16, epochs=1, item_features=False).fit(train, validation=split.validation)
        for train in (split.train, other)
    ]
    assert (models[0].params_["items.weight"] != models[1].params_["items.weight"]).any()
