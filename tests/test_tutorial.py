"""The blocks of docs/tutorial.md run as they stand, one after another."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_every_block_of_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    blocks = list(re.finditer(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert len(blocks) == PAGE.count("```python") >= 8
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:  # line numbers of the page, for errors
        lines = PAGE[: block.start(1)].count("\n")
        exec(compile("\n" * lines + block.group(1), "docs/tutorial.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "got 3" in printed and "ndcg@10" in printed
    assert {"tutorial-attention.png", "attention.safetensors", "movielens-attention.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_every_picture_that_is_shown_exists():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE, re.DOTALL)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).parent.parent / "docs" / picture).stat().st_size < 100_000
