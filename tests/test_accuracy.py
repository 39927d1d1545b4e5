"""The benchmark of accuracy: it runs once, goes on where it was, and its page shows what it recorded."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import chains

import accuracy
import accuracy_page
import regard

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "results" / "accuracy.json")
    monkeypatch.setattr(accuracy, "MODELS", tmp_path / "models")
    monkeypatch.setattr(accuracy, "split_of", lambda name, how: regard.splits.leave_one_out(chains()))
    monkeypatch.setattr(regard.recipes, "recipe", None)
    quick = {"dim": 8, "n_blocks": 1, "max_len": 8, "epochs": 2, "batch_size": 16}
    monkeypatch.setattr(
        regard.SelfAttentionRecommender,
        "for_data",
        classmethod(lambda cls, data, preset="best", *, exclude_seen, **changes: cls(**quick | changes)),
    )

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
        accuracy.main()
        return json.loads(accuracy.RESULTS.read_text())

    return run


def test_a_run_has_every_seed_the_baselines_and_the_blends(results):
    rows = results("ml-1m", "--seeds", "0", "1")
    names = [row["model"] for row in rows]
    assert names == [
        "regard", "regard", "popularity", "rules", "item-knn", "ease", "rules and ease",
        "blend of seed 0", "blend of seed 1", "blend of 2 seeds",
    ]  # fmt: skip
    assert [len(row["weights"]) for row in rows[6:]] == [2, 4, 4, 4]
    assert len({row["fingerprint"] for row in rows}) == 1
    assert all(0 < row["ndcg@10"] <= row["hr@10"] <= row["hr@10 of 100"] <= 1 for row in rows)
    assert all(sum(row["weights"]) == pytest.approx(1, abs=0.01) for row in rows[6:])
    table = accuracy_page.main_table(rows)
    means = [np.mean([row[metric] for row in rows[:2]]) for metric in ("hr@10", "ndcg@10")]
    assert f"| {means[0]:.4f} / {means[1]:.4f} ± " in table and "(2 seeds)" in table
    ax = accuracy_page.picture(rows).axes[0]
    drawn = {line.get_label(): line.get_xdata()[0] for line in ax.lines if line.get_ydata()[0] == 1}
    assert len(ax.get_yticks()) == 2 and drawn["regard, preset best"] == pytest.approx(means[1] / 0.1858)


def test_a_second_run_trains_and_measures_nothing(results, monkeypatch):
    first = results("ml-1m", "--seeds", "0")
    monkeypatch.setattr(regard.SelfAttentionRecommender, "fit", None)
    monkeypatch.setattr(regard, "evaluate", None)
    monkeypatch.setattr(accuracy, "fit_simple", None)
    assert results("ml-1m", "--seeds", "0") == first


def test_another_seed_and_other_settings_are_added_and_do_not_count_as_the_preset(results):
    results("ml-100k", "--seeds", "0", "--alone")
    rows = results("ml-100k", "--seeds", "0", "--alone", "--settings", '{"dropout": 0.4}')
    assert [row.get("row") for row in rows] == ["preset", None]
    assert len(accuracy_page.preset(rows, "ml-100k", "leave-one-out")) == 1
    assert len(results("ml-100k", "--seeds", "1", "--alone")) == 3


def test_the_page_shows_what_is_recorded():
    text = PAGE.read_text(encoding="utf-8")
    assert accuracy_page.fill(text, accuracy.read()) == text


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match=r"docs/accuracy.md: expected .* once each"):
        accuracy_page.fill("nothing", [])


def test_commands_that_the_page_shows_exist():
    text = PAGE.read_text(encoding="utf-8")
    for command in re.findall(r"python benchmarks/accuracy\.py ([\w-]+)", text):
        assert command in accuracy.DATA or command == "--docs"


@pytest.mark.parametrize(
    ("values", "words"),
    [((0.34, 0.2), "goal"), ((0.322, 0.187), "required"), ((0.5, 0.3), "stretch"), ((0.31, 0.17), "below, -8.6%")],
)
def test_marks_are_told_by_both_metrics(values, words):
    row = {"model": "regard", "hr@10": values[0], "ndcg@10": values[1]}
    assert accuracy_page.reached([row], accuracy_page.PUBLISHED[0]) == f"alone: {words}"
