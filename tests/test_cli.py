"""The command line, called as a function: what it prints, and what it says when something is wrong."""

import dataclasses
import gzip
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import regard
from regard.cli import compare, main
from regard.optim import Adam

TINY = ["--dim", "8", "--n-blocks", "1", "--max-len", "8", "--epochs", "3", "--batch-size", "16"]


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A file of users who walk up a ring of 12 items."""
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id"]
    for user in range(40):
        start = rng.integers(12)
        lines += [f"{user},{100 + (start + step) % 12}" for step in range(rng.integers(5, 9))]
    path = tmp_path_factory.mktemp("data") / "events.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def model(events, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model") / "m.safetensors")
    assert main(["train", events, "--out", path, *TINY]) == 0
    return path


def answer(capsys, *words):
    """Exit code 0, and the object that ``--json`` prints."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def complaint(capsys, *words):
    """Exit code 2, nothing on standard output, one line on standard error."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("regard") and "Traceback" not in err
    return err


# ---- demo -----------------------------------------------------------------------------------------------------------


def test_demo_puts_every_model_beside_the_best_possible(capsys):
    report = answer(capsys, "demo", "--users", "200", "--epochs", "1")
    results = {entry["model"]: entry for entry in report["results"]}
    assert set(results) == {"best-possible", "regard", "rules", "ease", "item-knn", "popularity"}
    for entry in results.values():
        assert 0 < entry["ndcg@10"] <= entry["hr@10"] <= results["best-possible"]["hr@10"] + 0.1
    assert len(report["examples"]) == 3 and len(report["examples"][0]["recommended"]) == 5


def test_demo_shows_titles(capsys):
    assert main(["demo", "--users", "150", "--epochs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "best-possible" in out and "regard says 1. " in out and err == ""


# ---- train ----------------------------------------------------------------------------------------------------------


def test_train_with_blend_saves_one_file_that_all_commands_take(events, tmp_path, capsys):
    path = str(tmp_path / "b.safetensors")
    summary = answer(capsys, "train", events, "--out", path, "--blend", *TINY)
    assert list(summary["blend"]) == ["SelfAttentionRecommender", "SequentialRules", "ItemKNN", "EASE"]
    assert sum(summary["blend"].values()) == pytest.approx(1)
    found = answer(capsys, "recommend", path, "--history", "101,102", "-k", "3")
    assert len(found["results"][0]["items"]) == 3
    report = answer(capsys, "evaluate", path, events, "--no-baselines")
    assert report["trained_on_this_split"] and report["results"][0]["ndcg@10"] > 0.5
    told = complaint(capsys, "explain", path, "--history", "101,102", "--item", "103")
    assert "explain: expected a model with attention, got a Blend" in told
    told = complaint(capsys, "evaluate", path, events, "--report", str(tmp_path / "r.html"))
    assert "--report: expected a model with a training to show, got a Blend" in told


def test_a_blend_without_a_split_learns_on_the_last_events(events, tmp_path, capsys):
    path = tmp_path / "b.safetensors"
    assert main(["train", events, "--out", str(path), "--blend", "--split", "none", *TINY]) == 0
    assert "blend    SelfAttentionRecommender " in capsys.readouterr().out
    assert len(regard.load(path).members_) == 4


def test_train_saves_a_model_that_can_be_loaded(model):
    assert regard.load(model).recommend([101, 102], k=3).items.shape == (1, 3)


def test_train_tells_what_it_did(events, tmp_path, capsys):
    report = answer(capsys, "train", events, "--out", str(tmp_path / "m"), *TINY)
    assert report["epochs"] == 3 and len(report["history"]) == 3 and not report["interrupted"]
    assert report["settings"]["dim"] == 8 and report["validation_ndcg@10"] > 0


def test_every_parameter_of_the_recommender_is_a_flag(capsys):
    assert answer(capsys, "train", "--print-config") == regard.SelfAttentionRecommender().get_params()
    flags = ["--learning-rate", "0.01", "--max-norm", "none", "--ffn-dim", "16", "--positions", "relative"]
    changed = answer(capsys, "train", "--print-config", *flags)
    expected = {"learning_rate": 0.01, "max_norm": None, "ffn_dim": 16, "positions": "relative"}
    assert changed == regard.SelfAttentionRecommender(**expected).get_params()


def test_a_settings_file_equals_the_flags_and_flags_go_first(tmp_path, capsys):
    path = tmp_path / "settings.toml"
    flags = ["--dim", "16", "--max-norm", "none", "--dropout", "0"]
    assert main(["train", "--print-config", *flags]) == 0
    path.write_text(capsys.readouterr().out)
    from_file = answer(capsys, "train", "--print-config", "--config", str(path))
    assert from_file == answer(capsys, "train", "--print-config", *flags)
    assert answer(capsys, "train", "--print-config", "--config", str(path), "--dim", "32")["dim"] == 32
    path.write_text("batch-size = 7\nlearning_rate = 1\n")
    assert answer(capsys, "train", "--print-config", "--config", str(path))["batch_size"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("drop_out = 0.1", "unknown setting 'drop_out'; did you mean dropout?"),
        ("dim = 'wide'", "dim: expected a whole number, got 'wide'"),
        ("dim = 1.5", "dim: expected a whole number, got 1.5"),
        ("dim = true", "dim: expected a whole number, got True"),
        ("dim", "not a TOML file"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path, capsys, content, message):
    path = tmp_path / "settings.toml"
    path.write_text(content)
    assert f"{path}: {message}" in complaint(capsys, "train", "--print-config", "--config", str(path))


def test_ctrl_c_keeps_the_best_so_far_and_still_saves(events, tmp_path, capsys, monkeypatch):
    step = Adam.step

    def interrupted(self, *arguments):
        if self.step_count == 7:  # 3 batches an epoch
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Adam, "step", interrupted)
    path = str(tmp_path / "m")
    report = answer(capsys, "train", events, "--out", path, *TINY, "--epochs", "50")
    assert report["interrupted"] and report["epochs"] == 2
    assert regard.load(path).recommend([101], k=1).items.shape == (1, 1)


def test_the_given_split_trains_and_evaluates_on_the_test_of_the_set(events, tmp_path, capsys, monkeypatch):
    starts = np.random.default_rng(0).integers(12, size=60)
    sessions = "".join(" ".join(str(1 + (start + step) % 12) for step in range(4)) + "\n" for start in starts)
    folder = tmp_path / "diginetica"
    folder.mkdir()
    (folder / "train_sessions.txt.gz").write_bytes(gzip.compress(sessions.encode()))
    (folder / "test.txt.gz").write_bytes(gzip.compress(b"1 2 3\t4\n7 8\t9\n"))
    card = dataclasses.replace(regard.datasets.card("diginetica"), n_users=60, n_items=12, n_events=240)
    monkeypatch.setitem(regard.datasets._CARDS, card.name, card)
    monkeypatch.setenv("REGARD_DATA", str(tmp_path))
    path = str(tmp_path / "m.safetensors")
    trained = answer(capsys, "train", "diginetica", "--split", "given", "--out", path, *TINY)
    assert trained["validation_ndcg@10"] is not None
    report = answer(capsys, "evaluate", path, "diginetica", "--split", "given", "--include-seen", "--no-baselines")
    assert report["n_users"] == 2 and report["trained_on_this_split"]
    for data in ("synthetic", events):
        assert (
            "DATA: " in (said := complaint(capsys, "train", data, "--split", "given", "--out", path)) or "name" in said
        )


def test_a_split_by_time_needs_times_and_a_moment(events, tmp_path, capsys):
    out = ["--out", str(tmp_path / "m")]
    assert "--split time needs --at" in complaint(capsys, "train", events, *out, "--split", "time")
    assert "needs every time" in complaint(capsys, "train", events, *out, "--split", "time", "--at", "2024-01-01")
    assert "belong to --split time" in complaint(capsys, "train", events, *out, "--at", "5")


def test_columns_name_a_file_without_header_or_rename(tmp_path, capsys):
    rows = [f"{user}{{0}}{user + i}{{0}}x{{0}}{i}" for user in range(9) for i in range(4)]
    bare, named = tmp_path / "bare.txt", tmp_path / "named.csv"
    bare.write_text("\n".join(rows).format("::") + "\n")
    named.write_text("\n".join(["who,what,why,timestamp", *rows]).format(",") + "\n")
    out = ["--out", str(tmp_path / "m"), *TINY]
    first = answer(capsys, "train", str(bare), *out, "--separator", "::", "--columns", "user_id,item_id,-,datetime")
    second = answer(capsys, "train", str(named), *out, "--columns", "user_id=who,item_id=what")
    assert first["fingerprint"] == second["fingerprint"]
    assert "--columns: expected" in complaint(capsys, "train", str(named), *out, "--columns", "user_id=,item_id=what")


# ---- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_compares_with_baselines(model, events, capsys):
    report = answer(capsys, "evaluate", model, events, "-k", "5", "10")
    assert [entry["model"] for entry in report["results"]] == ["regard", "rules", "ease", "item-knn", "popularity"]
    assert all(0 <= entry[name] <= 1 for entry in report["results"] for name in ("hr@5", "hr@10", "ndcg@10", "mrr"))
    assert report["n_users"] == 40 and report["trained_on_this_split"]
    low, high = report["interval"]["ndcg@10"]
    assert low <= report["results"][0]["ndcg@10"] <= high


def test_evaluate_says_when_the_model_may_have_seen_the_answers(events, tmp_path, capsys):
    path = str(tmp_path / "m")
    assert main(["train", events, "--out", path, "--split", "none", *TINY]) == 0
    assert not answer(capsys, "evaluate", path, events, "--no-baselines")["trained_on_this_split"]
    assert main(["evaluate", path, events, "--no-baselines"]) == 0
    assert "may have seen the answers" in capsys.readouterr().out


# ---- recommend, similar ---------------------------------------------------------------------------------------------


def test_training_for_answers_that_may_be_seen_items_points_to_those_that_come_back(tmp_path, capsys):
    path, out = tmp_path / "returns.csv", str(tmp_path / "m.safetensors")
    lines = [f"{user},{100 + user % 12 + step % 2}" for user in range(40) for step in range(8)]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    for flags, expected in (([], False), (["--include-seen"], True)):
        found = answer(capsys, "train", str(path), "--out", out, *TINY, *flags, "--blend")
        assert found["settings"]["pointer"] is expected
        # every held out item was seen: only where these are ranked can one be found
        assert (found["validation_ndcg@10"] > 0) is expected
    assert regard.load(out).members_[0].pointer
    binary = answer(capsys, "train", str(path), "--out", out, *TINY, "--include-seen", "--loss", "bce")
    assert not binary["settings"]["pointer"]  # which this loss would refuse


def test_a_blend_without_a_validation_part_is_refused_before_training(tmp_path, capsys):
    path, out = tmp_path / "timed.csv", tmp_path / "m.safetensors"
    lines = [f"{user},{100 + (user + step) % 12},{step}" for user in range(40) for step in range(8)]
    path.write_text("user_id,item_id,datetime\n" + "\n".join(lines) + "\n")
    words = ["train", str(path), "--out", str(out), *TINY, "--blend", "--split", "time", "--at", "6"]
    assert "--blend: expected a validation part" in complaint(capsys, *words)
    assert main([*words, "--validation-at", "5"]) == 0 and out.exists()


def test_a_picture_needs_a_name_that_says_its_kind_before_the_work(model, events, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    explained = ["explain", model, "--history", "101 102", "--item", "103", "--out"]
    for words in (["compare", events, "--plot"], explained, ["tune", events, "--out", str(tmp_path / "t"), "--plot"]):
        assert "expected a name that ends in one of .png" in complaint(capsys, *words, str(tmp_path / "picture"))
    assert "cannot write in the folder" in complaint(capsys, *explained, str(tmp_path / "no" / "a.png"))
    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert main([*explained, str(tmp_path / f"a.{kind}")]) == 0
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(begins)


def test_rules_are_tuned_for_the_answers_that_are_asked_for(tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "returns.csv", str(tmp_path / "m.safetensors")
    lines = [f"{user},{100 + user % 12 + step % 2}" for user in range(40) for step in range(8)]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    assert main(["train", str(path), "--out", out, *TINY, "--include-seen"]) == 0
    asked, fit_simple = {}, compare.fit_simple

    def fitted(name, split, **how):
        asked[name] = how
        return fit_simple(name, split, **how)

    monkeypatch.setattr(compare, "fit_simple", fitted)
    assert main(["evaluate", out, str(path), "--include-seen", "--tune"]) == 0
    assert asked["rules"] == {"tuned": True, "exclude_seen": False}


def test_recommend_equals_the_library(model, capsys):
    result = answer(capsys, "recommend", model, "--history", "101 102, 103", "-k", "4")["results"]
    assert len(result) == 1
    assert result[0]["items"] == regard.load(model).recommend([101, 102, 103], k=4).items[0].tolist()
    assert result[0]["flags"] == [] and result[0]["n_unknown"] == 0


def test_recommend_obeys_allow_and_deny(model, tmp_path, capsys):
    allowed = tmp_path / "ids.txt"
    allowed.write_text("101\n104\n105\n")
    words = ["recommend", model, "--history", "101", "--allow", f"@{allowed}", "--deny", "105"]
    result = answer(capsys, *words)["results"][0]
    assert result["items"] == [104] and result["flags"] == ["short"]
    assert set(answer(capsys, *words, "--include-seen")["results"][0]["items"]) == {101, 104}


def test_recommend_reads_histories_from_a_file_or_standard_input(model, tmp_path, capsys, monkeypatch):
    text = '[101, 102]\n\n{"history": [5, 103]}\n[]\n'
    path = tmp_path / "histories.jsonl"
    path.write_text(text)
    from_file = answer(capsys, "recommend", model, "--histories", str(path))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert answer(capsys, "recommend", model, "--histories", "-") == from_file
    assert [result["n_unknown"] for result in from_file["results"]] == [0, 1, 0]
    assert from_file["results"][2]["flags"] == ["popular"]
    assert main(["recommend", model, "--histories", str(path)]) == 0
    out = capsys.readouterr().out
    path.write_text("\n")
    assert answer(capsys, "recommend", model, "--histories", str(path)) == {"results": []}
    assert "history 3" in out and "the most popular ones" in out and "1 events with unknown items" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [("[101", "line 1: not JSON"), ('"101"', "line 1: expected a list"), ('["a"]', "histories")],
)
def test_a_wrong_line_of_histories_is_named(model, tmp_path, capsys, line, message):
    path = tmp_path / "histories.jsonl"
    path.write_text(line)
    assert message in complaint(capsys, "recommend", model, "--histories", str(path))


def test_similar_leaves_the_item_itself_out(model, capsys):
    items = answer(capsys, "similar", model, "101", "-k", "3")["results"][0]["items"]
    assert len(items) == 3 and 101 not in items
    assert "5 is not among the 12 items" in complaint(capsys, "similar", model, "5")


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_datasets_lists_every_card(capsys):
    listed = answer(capsys, "datasets")["datasets"]
    assert [card["name"] for card in listed] == regard.datasets.names()
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert all(f"{card['name']}: {card['title']}" in out for card in listed) and listed[0]["here"]


def test_datasets_says_which_sets_are_fetched(capsys, monkeypatch):
    fetched = "ml-100k: MovieLens 100K (fetched from https://files.grouplens.org/datasets/movielens/ml-100k.zip when"
    monkeypatch.delenv("REGARD_DATA", raising=False)
    assert main(["datasets"]) == 0 and fetched in (out := capsys.readouterr().out)
    assert "Yelp (2019) (files not found: set REGARD_DATA" in out and out.count("fetched from") == 3
    monkeypatch.setenv("REGARD_DATA", "/nowhere")
    assert main(["datasets"]) == 0 and "fetched from" not in capsys.readouterr().out


def test_a_named_data_set_without_its_folder_says_what_to_set(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REGARD_DATA", raising=False)
    assert "yelp: set the environment variable REGARD_DATA" in complaint(
        capsys, "train", "yelp", "--out", str(tmp_path / "m")
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.csv", "--out", "m"], "'nowhere.csv' is neither a file nor one of the data sets"),
        (["train", "synthetic"], "--out: expected a file"),
        (["train", "synthetic", "--out", "/nowhere/m"], "cannot write in the folder /nowhere"),
        (["train", "synthetic", "--out", "/"], "it is a folder"),
        (["train", "--out", "m"], "DATA: expected"),
        (["train", "synthetic", "--out", "m", "--dim", "wide"], "--dim: expected a whole number, got 'wide'"),
        (["recommend", "nowhere", "--history", "1"], "nowhere: no such file"),
        (["recommend", "nowhere"], "one of the arguments --history --histories is required"),
        (["evaluate", "nowhere", "synthetic"], "nowhere: no such file"),
        (["tran"], "invalid choice: 'tran'"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, words, message):
    assert message in complaint(capsys, *words)


def test_ids_of_another_type_are_told_in_one_line(model, capsys):
    message = "--history: expected whole numbers, as the item ids of this model are, got 'tea'"
    assert message in complaint(capsys, "recommend", model, "--history", "101 tea")


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("REGARD_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["recommend", "nowhere", "--history", "1"])


def test_bad_rows_are_a_note_not_a_failure(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{user},{i}\n" for user in range(5) for i in range(4)) + "7,\n")
    assert main(["train", str(path), "--out", str(tmp_path / "m"), *TINY]) == 0
    assert "regard: note: 20 of 21 rows used 1 left out, item_id is missing" in capsys.readouterr().err


def test_help_does_not_wait_for_numpy():
    code = "import sys; from regard.cli import main; code = main(['--help']); sys.exit(code or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "regard", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"regard {regard.__version__}"


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m regard datasets | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")
