"""The benchmark of latency: its answers are checked, its figures are those of the page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import latency
import regard
from contest import latency_page, latency_peers
from contest.page import DOCS, fill

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(regard.__file__).parents[1])}
PROGRAM = Path(latency.__file__)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of a quick run: tiny sizes, one round."""
    path = tmp_path_factory.mktemp("latency") / "results.json"
    command = [sys.executable, str(PROGRAM), "--quick", "--results", str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_a_quick_run_answers_every_request_and_states_where_and_when(results):
    names = [row.name for row in latency.requests() if row.kind == "recommend" or latency.shutil.which("cc")]
    assert list(results["requests"]) == names
    assert results["machine"] and results["date"] and results["versions"]["numpy"] == np.__version__
    for row in results["requests"].values():
        for figures in row["contenders"].values():
            assert 0 < figures["p50_us"] <= figures["p99_us"] and figures["error"] <= latency.TOLERANCE
    assert results["workers"]["regard"]["open_ms"] > 0


def test_a_wrong_answer_ends_the_run(tmp_path, monkeypatch):
    row = latency.quick(latency.requests()[4])
    model = latency.untrained(row.n_items, row.ffn_dim)
    model.save(tmp_path / "m")
    assert latency.from_python(row, model, tmp_path / "m", 1, 1)["regard"]["error"] <= latency.TOLERANCE
    model.params_ = model.params_ | {"items.weight": model.params_["items.weight"][::-1].copy()}
    with pytest.raises(AssertionError, match="regard: off by"):
        latency.from_python(row, model, tmp_path / "m", 1, 1)


def test_an_answer_with_a_repeat_or_a_seen_item_is_wrong():
    row = latency.quick(latency.requests()[4])
    model, history = latency.untrained(row.n_items, row.ffn_dim), latency.history_of(row)
    right = model.recommend(history.tolist(), k=10).items[0]
    assert latency.error(right, model, history, True) <= latency.TOLERANCE
    for wrong in (np.append(right[:9], right[0]), np.append(right[:9], history[0])):
        assert not latency.error(wrong, model, history, True) <= latency.TOLERANCE


@pytest.mark.parametrize("newest", [False, True])
def test_the_model_in_torch_finds_what_regard_finds(newest):
    torch = pytest.importorskip("torch")
    model, history = latency.untrained(60, 32), np.array([3, 1, 4, 1, 5], np.int32)
    found = latency_peers.module_of(model, 10, newest)(torch.from_numpy(history.astype(np.int64))).numpy()
    assert found.tolist() == model.recommend(history.tolist(), k=10, exclude_seen=False).items[0].tolist()


def test_percentiles_are_of_the_round_with_the_lowest_99th():
    quiet, busy = np.full(100, 5.0), np.append(np.full(98, 4.0), [90.0, 90.0])
    assert latency.percentiles([busy, quiet, busy]) == {"p50_us": 5.0, "p99_us": 5.0, "calls": 100}


def test_a_quick_run_never_overwrites_the_published_results():
    command = [sys.executable, str(PROGRAM), "--quick"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--results" in done.stderr


def test_the_page_holds_the_published_results():
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    published = json.loads(latency.RESULTS.read_text())
    assert not published["quick"]
    assert fill(text, published, latency_page.PARTS, "latency.py") == text


def test_the_picture_of_the_page_is_drawn(results, tmp_path):
    pytest.importorskip("matplotlib")
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "performance.md").write_text(text, encoding="utf-8")
        latency_page.write(results, tmp_path / name)
    pictures = [(tmp_path / name / "images" / "latency.svg").read_bytes() for name in ("a", "b")]
    assert pictures[0] == pictures[1] and "(images/latency.svg)" in text
