"""Models side by side: the same test for all, a paired interval, a verdict; and the command that prints it."""

import json

import numpy as np
import pytest

import regard
from regard import plots
from regard.cli import main
from regard.comparison import MODELS, Comparison
from regard.metrics import Report, evaluate
from regard.ragged import Ragged
from regard.splits import Holdout, Split, leave_one_out

TINY = {"dim": 8, "n_blocks": 1, "max_len": 8, "epochs": 2}


@pytest.fixture(scope="module")
def data():
    """Users who walk up a ring of 12 items, whose colour is known."""
    rng = np.random.default_rng(0)
    rows = [(rng.integers(12) + np.arange(rng.integers(5, 9))) % 12 for _ in range(60)]
    user = np.repeat(np.arange(60), [len(row) for row in rows])
    features = regard.ItemFeatures(np.arange(12), categories={"colour": [i % 3 for i in range(12)]})
    return regard.Interactions(user, np.concatenate(rows)).with_features(features)


@pytest.fixture(scope="module")
def result(data):
    return regard.compare(leave_one_out(data), models=["regard", "rules", "popularity", "content"], **TINY)


@pytest.fixture
def events(data, tmp_path):
    path = tmp_path / "events.csv"
    rows = [f"{u},{i},{t}" for u, row in enumerate(data.sequences) for t, i in enumerate(data.item_ids[row].tolist())]
    path.write_text("\n".join(["user_id,item_id,time", *rows]) + "\n")
    return str(path)


def complaint(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].startswith("regard: error: ")
    return err


def report(values, fingerprint="a", exclude_seen=True):
    n = len(values)
    counts = {"n_users": n, "n_items": 9, "n_targets": n, "n_cold_targets": 0, "n_seen_targets": 0}
    values = {"ndcg@10": np.asarray(values, float), "hr@10": np.asarray(values, float)}
    return Report(values, {}, **counts, exclude_seen=exclude_seen, fingerprint=fingerprint)


def comparison(**values):
    reports = {name.replace("_", "-"): report(numbers) for name, numbers in values.items()}
    return Comparison(reports, {}, dict.fromkeys(reports, 1.0), dict.fromkeys(reports, 1.0), {})


# ---- the difference of two reports ----------------------------------------------------------------------------------


def test_the_interval_of_a_difference_is_paired():
    easy = np.random.default_rng(0).random(400)
    ahead, behind = report(easy + 0.01), report(easy)
    mean, low, high = ahead.difference(behind, "ndcg@10")
    assert mean == pytest.approx(0.01) and low == pytest.approx(0.01) and high == pytest.approx(0.01)
    wide = ahead.interval("ndcg@10")
    assert wide[1] - wide[0] > 0.03  # users differ far more than the models do
    noise = report(np.random.default_rng(1).random(400))
    _, low, high = ahead.difference(noise, "ndcg@10")
    assert low < high and ahead.difference(noise, "ndcg@10", level=0.5)[1] > low
    assert behind.difference(ahead, "ndcg@10")[0] == pytest.approx(-0.01)


@pytest.mark.parametrize("other", [report([0.5, 1], "b"), report([0.5, 1], exclude_seen=False)])
def test_reports_on_another_test_have_no_difference(other):
    with pytest.raises(ValueError, match="same holdout"):
        report([0.5, 1]).difference(other, "ndcg@10")


# ---- compare --------------------------------------------------------------------------------------------------------


def test_every_model_is_judged_by_the_same_test_as_evaluate(data, result):
    split = leave_one_out(data)
    assert list(result.reports) == ["popularity", "rules", "content", "regard"]  # the order of MODELS
    for name, one in result.reports.items():
        assert one.fingerprint == split.fingerprint
        assert one["ndcg@10"] == evaluate(result.models[name], split.test, k=10)["ndcg@10"]
        assert result.fit_seconds[name] >= 0 and result.milliseconds[name] > 0
    assert result.rows[0]["low"] <= result.rows[0]["ndcg@10"] <= result.rows[0]["high"]
    assert result.reports["rules"]["ndcg@10"] > result.reports["popularity"]["ndcg@10"]  # they walk in order


