"""The README's lines run as they stand (with one epoch, to be quick)."""

import re
from pathlib import Path

import regard

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_of_python_run(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) <= 11
    quick = re.sub(r"epochs=\d+", "epochs=1", code)
    assert quick != code
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    assert "ndcg" in capsys.readouterr().out
    assert regard.load(tmp_path / "m.safetensors", verify=True).epochs == 1


def test_every_command_that_is_shown_exists():
    from regard.cli import COMMANDS  # noqa: PLC0415

    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    shown = set(re.findall(r"^(?:.*&& )?regard (\w+)", blocks, re.MULTILINE))
    assert {"demo", "train", "evaluate", "recommend", "similar", "doctor"} <= shown <= COMMANDS.keys()
