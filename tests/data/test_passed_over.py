"""What is no image by its name, or lies where file managers put it, is left out and said."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from conftest import make_image

from featcache.core.errors import SourceError
from featcache.data import openers
from featcache.data.sources import passed_over
from featcache.inference.predict.inputs import opened

LEFT = "Left out folders that are hidden, or made by file managers and servers: "


def touch(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        make_image(root / name, (100, 100, 100), seed, (8, 8))
    return root


def empty(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def as_tar(root: Path) -> Path:
    path = root.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(root, ".")
    return path


def every_way(root: Path):
    """A folder's source, that of a tar file of it, and both as predictions take them."""
    for what in (root, as_tar(root)):
        yield openers.open_source(what)
        yield from opened(str(what))


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found"),
        *("System Volume Information", "#recycle", "@Recycle", ".Trash-1000", ".@__thumb"),
    ],
)
def test_folders_of_systems_are_left_out_and_said(tmp_path, folder):
    root = touch(tmp_path / "p", "a/1.png", "b/2.png", f"a/{folder}/1.png/THUMB_M.png")
    touch(root, f"{folder}/3.png", f"b/{folder}/x.jpg")
    for source in every_way(root):
        assert [id_.rpartition("/")[2] for id_ in source.ids] == ["1.png", "2.png"]
        assert source.remarks == (f"{LEFT}3 {folder}.",)
    assert openers.open_source(root).class_names == ("a", "b")


def test_files_of_systems_are_no_images(tmp_path):
    root = touch(tmp_path / "p", "a/1.png", "b/2.png", "a/._1.png")
    empty(
        root,
        "a/Thumbs.db",
        "a/.DS_Store",
        "b/.DS_Store",
        "b/desktop.ini",
        ".hidden.jpg",
        "b/no",
        "b/.x",
    )
    for source in every_way(root):
        assert len(source) == 2
        told = "2 .DS_Store, 1 ._*, 1 .db, 1 .ini, 1 hidden, 1 hidden .jpg, 1 without an ending"
        assert source.passed_over.told() == told
        assert source.n_passed_over == 8


def test_pictures_of_other_formats_are_counted_with_the_cure(tmp_path):
    root = touch(tmp_path / "p", "a/1.png", "b/2.png", *(f"b/{n}.png" for n in range(10, 30)))
    empty(root, "a/IMG_1.HEIC", "b/IMG_2.heic", "b/archive.zip", "b/Thumbs.db")
    for source in every_way(root):
        assert source.passed_over.told() == "2 .heic, 1 .db, 1 .zip"
        assert source.remarks[:2] == (
            "Pictures in .heic are not read; convert them to JPEG or PNG.",
            "Nothing in .zip is read; unpack what has images.",
        )
    lost = "Images lost in files that were passed over: 1 of 2 of class 'a'."
    assert openers.open_source(root).remarks[2:] == (lost,)


def test_classes_that_lost_all_their_images_are_named(tmp_path):
    root = touch(tmp_path / "p", "train/a/1.png", "train/b/2.png", "test/a/3.png")
    empty(root, "train/cé/1.heic", "test/ce\u0301/2.jpg.part", "test/b/1", "test/notes.docx")
    *_, remark = openers.open_source(root).remarks
    assert remark.endswith(": 2 of 2 of class 'cé', 1 of 2 of class 'b'.")


def test_what_lies_beside_its_image_is_no_loss(tmp_path):
    root = touch(tmp_path / "p", "a/1.png", "b/2.png")
    empty(root, "a/1.nef", "a/1.txt", "a/1.png.json", "b/labels.xml", "b/film.mov", "b/README.md")
    assert openers.open_source(root).remarks == (
        "Pictures in .nef are not read; convert them to JPEG or PNG.",
    )


def test_members_of_a_tar_file_that_lost_their_image(tmp_path):
    root = touch(tmp_path / "p", "1.png", "2.png", "3.png")
    empty(root, "4.heic")
    for key, label in zip("1234", ("cé", "b", "b", "ce\u0301"), strict=True):
        (root / f"{key}.cls").write_text(label, encoding="utf-8")
    *_, remark = openers.open_source(as_tar(root)).remarks
    assert remark == "Images lost in members that were passed over: 1 of 2 of class 'cé'."


def test_what_lies_beside_tar_files(tmp_path):
    root = touch(tmp_path / "p", "1.png", "@eaDir/x.png")
    (tmp_path / "shards" / "@eaDir").mkdir(parents=True)
    as_tar(root).rename(tmp_path / "shards" / "0.tar")
    empty(tmp_path / "shards", "index.txt", "1.heic")
    for source in (openers.open_source(tmp_path / "shards"), *opened(str(tmp_path / "shards"))):
        assert source.passed_over.told() == "1 .heic, 1 .txt"
        assert source.remarks[0] == f"{LEFT}2 @eaDir."


def test_members_of_one_key_in_two_unicode_forms(tmp_path):
    root = touch(tmp_path / "p", "\u00e9.png", "a.png")
    (root / "e\u0301.cls").write_text("x")
    (root / "a.cls").write_text("y")
    source = openers.open_source(as_tar(root))
    assert [source.class_names[label] for label in source.labels] == ["y", "x"]


def test_a_tenth_may_be_lost_silently():
    lost = {"a": 1, "b": 2, "c": 0}
    assert passed_over.lost_classes({"a": 9, "b": 18, "c": 0}, lost, "so") == ()
    (said,) = passed_over.lost_classes({"a": 8, "b": 18}, lost, "so")
    assert said == "Images lost so: 1 of 9 of class 'a'."
    (said,) = passed_over.lost_classes({}, dict.fromkeys("abcdefghij", 1), "so")
    assert said.endswith("1 of 1 of class 'h' and of 2 more classes.")


def test_where_there_is_nothing_else_it_is_named(tmp_path):
    empty(tmp_path / "p", "a/1.heic", "a/2.heic")
    for ask in (openers.open_source, opened):
        with pytest.raises(SourceError, match=r"no images.*; there are 2 \.heic\.$"):
            ask(str(tmp_path / "p"))
    with pytest.raises(SourceError, match=r"no images.*; there are 2 \.heic\.$"):
        openers.open_source(as_tar(tmp_path / "p"))


def test_a_list_is_taken_at_its_word(tmp_path):
    root = touch(tmp_path / "p", "a/1.png", "a/@eaDir/1.png/THUMB_M.png")
    (root / "list.csv").write_text("path\na/1.png\na/@eaDir/1.png/THUMB_M.png\n")
    paths = [root / "a" / "1.png", root / "a" / "@eaDir" / "1.png" / "THUMB_M.png"]
    for what in (root / "list.csv", paths):
        source = openers.open_source(what)
        assert len(source) == 2
        assert "are: 1; they were taken: '" in source.remarks[0]


def test_predictions_say_what_all_their_folders_passed_over(tmp_path):
    root = touch(tmp_path / "p", "a/1.png", "b/2.png", "a/@eaDir/x.png", "b/@eaDir/x.png")
    empty(root, "a/x.heic", "b/x.heic", "b/x.db")
    (given,) = opened([root / "a", root / "b" / "2.png", root / "b"])
    assert len(given) == 3
    assert given.passed_over.sentence() == ("Passed over 3 other files: 2 .heic, 1 .db.",)
    assert given.remarks[0] == f"{LEFT}2 @eaDir."
