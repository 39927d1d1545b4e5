"""Settings that follow from the data."""

import numpy as np
import pytest

from regard import Interactions, SelfAttentionRecommender
from regard.cli import main
from regard.recipes import PRESETS, recipe


def data(n_users, length, n_items):
    rng = np.random.default_rng(0)
    return Interactions(np.repeat(np.arange(n_users), length), rng.integers(0, n_items, n_users * length))


def test_long_histories_are_read_further_than_short_ones():
    assert [recipe(data(20, 60, 100), preset)["max_len"] for preset in PRESETS] == [800, 200]
    assert [recipe(data(100, 6, 100), preset)["max_len"] for preset in PRESETS] == [50, 50]


def test_the_fewer_events_an_item_has_the_more_dropout():
    rates = [recipe(data(100, 10, n_items))["dropout"] for n_items in (5, 25, 60, 80, 500)]
    assert rates == [0.1, 0.2, 0.2, 0.5, 0.5]


def test_items_are_normalised_where_histories_are_short_and_items_not_rare():
    often, rare, long = data(100, 6, 25), data(100, 6, 60), data(20, 60, 25)
    assert [recipe(some)["normalize_items"] for some in (often, rare, long)] == [True, False, False]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pointer_is_there_where_a_tenth_of_the_events_are_returns_that_may_be_answers(preset):
    def at_a_tenth(n_users, n_returning):
        items = np.tile(np.arange(11), (n_users, 1))
        items[:n_returning, 10] = 0
        return Interactions(np.repeat(np.arange(n_users), 11), items.ravel())

    found = [recipe(at_a_tenth(20, n), preset, exclude_seen=False)["pointer"] for n in (0, 20, 19)]
    assert found == [False, True, False]
    assert not recipe(at_a_tenth(20, 20), preset)["pointer"]


def test_the_fast_preset_goes_through_long_histories_less_often():
    some = data(20, 60, 100)
    assert recipe(some, "fast")["epochs"] < recipe(some, "best")["epochs"]


def test_the_fast_preset_learns_faster_where_histories_are_long_and_items_had_often():
    often, rare, short = data(20, 60, 12), data(20, 60, 13), data(200, 6, 12)
    rates = [[recipe(some, preset)["learning_rate"] for some in (often, rare, short)] for preset in PRESETS]
    assert rates == [[0.002, 0.002, 0.002], [0.004, 0.002, 0.002]]


def test_much_data_and_long_histories_of_rare_items_get_a_wider_model_from_the_preset_best_alone():
    some = data(6_000, 30, 100), data(20, 60, 100), data(20, 60, 80), data(100, 6, 60)  # the last: short, of rare items
    widths = [[recipe(each, preset)["dim"] for each in some] for preset in PRESETS]
    assert widths == [[128, 256, 64, 64], [64, 64, 64, 64]]
    assert recipe(some[0])["dropout"] == 0.2 and recipe(some[0], "fast")["dropout"] == 0.1


def test_maps_of_attention_begin_as_the_identity_where_data_are_few():
    much, few = data(6_000, 30, 100), data(20, 60, 100)
    assert [recipe(some)["attention_init"] for some in (much, few)] == ["normal", "identity"]


def test_targets_are_smoothed_where_items_are_rare_and_not_of_length_1():
    often, rare, unit = data(20, 60, 10), data(20, 60, 20), data(100, 6, 25)
    assert [recipe(some)["label_smoothing"] for some in (often, rare, unit)] == [0.0, 0.1, 0.0]


def held(n_users, length, n_items):
    """The share of all events that are of a history's items, over all places, for users who walk up a ring of items."""
    events = (np.arange(n_users)[:, None] + np.arange(length)) % n_items
    share = np.bincount(events.ravel(), minlength=n_items) / events.size
    of_places = [share[np.unique(row[:place])].sum() for row in events for place in range(1, length)]
    return Interactions(np.repeat(np.arange(n_users), length), events.ravel()), np.mean(of_places)


@pytest.mark.parametrize("preset", PRESETS)
def test_seen_items_are_masked_where_histories_have_a_tenth_of_what_happens(preset):
    for n_items in (45, 49, 51, 55, 6):  # with 6 items everybody comes back to them
        some, share = held(n_items, 10, n_items)
        assert recipe(some, preset)["mask_seen"] == (share >= 0.1)
        assert not recipe(some, preset, exclude_seen=False)["mask_seen"]
    assert not recipe(held(55, 10, 55)[0], preset)["mask_seen"]
    assert recipe(held(45, 10, 45)[0], preset)["mask_seen"]


def test_half_a_million_events_widen_the_feed_forward_layer_with_the_rest():
    much = data(5_000, 100, 100)
    assert [recipe(much, preset)["ffn_dim"] for preset in PRESETS] == [512, 256]
    assert recipe(data(20, 60, 100))["ffn_dim"] is None


def test_with_few_users_batches_are_small_enough_for_3000_steps():
    for n_users, expected in ((30_000, 128), (5_000, 32), (1_000, 8), (50, 8)):
        found = recipe(data(n_users, 6, 100))
        assert found["batch_size"] == expected
        assert n_users * found["epochs"] / expected >= 3000 or expected == 8


def test_short_histories_of_many_users_get_fewer_epochs_but_ten():
    found = [recipe(data(n_users, 6, 100))["epochs"] for n_users in (30_000, 60_000, 200_000)]
    assert found == [30, 10_000 * 128 // 60_000, 10]


def test_weights_are_averaged_where_histories_are_short_or_users_few():
    short, few, long = data(5_000, 6, 100), data(20, 60, 100), data(5_000, 60, 100)
    averages = [recipe(some, preset)["weight_averaging"] for some in (short, few, long) for preset in PRESETS]
    assert averages == [True, False, True, False, False, False] and PRESETS == ("best", "fast")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_for_data_has_the_recipe_and_what_is_asked_for(preset):
    some = data(20, 60, 100)
    settings = SelfAttentionRecommender.for_data(some, preset, epochs=3, dim=8).get_params()
    assert settings == SelfAttentionRecommender(**recipe(some, preset) | {"epochs": 3, "dim": 8}).get_params()


def test_an_unknown_preset_is_an_error_that_lists_what_there_is():
    with pytest.raises(ValueError, match="preset: expected one of best, fast, got 'quick'"):
        recipe(data(5, 5, 5), "quick")


def test_flags_and_file_go_before_the_preset(tmp_path, capsys):
    events, config = tmp_path / "events.csv", tmp_path / "settings.toml"
    lines = [f"{user},{item}\n" for user in range(9) for item in range(user, user + 5)]
    events.write_text("user_id,item_id\n" + "".join(lines))
    config.write_text("dropout = 0.3\nepochs = 7\n")
    flags = ["--preset", "fast", "--config", str(config), "--epochs", "2", "--print-config"]
    assert main(["train", str(events), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"epochs = 2", "dropout = 0.3", "max_len = 50", "batch_size = 8"} <= set(lines)


def test_without_settings_the_command_takes_the_preset_best(tmp_path, capsys):
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user in range(9) for item in range(5)))
    printed = []
    for flags in ([], ["--preset", "best"], ["--preset", "fast"]):
        assert main(["train", str(events), "--print-config", *flags]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "max_len = 50\n" in printed[0] and "batch_size = 8\n" in printed[0]
    assert main(["train", "--print-config"]) == 0  # no data: the defaults of the constructor
    assert "max_len = 200\n" in capsys.readouterr().out
