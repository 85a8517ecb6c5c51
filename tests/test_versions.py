"""docs/versions.md names the versions that constraints.txt pins."""

from __future__ import annotations

import re

from conftest import REPOSITORY

PIN = re.compile(r"^(\S+?)==(\S+?)(?: ; python_version (<|>=) '3\.11')?$", re.MULTILINE)


def pinned(side):
    """Versions by name, of Pythons before 3.11 ("<") or from it on (">=")."""
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = [PIN.fullmatch(line).groups() for line in lines]
    return {name.lower(): version for name, version, of in pins if of in (None, side)}


def test_the_page_names_what_is_pinned():
    page = (REPOSITORY / "docs" / "versions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w -]+) \| (\d[\w.]*) \| (\d[\w.]*) \|$", page, re.MULTILINE)
    names = {
        "LiteRT": "ai-edge-litert",
        "ONNX Runtime": "onnxruntime",
        "Dask distributed": "distributed",
    }
    assert len(rows) >= 16
    for name, before, since in rows:
        package = names.get(name, name.lower())
        assert (pinned("<")[package], pinned(">=")[package]) == (before, since), name
