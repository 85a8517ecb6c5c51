"""The changes that docs/architecture.md shows are whole: they are applied to a copy and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, make_photos

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
DIFFS = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)


def files_of(diff):
    """The changed files of a diff, with their hunks."""
    parts = re.split(r"^--- (\S+)\n", diff, flags=re.MULTILINE)[1:]
    return [
        (path, hunks.removeprefix("@@\n").split("@@\n"))
        for path, hunks in zip(parts[::2], parts[1::2], strict=True)
    ]


def apply(diff, root):
    for path, hunks in files_of(diff):
        file = root / path
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] or "\n" for line in lines if line[0] in " -")
            after = "".join(line[1:] or "\n" for line in lines if line[0] in " +")
            assert text.count(before) == 1 if before else not text, f"{path}: {before}"
            text = text.replace(before, after) if before else after
        file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the package with all of the changes."""
    root = tmp_path_factory.mktemp("changed")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src", root / "src", ignore=ignored)
    for diff in DIFFS:
        apply(diff, root)
    return root


def test_each_change_is_in_two_files_at_most():
    assert len(DIFFS) == 4
    assert all(1 <= len(files_of(diff)) <= 2 for diff in DIFFS)


USE = """
import sys
from pathlib import Path
import featcache as fc
from featcache.cli import main
from featcache.extraction import run

assert "/changed" in fc.__file__, fc.__file__
photos, cache = Path(sys.argv[1]), Path(sys.argv[2])
quiet = {"cache_dir": cache, "show_progress": False}
tiny = {"backbone": "tiny-net", "weights": "random", **quiet}

plain, grey = run(photos, **tiny).features, run(photos, grey=True, **tiny).features
assert plain.fingerprint != grey.fingerprint and "grey" not in plain.spec.to_dict()
assert abs(plain.X - grey.X).max() > 1e-3 and run(photos, grey=True, **tiny).hit
assert "grey" in fc.Embedder().get_params() and plain.shape[1] == 8

names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
(photos / "some.lst").write_text("\\n".join(names[:5]), encoding="utf-8")
assert len(fc.extract(photos / "some.lst", **tiny)) == 5

lines = [f"{name},{number % 4}" for number, name in enumerate(names)]
(photos / "grades.csv").write_text("\\n".join(["path,grade", *lines]), encoding="utf-8")
grades = fc.extract(photos / "grades.csv", **tiny)
assert grades.task == "ordinal"
board = fc.fit_heads(grades, ["ridge", "dummy"], cv=3, jobs=1, report=False, show_progress=False)
assert board.metric == "mae" and "exact" in board.best.result.test
out = cache / "grades.keras"
fc.stitch(board.best, out, show_progress=False)
said = fc.load(out, cache_dir=None).predict(photos / "some.lst", show_progress=False)
assert len(said) == 5 and all(-1 < one.outputs["grade"] < 4 and not one.error for one in said)

sys.argv = ["featcache", "extract", "--help"]
main()
"""


def test_the_changes_do_what_the_page_says(changed, tmp_path):
    photos = make_photos(tmp_path / "photos")
    shown = subprocess.run(
        [sys.executable, "-c", USE, str(photos), str(tmp_path / "cache")],
        check=True,
        env=os.environ | {"PYTHONPATH": str(changed / "src"), "COLUMNS": "120"},
        cwd=changed,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "--grey" in shown.stdout