def test_the_same_seed_gives_the_same_numbers(data, result):
    again = regard.compare(leave_one_out(data), models="regard", **TINY)
    assert dict(again.reports["regard"]) == dict(result.reports["regard"])
    assert again.difference() is None and again.verdict.startswith("The best of these is regard")


def test_settings_are_chosen_without_the_test(data, result):
    split = leave_one_out(data)
    swapped = Split(split.train, split.validation, Holdout(*_turned(split.test)), "")
    other = regard.compare(swapped, models=["rules", "content"])
    for name in ("rules", "content"):
        assert other.models[name].get_params() == result.models[name].get_params()
    assert other.reports["rules"]["ndcg@10"] != result.reports["rules"]["ndcg@10"]


def _turned(test):
    turned = Ragged((test.targets.values + 5) % 12, test.targets.offsets)
    return test.item_ids, test.user_ids, test.histories, turned


def test_what_cannot_run_is_left_out_with_the_reason(data, monkeypatch):
    monkeypatch.setattr(
        regard.baselines.EASE.__init__, "__kwdefaults__", {"regularization": 1, "decay": 1, "max_items": 5}
    )
    found = regard.compare(leave_one_out(data.with_features(None)), models=["content", "ease", "popularity"])
    assert set(found.left_out) == {"ease", "content"} and list(found.reports) == ["popularity"]
    assert "max_items" in found.left_out["ease"] and "item features" in found.left_out["content"]
    assert "content is left out" in repr(found) and "left out |" in found.to_markdown()
    with pytest.raises(ValueError, match="item features"):
        regard.compare(leave_one_out(data.with_features(None)), models=["content"])


def test_repeats_win_where_people_come_back_and_seen_items_count():
    rng = np.random.default_rng(0)
    own = rng.permuted(np.tile(np.arange(40), (80, 1)), axis=1)[:, :2]  # two items each, again and again
    items = np.take_along_axis(own, rng.integers(0, 2, (80, 12)), axis=1)
    split = leave_one_out(regard.Interactions(np.repeat(np.arange(80), 12), items.ravel()))
    found = regard.compare(split, models=["popularity", "repeats"], exclude_seen=False)
    assert found.best_simple == "repeats" and found.reports["repeats"]["hr@10"] > 0.95
    assert "seen items ranked like others" in repr(found)
    with pytest.raises(ValueError, match="exclude_seen=False"):
        regard.compare(split, models=["repeats"])


def test_the_epoch_of_a_model_is_chosen_as_the_test_ranks():
    rng = np.random.default_rng(0)
    items = np.repeat(rng.integers(0, 20, (60, 1)), 6, axis=1)  # one and the same item again and again
    split = leave_one_out(regard.Interactions(np.repeat(np.arange(60), 6), items.ravel()))
    seen, unseen = (
        regard.SelfAttentionRecommender(**TINY).fit(split.train, validation=split.validation, exclude_seen=exclude)
        for exclude in (False, True)
    )
    assert seen.history_[-1]["metric"] > 0 == unseen.history_[-1]["metric"]


@pytest.mark.parametrize(
    ("models", "message"), [(["ruels"], "got 'ruels'"), ([], "got none"), (["rules", "svd"], "got 'svd'")]
)
def test_unknown_models_are_named(data, models, message):
    with pytest.raises(ValueError, match=message):
        regard.compare(leave_one_out(data), models=models)


def test_a_test_of_one_user_is_refused(data):
    with pytest.raises(ValueError, match="at least 2 users in the test to compare on, got 1"):
        regard.compare(leave_one_out(data.take([0])), models=["popularity"])


# ---- the verdict ----------------------------------------------------------------------------------------------------


