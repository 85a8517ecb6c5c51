"""One registry opens what extraction and prediction read."""

from __future__ import annotations

import os
import tarfile

import pytest

from featcache.core.errors import SourceError, SpecError
from featcache.data import openers
from featcache.data.sources.folder import open_folder, walk
from featcache.inference.predict.inputs import opened


@pytest.fixture
def three_forms(photos, tmp_path):
    """The same images as a folder, a manifest and a tar file."""
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    manifest = photos / "list.csv"
    manifest.write_text("path,label\n" + "".join(f"{i},{i.split('/')[0]}\n" for i in ids))
    archive = tmp_path / "photos.tar"
    with tarfile.open(archive, "w") as tar:
        for id_ in ids:
            tar.add(photos / id_, id_)
    return [photos, manifest, archive]


def test_extraction_and_prediction_open_the_same_files(three_forms):
    for what in three_forms:
        labelled = openers.open_source(what)
        (given,) = opened(os.fspath(what))
        assert len(labelled) == len(given) == 21
        for row in range(21):
            assert given.get(row) == labelled.get(row)
    joined = opened(three_forms)
    assert [len(one) for one in joined] == [42, 21]  # what is files makes one


def test_a_new_suffix_is_one_line_of_the_registry(photos, tmp_path, monkeypatch):
    """It holds for extraction, for prediction, and for what messages say is expected."""

    def open_link(path, root, target):
        folder = path.read_text().strip()
        return open_folder(photos, walk(folder))

    link = tmp_path / "photos.link"
    link.write_text(f"{photos}\n")
    with pytest.raises(SourceError, match=r"a file ending in \.csv, \.tsv, \.jsonl"):
        openers.open_source(link)
    assert opened(os.fspath(link))[0].paths == (os.fspath(link),)  # an image, as far as one knows
    monkeypatch.setitem(openers.FILE_KINDS, ".link", openers.FileKind("Link", open_link))
    assert len(openers.open_source(link)) == 21
    assert openers.open_source(link).class_names == ("apple", "pear", "quince")
    (given,) = opened([link, photos / "apple"])
    assert len(given) == 28
    with pytest.raises(SourceError, match=r"Link '.*' does not exist"):
        openers.open_source(tmp_path / "other.LINK")
    (tmp_path / "a.txt").touch()
    with pytest.raises(SourceError, match=r"ending in .*\.tar, \.link\."):
        openers.open_source(tmp_path / "a.txt")
    with pytest.raises(SpecError, match="root is an option of manifests"):
        openers.open_source(link, root=tmp_path)
    with pytest.raises(SpecError, match="root is an option of manifests"):
        opened(os.fspath(link), tmp_path)


def test_missing_files_are_called_what_they_would_be(tmp_path):
    for name, what in (("a.csv", "Manifest"), ("a.tar", "Tar file"), ("a", "Image folder")):
        with pytest.raises(SourceError, match=f"{what} '.*' does not exist"):
            openers.open_source(tmp_path / name)
