"""The pages on fields of use: blocks run as they stand on real data, tables are those of the recorded runs."""

import os
import re
from pathlib import Path

import pytest

import fields

DOCS = Path(__file__).parent.parent / "docs"
DATA = Path(os.environ.get("REGARD_DATA") or Path(__file__).parents[2] / "shared" / "data")
PAGES = list(fields.FIELDS)


@pytest.fixture(params=PAGES)
def page(request):
    return request.param, (DOCS / f"{request.param}.md").read_text(encoding="utf-8")


def test_every_block_runs_on_a_part_of_the_data(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    name, text = page
    for data in fields.FIELDS[name]:
        if not (DATA / data).is_dir():
            pytest.skip(f"no {data} in REGARD_DATA")
    monkeypatch.setenv("REGARD_DATA", str(DATA))
    monkeypatch.chdir(tmp_path)
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) == text.count("```python") >= 2
    names: dict[str, object] = {}
    for block in blocks:  # line numbers of the page, for errors
        lines = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines + block.group(1), f"docs/{name}.md", "exec"), names)
    assert "on this test." in capsys.readouterr().out
    assert (tmp_path / f"{name}.png").is_file()


def test_tables_are_those_of_the_recorded_runs(page):
    name, text = page
    for row in (row for row in fields.read() if row["data"] in fields.FIELDS[name]):
        assert (row["split"], row["arguments"]) == tuple(fields.FIELDS[name][row["data"]])
        assert f"<!-- {row['data']} -->\n| model |" in text and row["verdict"] in text
    assert all(f"<!-- {data} -->\n" in text for data in fields.FIELDS[name])
    assert fields.fill(text, fields.read()) == text


def test_pictures_that_are_shown_exist(page):
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page[1], re.DOTALL):
        assert 1000 < (DOCS / picture).stat().st_size < 100_000


def test_commands_that_are_shown_exist(page):
    for command in re.findall(r"regard compare (.*?)[`\n]", page[1]):
        known = {"--features", "--out", "--plot", "--include-seen", "--models", "--split", "--at", "--validation-at"}
        assert {word for word in command.split() if word.startswith("--")} <= known
    for command in re.findall(r"python benchmarks/(\w+)\.py", page[1]):
        assert (DOCS.parent / "benchmarks" / f"{command}.py").is_file()
