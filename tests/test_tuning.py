"""The search for settings, with budgets of seconds."""

import json

import numpy as np
import pytest
from small_models import chains
from test_no_leak import with_other_tests

import regard
from regard.cli import main
from regard.tuning import SPACE, tune

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'regard[tune]'")

FAST = {"epochs": 2, "max_len": 8, "dim": 16, "n_blocks": 1, "ffn_dim": None}
SEARCHED = [name for name in SPACE if name not in FAST]


@pytest.fixture(scope="module")
def data():
    return chains(n_users=30)


@pytest.fixture(scope="module")
def found(data):
    return tune(data, n_trials=4, **FAST)


def comparable(tuning):
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in tuning.trials]


def test_the_defaults_are_tried_first_and_the_best_is_not_worse(data, found):
    train, _ = regard.splits.leave_last_out(data)
    defaults = regard.SelfAttentionRecommender.for_data(train, **FAST).get_params()
    assert found.trials[0]["settings"] == {name: defaults[name] for name in SEARCHED}
    metrics = [trial["metric"] for trial in found.trials if not trial["pruned"]]
    assert max(metrics) >= found.trials[0]["metric"]
    winner = next(trial for trial in found.trials if trial["metric"] == max(metrics))
    assert {name: found.best[name] for name in SEARCHED} == winner["settings"]
    assert {name: found.best[name] for name in FAST} == FAST


def test_the_best_settings_train_to_the_metric_that_was_told(data, found):
    train, holdout = regard.splits.leave_last_out(data)
    model = regard.SelfAttentionRecommender(**found.best).fit(train, validation=holdout)
    assert max(entry["metric"] for entry in model.history_) == max(trial["metric"] for trial in found.trials)


@pytest.mark.parametrize("loss", ["sampled_softmax", "bce"])
def test_what_the_loss_would_refuse_is_not_searched(loss, data):
    tuning = tune(data, n_trials=6, loss=loss, n_negatives=6, **FAST)
    without = {"label_smoothing", "mask_seen"}
    assert [set(trial["settings"]) for trial in tuning.trials] == [set(SEARCHED) - without] * 6
    assert not any(tuning.best[name] for name in without)


@pytest.mark.parametrize("how", [{"pointer": True}, {"exclude_seen": False}], ids=str)
def test_where_seen_items_may_be_the_answer_they_stay_in_the_softmax(how, data):
    tuning = tune(data, n_trials=2, **how, **FAST)
    assert [set(trial["settings"]) for trial in tuning.trials] == [set(SEARCHED) - {"mask_seen"}] * 2


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(data, found):
    assert comparable(tune(data, n_trials=4, **FAST)) == comparable(found)
    assert comparable(tune(data, n_trials=4, seed=1, **FAST)) != comparable(found)


def test_a_search_in_two_parts_is_the_search_in_one(data, found, tmp_path):
    first = tune(data, n_trials=2, storage=tmp_path / "s.db", **FAST)
    assert len(first.trials) == 2
    assert comparable(tune(data, n_trials=4, storage=tmp_path / "s.db", **FAST)) == comparable(found)
    assert len(tune(data, n_trials=3, storage=tmp_path / "s.db", **FAST).trials) == 4  # nothing left to do


def test_a_storage_of_other_data_or_settings_is_refused(data, tmp_path):
    tune(data, n_trials=1, storage=tmp_path / "s.db", **FAST)
    for other, how in (
        (chains(n_users=31), {}),
        (data, {"seed": 1}),
        (data, {"max_norm": 1.0}),
        (data, {"exclude_seen": False}),
    ):
        with pytest.raises(ValueError, match=r"s\.db is of a search with other data or settings"):
            tune(other, n_trials=2, storage=tmp_path / "s.db", **FAST, **how)


def test_a_time_budget_ends_the_trial_under_way_with_its_epoch(data):
    found = tune(data, seconds=1e-6, **FAST | {"epochs": 50})
    assert len(found.trials) == 1 and found.trials[0]["metric"] > 0


def test_trials_below_the_median_are_given_up_and_are_never_the_best(data):
    found = tune(data, n_trials=9, **FAST | {"epochs": 8, "batch_size": 16, "patience": 8})
    pruned = [trial for trial in found.trials if trial["pruned"]]
    assert pruned and not any(trial["pruned"] for trial in found.trials[:4])
    best = max(t["metric"] for t in found.trials if not t["pruned"])
    assert max(t["metric"] for t in pruned) < best
    winner = next(trial for trial in found.trials if trial["metric"] == best)
    assert found.best["learning_rate"] == winner["settings"]["learning_rate"]


def test_other_test_items_change_nothing_of_the_search(data):
    runs = []
    for some in (data, with_other_tests(data)):
        split = regard.splits.leave_one_out(some)
        runs.append(comparable(tune(split.train, validation=split.validation, n_trials=3, **FAST)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_trials": 0}, "n_trials: expected at least 1, got 0"),
        ({name: 1 for name in SPACE}, "expected one of dim, .* to be left to search"),
        ({"preset": "quick"}, "preset: expected one of best, fast"),
    ],
)
def test_what_cannot_be_searched_is_refused(how, message, data):
    with pytest.raises(ValueError, match=message):
        tune(data, **how)


def test_without_users_to_judge_by_there_is_no_search():
    data = regard.Interactions(np.arange(5), np.arange(5))
    with pytest.raises(ValueError, match="validation: expected at least one user to judge settings by"):
        tune(data)


def test_ctrl_c_ends_the_search_with_what_was_found(data, found, tmp_path, monkeypatch):
    fit, fits = regard.SelfAttentionRecommender.fit, []

    def interrupted(model, *arguments, **options):
        fits.append(model)
        if len(fits) != 3:
            return fit(model, *arguments, **options)
        after = options.pop("callbacks")

        def stop(entry):
            raise KeyboardInterrupt

        return fit(model, *arguments, callbacks=[*after, stop], **options)

    monkeypatch.setattr(regard.SelfAttentionRecommender, "fit", interrupted)
    stopped = tune(data, n_trials=4, storage=tmp_path / "s.db", **FAST)
    assert stopped.interrupted and len(fits) == 3
    assert comparable(stopped) == comparable(found)[:2]
    monkeypatch.setattr(regard.SelfAttentionRecommender, "fit", fit)
    whole = tune(data, n_trials=4, storage=tmp_path / "s.db", **FAST)
    assert not whole.interrupted and comparable(whole) == comparable(found)
    fits[:] = [None, None]
    monkeypatch.setattr(regard.SelfAttentionRecommender, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(data, n_trials=4, **FAST)


def test_the_command_writes_settings_that_train_takes(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    events, out, plot = tmp_path / "events.csv", tmp_path / "best.toml", tmp_path / "tune.png"
    lines = [f"{user},{(user + step) % 9}\n" for user in range(20) for step in range(5)]
    events.write_text("user_id,item_id\n" + "".join(lines))
    flags = ["--dim", "8", "--n-blocks", "1", "--epochs", "1", "--trials", "2", "--storage", str(tmp_path / "s.db")]
    assert main(["tune", str(events), "--out", str(out), "--plot", str(plot), *flags]) == 0
    told = capsys.readouterr()
    assert "trial 2 of 2 " in told.err and "first trial, the defaults: " in told.out
    assert plot.stat().st_size > 1000
    assert main(["tune", str(events), "--out", str(out), *flags, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["trials"]) == 2 and answer["best"]["dim"] == 8
    assert main(["train", str(events), "--config", str(out), "--out", str(tmp_path / "m")]) == 0
    assert regard.load(tmp_path / "m").get_params() == answer["best"]
