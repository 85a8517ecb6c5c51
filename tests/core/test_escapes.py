from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from featcache.core.escapes import ESCAPES, all_escaped, escaped, path_of

NAMES = [b"caf\xe9.jpg", b"\xff\xfe", b"back\\slash\xe9", b"back\\\\xe9\xe9", b"x\\x5c\x80"]
PLAIN = ["caf\u00e9.jpg", "back\\slash", "literal\\xe9.jpg", "\\x5c", "a b"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*NAMES, *map(os.fsencode, PLAIN)])
def test_every_path_can_be_opened_again(here, name):
    (here / os.fsdecode(name)).write_bytes(name)
    text = escaped(os.fsdecode(name))
    assert json.loads(json.dumps(text).encode("ascii")) == text
    text.encode()  # as UTF-8
    assert Path(path_of(text)).read_bytes() == name
    assert path_of(os.path.join(here, text)) == os.path.join(here, os.fsdecode(name))


def test_what_is_text_already_stays():
    assert [escaped(name) for name in PLAIN] == PLAIN
    assert all_escaped({"a": ["\udce9", 1, None]}) == {"a": ["\\xe9", 1, None]}


def test_different_paths_are_different_texts():
    assert len({escaped(os.fsdecode(name)) for name in NAMES}) == len(NAMES)


def test_a_file_that_is_called_so_comes_first(here):
    (here / "caf\\xe9").touch()
    (here / os.fsdecode(b"caf\xe9")).touch()
    assert path_of("caf\\xe9") == "caf\\xe9"


def test_what_is_not_there_stays_what_it_says(here):
    (here / os.fsdecode(b"f\xe9")).mkdir()
    assert path_of("new\\xe9.csv") == "new\\xe9.csv"
    assert path_of("f\\xe9/new.csv") == os.fsdecode(b"f\xe9/new.csv")


def test_streams_write_what_is_no_text_in_the_same_way():
    made = io.BytesIO()
    with io.TextIOWrapper(made, "ascii", errors=ESCAPES) as stream:
        stream.write("f\udce9 \u00e9 \u2013 \ud800\n")
        stream.flush()
        assert made.getvalue() == b"f\\xe9 \\xe9 \\u2013 \\ud800\n"
