"""Files are found under the names that people and other systems write."""

from __future__ import annotations

import os
import unicodedata

import pytest
from conftest import make_image

from featcache.core.errors import SourceError
from featcache.data import openers
from featcache.data.sources.on_disk import Disk
from featcache.extraction.embedder_input import open_images
from featcache.inference.predict.inputs import opened


def in_form(form, text):
    return unicodedata.normalize(form, text)


@pytest.fixture(params=[("NFC", "NFD"), ("NFD", "NFC")], ids=" on ".join)
def forms(request, tmp_path):
    """The form that a path is written in, and that of the disk, which must not see them as one."""
    (tmp_path / in_form("NFC", "ñ")).touch()
    if (tmp_path / in_form("NFD", "ñ")).exists():
        pytest.skip("this file system sees both forms as one")
    return request.param


def manifest(path, *cells):
    path.write_text("path,label\n" + "".join(f"{cell},x\n" for cell in cells), encoding="utf-8")
    return path


def test_a_manifest_in_another_form_than_the_disk(tmp_path, forms):
    written, lying = forms
    image = make_image(tmp_path / in_form(lying, "é/ü.png"), (9, 9, 9), 0, (8, 8))
    make_image(tmp_path / "a.png", (9, 9, 9), 1, (8, 8))
    table = manifest(tmp_path / "list.csv", in_form(written, "é/ü.png"), "a.png")
    source = openers.open_source(table)
    assert source.ids == ("a.png", in_form(lying, "é/ü.png"))  # as on the disk
    assert source.get(1) == image.read_bytes()
    assert "Paths in another Unicode form (NFC, NFD) than on the disk: 1" in source.remarks[0]
    (given,) = opened(os.fspath(table))
    assert given.ids[0] == in_form(written, "é/ü.png")  # as given
    assert given.get(0) == image.read_bytes()
    assert given.remarks == source.remarks


def test_other_paths_in_another_form(tmp_path, forms):
    written, lying = forms
    image = make_image(tmp_path / in_form(lying, "é/ü.png"), (9, 9, 9), 0, (8, 8))
    path = os.fspath(tmp_path / in_form(written, "é/ü.png"))
    folder = os.path.dirname(path)
    table = manifest(tmp_path / "list.csv", in_form(written, "ü.png"))
    for source in (
        openers.open_source(folder),
        openers.open_source([path]),
        openers.open_source(table, root=folder),
        *opened(folder),
        *opened(path),
        *opened([path, path]),
        open_images([path])[0],
    ):
        assert source.get(len(source) - 1) == image.read_bytes()


def test_a_file_that_is_there_as_written_is_the_one(tmp_path, forms):
    for number, form in enumerate(forms):
        make_image(tmp_path / in_form(form, "ü.png"), (9, 9, 9), number, (8, 8))
    names = [in_form(form, "ü.png") for form in forms]
    source = openers.open_source(manifest(tmp_path / "list.csv", *names))
    assert list(source.ids) == sorted(names)
    for row, id_ in enumerate(source.ids):
        assert source.get(row) == (tmp_path / id_).read_bytes()
    assert source.remarks == ()


def test_one_file_in_two_forms_is_there_twice(tmp_path, forms):
    make_image(tmp_path / in_form(forms[1], "ü.png"), (9, 9, 9), 0, (8, 8))
    names = [in_form(form, "ü.png") for form in forms]
    with pytest.raises(SourceError, match=r"line 2 of 'list\.csv' and line 3 of 'list\.csv'"):
        openers.open_source(manifest(tmp_path / "list.csv", *names))


def test_folders_in_both_forms_are_both_looked_into(tmp_path, forms):
    written, lying = forms
    make_image(tmp_path / in_form(written, "é") / "1.png", (9, 9, 9), 0, (8, 8))
    there = make_image(tmp_path / in_form(lying, "é") / "2.png", (9, 9, 9), 1, (8, 8))
    assert Disk().find(os.fspath(tmp_path / in_form(written, "é") / "2.png")) == os.fspath(there)
    for name in ("1.png", "3.png"):
        path = os.fspath(tmp_path / in_form(written, "é") / name)
        assert Disk().find(path) == path


@pytest.mark.parametrize("path", ["é/x.png", "é", "", "é/", "\udcff/é.png", "a\0é.png"])
def test_what_is_nowhere_stays_as_it_is(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert Disk().find(path) == path


@pytest.mark.skipif(os.sep == "\\", reason="there, that is how paths are written")
def test_paths_of_windows(tmp_path):
    image = make_image(tmp_path / "a" / "0.png", (9, 9, 9), 0, (8, 8))
    table = manifest(tmp_path / "list.csv", "a\\0.png")
    source = openers.open_source(table)
    assert source.ids == ("a/0.png",)
    assert source.remarks == ("Paths with \\ between folders, as in Windows: 1; read as /.",)
    (given,) = opened(os.fspath(table))
    for one in (source, given, *opened(os.fspath(tmp_path / "a") + "\\0.png")):
        assert one.get(0) == image.read_bytes()
    (tmp_path / "a\\0.png").write_bytes(b"another")  # a name like any other
    assert openers.open_source(table).get(0) == b"another"


@pytest.mark.skipif(os.sep == "\\", reason="there, that is how paths are written")
def test_paths_of_windows_that_lead_nowhere_or_outside(tmp_path):
    make_image(tmp_path / "0.png", (9, 9, 9), 0, (8, 8))
    (tmp_path / "b").mkdir()
    table = manifest(tmp_path / "b" / "list.csv", "a\\1.png")
    with pytest.raises(SourceError, match=r"would be '.*b/a\\1\.png', or '.*b/a/1\.png'\. If"):
        openers.open_source(table)
    with pytest.raises(SourceError, match="lies outside"):
        openers.open_source(manifest(table, "..\\0.png"))
