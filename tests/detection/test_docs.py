"""The program in docs/detection.md runs as it stands."""

from __future__ import annotations

import re
import runpy

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "detection.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_finds_boxes(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path("example.py")
    assert made["found"].test.ap50 > 0
    assert "map50" in capsys.readouterr().out
    assert (tmp_path / "scenes.keras").exists()