def test_the_verdict_says_whether_attention_is_worth_it():
    users = np.random.default_rng(0).random(500)
    ahead = comparison(popularity=users * 0.2, rules=users, regard=users + 0.1)
    assert ahead.best_simple == "rules"
    assert ahead.verdict.startswith("regard wins by 0.1000 NDCG@10") and "is worth it" in ahead.verdict
    behind = comparison(item_knn=users + 0.1, regard=users)
    assert behind.verdict.startswith("item-knn wins by 0.1000 NDCG@10") and "is not worth it" in behind.verdict
    assert "leaves out 0" in ahead.verdict and "leaves out 0" in behind.verdict
    even = comparison(rules=users, regard=np.roll(users, 1))
    assert "includes 0" in even.verdict and "is not worth it" in even.verdict
    assert "worth" not in comparison(rules=users, popularity=users * 0.5).verdict


def test_the_table_reads_alike_as_text_markdown_and_plain_values(result):
    text, markdown, plain = repr(result), result.to_markdown(), result.to_dict()
    for row in result.rows:
        for shown in (text, markdown):
            assert f"{row['ndcg@10']:.4f}" in shown and result.verdict in shown
    assert [row["model"] for row in plain["results"]] == list(result.reports)
    assert json.loads(json.dumps(plain))["difference"]["mean"] == result.difference()[0]
    assert result._repr_html_().count("<tr>") == 1 + len(result.rows)


def test_the_plot_has_a_bar_for_each_model_that_ran(result):
    pytest.importorskip("matplotlib")
    ax = plots.comparison([*result.rows, {"model": "ease", "left_out": "too large"}])
    assert [text.get_text() for text in ax.get_yticklabels()] == sorted(
        result.reports, key=lambda name: result.reports[name]["ndcg@10"]
    )
    assert len(ax.patches) == 4


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_writes_and_draws(events, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    table, picture = tmp_path / "table.md", tmp_path / "p.png"
    words = [
        "compare",
        events,
        "--models",
        "rules,regard",
        "--epochs",
        "1",
        "--out",
        str(table),
        "--plot",
        str(picture),
    ]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["model"] for row in found["results"]] == ["rules", "regard"] and found["best_simple"] == "rules"
    assert "rules: fitting" in err and found["verdict"] in table.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    assert capsys.readouterr().out.rstrip().endswith(found["verdict"])


def test_the_command_splits_by_time(events, data, capsys):
    words = ["compare", events, "--models", "popularity,rules", "--split", "time", "--at", "5", "--validation-at", "4"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_users"] == (data.sequences.lengths > 5).sum() and found["results"][1]["hr@10"] > 0.9


def test_the_command_takes_the_test_that_a_set_of_sessions_brings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REGARD_DATA", str(tmp_path))
    assert "no file" in complaint(capsys, "compare", "diginetica", "--models", "popularity")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "rules,ruels"], "--models: expected some of popularity, repeats, "),
        (["--split", "none"], "leaves nothing to compare on"),
        (["--split", "time"], "needs --at"),
        (["--out", "/no/such/folder/t.md"], "cannot save"),
        (["--models", "repeats"], "exclude_seen=False"),
    ],
)
def test_the_command_says_what_is_wrong(events, words, message, capsys):
    assert message in complaint(capsys, "compare", events, *words)


def test_a_file_without_times_cannot_be_split_by_time(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u in range(4) for i in range(4)))
    assert "needs every time" in complaint(capsys, "compare", str(path), "--split", "time", "--at", "2020-01-01")


@pytest.mark.parametrize(
    ("n_users", "n_events", "message"), [(1, 5, "at least 2 users"), (5, 2, "a user with 3 events")]
)
def test_a_file_without_enough_users_is_refused(tmp_path, capsys, n_users, n_events, message):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u in range(n_users) for i in range(n_events)))
    assert message in complaint(capsys, "compare", str(path))


def test_a_missing_package_leaves_a_row_out(data, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "implicit", None)
    monkeypatch.setitem(__import__("sys").modules, "implicit.cpu.als", None)
    found = regard.compare(leave_one_out(data), models=["popularity", "mf"])
    assert "pip install 'regard[compare]'" in found.left_out["mf"]


def test_all_models_are_tried_by_default(data, monkeypatch):
    tried = []
    regard.compare(leave_one_out(data), progress=tried.append, **TINY)
    assert {line.partition(":")[0] for line in tried} == set(MODELS) - {"repeats"}
