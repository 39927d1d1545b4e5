"""The contests of `benchmarks/performance.py`: what they accept, how a ratio is read off, the page that shows it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import performance
import regard
from contest import limits, page
from contest.cases import Row, relative_error

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of a quick run: tiny sizes, one round."""
    path = tmp_path_factory.mktemp("performance") / "results.json"
    environment = os.environ | {"PYTHONPATH": str(Path(regard.__file__).parents[1])}
    command = [sys.executable, str(BENCHMARKS / "performance.py"), "--quick", "--results", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_a_quick_run_measures_every_subject_and_states_where_and_when(results):
    assert {case["subject"] for case in results["cases"].values()} == set(performance.SUBJECTS)
    assert results["machine"] and results["date"] and results["versions"]["numpy"] == np.__version__
    for case in results["cases"].values():
        assert case["contenders"]
        for entry in case["contenders"].values():
            assert entry["ms"] > 0 and entry["error"] < 0.1 and len(entry["rounds"]) == 1


def test_a_quick_run_has_ratios_floors_curves_and_memory(results):
    works = {row["work"] for row in results["ratios"]}
    assert any("top 10" in work for work in works)  # beside NumPy, which is always there
    assert any("training step" in work for work in works)  # two threads against one
    assert all(row["ratio"] > 0 and row["goal"] > row["required"] for row in results["ratios"])
    assert all(case["floor_ms"] > 0 for case in results["cases"].values() if case["flops"])
    assert all(len(curve["points"]) > 1 for curve in results["curves"])
    assert len(results["memory"]) == 3


def test_a_wrong_answer_ends_the_run():
    case = limits.subject(quick=True).cases[0]
    wrong = dataclasses.replace(case, reference=lambda sizes: [case.reference(sizes)[0] + 1])
    contest = performance.Contest(quick=True)
    try:
        assert contest.measure("limits", case) is not None
        with pytest.raises(AssertionError, match="numpy is off by"):
            contest.measure("limits", wrong)
    finally:
        contest.close()


def test_an_answer_with_nan_or_another_number_of_arrays_is_wrong():
    right = [np.ones(3)]
    assert relative_error([np.ones(3, np.float32)], right) == 0
    assert not relative_error([np.array([1, np.nan, 1], np.float32)], right) <= 1
    assert not relative_error([np.ones(3), np.ones(3)], right) <= 1


def test_a_ratio_is_the_median_over_rounds_against_the_fastest_peer_that_is_there():
    contenders = {
        "regard": {"ms": 2.0, "rounds": [1.0, 2.0, 4.0]},
        "slow": {"ms": 50.0, "rounds": [50.0] * 3},
        "fast": {"ms": 6.0, "rounds": [6.0, 6.0, 8.0]},
    }
    row = Row("work", "peers", "case", "regard", ("slow", "fast", "absent"), 1.0, 2.0)
    found = performance.ratio(row, {"case": {"contenders": contenders}})
    assert found["peer"] == "fast"
    assert found["ratio"] == 3.0  # of 6, 3 and 2
    assert performance.ratio(row, {}) is None
    assert performance.ratio(row, {"case": {"contenders": {"regard": contenders["regard"]}}}) is None


def test_a_quick_run_never_overwrites_the_published_results():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "performance.py"), "--quick"],
        env=os.environ | {"PYTHONPATH": str(Path(regard.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--results" in done.stderr


def test_the_page_holds_the_published_results():
    text = (page.DOCS / "performance.md").read_text(encoding="utf-8")
    assert page.fill(text, json.loads(performance.RESULTS.read_text())) == text


def test_the_page_is_refused_without_its_markers(results):
    with pytest.raises(ValueError, match="expected '<!-- machine"):
        page.fill("# Performance\n", results)


def test_every_picture_of_the_page_is_drawn(results, tmp_path):
    pytest.importorskip("matplotlib")
    text = (page.DOCS / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "performance.md").write_text(text, encoding="utf-8")
    page.write(results, tmp_path)
    drawn = {f"images/{path.name}" for path in (tmp_path / "images").iterdir()}
    assert drawn == {part.split(")")[0] for part in text.split("](")[1:] if part.startswith("images/performance-")}
    page.draw(results, tmp_path / "again")
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
