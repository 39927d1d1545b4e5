"""The pages of docs run as they stand, block after block."""

import json
import re
from pathlib import Path

import pytest

import regard
import service
from contest import service_page
from contest.page import fill

DOCS = Path(__file__).parent.parent / "docs"


def run(page: str) -> dict[str, object]:
    """Runs the Python blocks of a page; gives the names that they leave."""
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        lines = text[: block.start(1)].count("\n")  # line numbers of the page, for errors
        exec(compile("\n" * lines + block.group(1), f"docs/{page}", "exec"), names)
    return names


def test_the_page_on_features_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("features.md")
    found = names["found"]
    assert isinstance(found, dict)
    assert found["with features"] > 1.2 * found["ids alone"]
    assert "ItemFeatures(300 items, categories: kind)" in capsys.readouterr().out


def test_the_page_on_target_attention_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("target_attention.md")
    reached = names["reached"]
    assert isinstance(reached, dict)
    assert reached["attention"] > reached["mean of the history"] + 0.1
    assert reached["candidates known by their features"] > reached["unknown candidates"] + 0.1


def test_the_page_on_accuracy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("accuracy.md")
    blend, split = names["blend"], names["split"]
    assert isinstance(blend, regard.Blend) and isinstance(split, regard.splits.Split)
    alone = [regard.evaluate(member, split.test)["ndcg@10"] for member in blend.members_]
    assert regard.evaluate(regard.load(tmp_path / "blend.safetensors"), split.test)["ndcg@10"] > 0.98 * max(alone)


def test_the_table_on_target_attention_is_what_was_measured() -> None:
    page = (DOCS / "target_attention.md").read_text(encoding="utf-8")
    rows = json.loads((DOCS.parent / "benchmarks" / "results" / "target_attention.json").read_text())
    for data in ("ml-1m", "mind-5k"):
        measured = [row for row in rows if row["data"] == data and not row["times"] and "torch" not in row]
        assert measured
        for name in ("popularity", "mean", "attention"):
            for metric in ("auc", "user_auc", "log_loss"):
                mean = sum(row[name][metric] for row in measured) / len(measured)
                assert f"{mean:.4f}" in page, (data, name, metric)


def test_the_page_on_serving_runs_and_shows_what_was_measured() -> None:
    names = run("serving.md")
    assert type(names["service"]).__name__ == "Service"
    results = json.loads(service.RESULTS.read_text())
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    assert page == fill(page, results, service_page.PARTS, "service.py")
