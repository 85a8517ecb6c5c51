"""How many modules an image passes on its way from its file to its row."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path

from conftest import make_photos

import featcache

PACKAGE = str(Path(featcache.__file__).parent)
BATCH_SIZE = 4


def calls(extract, photos):
    """How often functions of each module are called during an extraction."""
    counted = Counter()

    def watch(frame, event, argument):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE) and frame.f_code.co_name != "<module>":
            counted[file[len(PACKAGE) + 1 :]] += 1

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        options = {"runtime": "tensorflow", "overwrite": True, "check": "content"}
        extract(photos, batch_size=BATCH_SIZE, **options)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counted


def test_an_image_passes_at_most_18_modules(extract, tmp_path):
    few = make_photos(tmp_path / "few", 2, classes=tuple("abcd"))
    many = make_photos(tmp_path / "many", 8, classes=tuple("abcd"))
    for source in (few, many):  # what is done once in a process, and once for a source
        for path in source.rglob("*.*"):
            os.utime(path, (1_500_000_000, 1_500_000_000))  # else its stamp may be kept, or not
        extract(source)
    before, after = calls(extract, few), calls(extract, many)
    passed = sorted(file for file in after if after[file] > before[file])
    assert {"extraction/run.py", "data/loading.py", "store/part_writer.py"} <= set(passed)
    assert len(passed) <= 18, "\n".join(passed)
