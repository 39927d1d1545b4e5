"""The doctor tells what is built, available and in use, and what is wrong."""

import json
import os
import platform
import subprocess
import sys

import numpy as np

import regard
from regard import doctor
from regard.cli import main


def test_the_instruction_set_in_use_is_available_and_built():
    sets = doctor.report()["instruction_sets"]
    assert sets["in_use"] == regard.isa()
    assert sets["in_use"] in sets["available"] and set(sets["available"]) <= set(sets["built"])


def test_versions_are_those_that_run():
    report = doctor.report()
    assert report["regard"] == regard.__version__ and report["numpy"] == np.__version__
    assert report["python"] == platform.python_version() and report["compiler"]
    assert "polars" in report["extras"]


def test_variables_and_data_sets_are_found(tmp_path, monkeypatch):
    (tmp_path / "yelp").mkdir()
    for name in ("Yelp.txt.gz", "Yelp_item2attributes.json.gz"):
        (tmp_path / "yelp" / name).touch()
    monkeypatch.setenv("REGARD_DATA", str(tmp_path))
    report = doctor.report()
    assert report["environment"]["REGARD_DATA"] == report["data"]["folder"] == str(tmp_path)
    assert report["data"]["found"] == ["synthetic", "yelp"] and "ml-1m" in report["data"]["missing"]


def test_a_folder_that_is_not_there_is_a_problem(monkeypatch, capsys):
    monkeypatch.setenv("REGARD_DATA", "/nowhere")
    assert main(["doctor"]) == 1
    assert "REGARD_DATA: no folder /nowhere" in capsys.readouterr().out


def test_the_command_prints_the_report(capsys):
    assert main(["doctor", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out) == doctor.report()
    main(["doctor"])
    out = capsys.readouterr().out
    assert f"in use {regard.isa()}" in out and doctor.report()["threads"]["why"] in out


def test_it_says_which_limit_made_the_number_of_threads():
    free, limited = (json.loads(run(**limit).stdout)["threads"] for limit in ({}, {"REGARD_NUM_THREADS": "1"}))
    assert free["why"] in ("CPU affinity", "cgroup quota") and limited["count"] == 1
    assert limited["why"] == ("REGARD_NUM_THREADS" if free["count"] > 1 else free["why"])


def test_an_instruction_set_that_cannot_be_used_is_named_beside_those_that_can():
    done = run(REGARD_ISA="quantum")
    assert done.returncode != 0
    assert "'quantum' cannot be used: this build has" in done.stderr.splitlines()[-1]


def run(**environment):
    """The command in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGARD_", "OMP_"))}
    words = [sys.executable, "-m", "regard", "doctor", "--json"]
    return subprocess.run(words, env=kept | environment, capture_output=True, text=True, check=False)
