from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image, make_photos

from featcache.core.errors import SourceError, SpecError
from featcache.core.labels import UNLABELLED
from featcache.data import openers, sources
from featcache.data.listing import list_images


def touch(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        make_image(root / name, (100, 100, 100), seed, (8, 8))


def test_folder_of_classes(photos):
    source = openers.open_source(photos)
    assert source.class_names == ("apple", "pear", "quince")
    assert list(source.ids) == sorted(source.ids)
    assert len(source) == 21
    assert source.splits is None
    for id_, path, label in zip(source.ids, source.paths, source.labels, strict=True):
        assert Path(path) == photos / id_
        assert source.class_names[label] == Path(path).parent.name


def test_split_folders(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "valid/a/3.png", "test/b/4.png")
    source = openers.open_source(tmp_path)
    assert source.ids == ("test/b/4.png", "train/a/1.png", "train/b/2.png", "valid/a/3.png")
    assert source.splits == ("test", "train", "train", "val")
    assert [source.class_names[label] for label in source.labels] == ["b", "a", "b", "a"]


def test_classes_named_like_splits_are_classes(tmp_path):
    touch(tmp_path, "train/1.png", "bus/2.png")
    assert openers.open_source(tmp_path).class_names == ("bus", "train")


def test_subfolders_of_a_class_belong_to_it(tmp_path):
    touch(tmp_path, "a/2019/1.png", "a/2.png", "b/3.png")
    source = openers.open_source(tmp_path)
    assert source.class_names == ("a", "b")
    assert source.labels.tolist() == [0, 0, 1]


def test_folder_without_subfolders_has_no_labels(tmp_path):
    touch(tmp_path, "1.png", "2.png")
    source = openers.open_source(tmp_path)
    assert source.labels.tolist() == [UNLABELLED] * 2
    assert source.class_names == ()


def test_what_is_no_image_is_passed_over_and_counted(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png", "stray.png", "a/.hidden.png", ".git/x.png")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    source = openers.open_source(tmp_path)
    assert source.ids == ("a/1.png", "b/2.png")
    assert source.n_passed_over == 3


def test_stray_images_do_not_turn_splits_into_classes(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/a/2.png", "cover.png", "train/stray.png")
    source = openers.open_source(tmp_path)
    assert source.ids == ("test/a/2.png", "train/a/1.png")
    assert source.splits == ("test", "train")
    assert source.n_passed_over == 2


def test_splits_beside_other_folders_are_refused(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/a/2.png", "extra/a/3.png")
    with pytest.raises(SourceError, match="test, train beside extra"):
        openers.open_source(tmp_path)


def test_a_linked_class_leaves_the_real_one_alone(tmp_path):
    touch(tmp_path, "z/1.png", "y/2.png")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert openers.open_source(tmp_path).ids == ("a/1.png", "y/2.png", "z/1.png")


def test_two_files_of_one_id_are_named(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / os.fsdecode(b"\xff.png"))
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "\\xff.png")
    with pytest.raises(SourceError, match=r"Two images have the id 'a/.*xff.png': .* and .*Remove"):
        openers.open_source(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    listing = list_images(openers.open_source(tmp_path))
    assert listing.unreadable == {1: "not a regular file"}


def test_link_loops_end(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(openers.open_source(tmp_path)) == 1


def test_linked_files_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "1.png")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "link.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert openers.open_source(tmp_path / "root").ids == ("a/link.png",)


def test_names_that_are_not_utf8_get_an_id(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / os.fsdecode(b"\xe9.png"))
    source = openers.open_source(tmp_path)
    assert source.ids == ("a/\\xe9.png",)
    assert source.get(0).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.write_text("x"), "is no folder"),
        (lambda root: root.mkdir(), "has no images"),
    ],
)
def test_nothing_there(tmp_path, make, message):
    root = tmp_path / "photos"
    make(root)
    with pytest.raises(SourceError, match=message):
        openers.open_source(root)


def test_unknown_example_names_the_known_ones():
    with pytest.raises(SpecError, match="example:clipart, example:digits"):
        openers.open_source("example:cats")


def test_clipart_is_whole():
    source = openers.open_source("example:clipart")
    assert len(source) == 543
    assert len(source.class_names) == 12
    assert source.origin == "example:clipart"


def test_digits():
    source = openers.open_source("example:digits")
    assert len(source) == 1797
    assert list(source.ids) == sorted(source.ids)
    assert [int(id_[0]) for id_ in source.ids] == source.labels.tolist()
    assert source.contents.images.shape == (1797, 8, 8, 3)


def test_limit_keeps_every_class(photos):
    few = openers.open_source(photos).limit(6)
    assert len(few) == 6
    assert set(few.labels.tolist()) == {0, 1, 2}
    for id_, path in zip(few.ids, few.paths, strict=True):
        assert path.endswith(id_)


def test_a_listing_gives_digests_in_row_order(photos):
    source = openers.open_source(photos)
    done = []
    listing = list_images(source, advance=done.append)
    assert sum(done) == len(source)
    assert not listing.unreadable
    for row, path in enumerate(source.paths):
        assert listing.digests[row].tobytes() == sources.digest(Path(path).read_bytes())
        assert listing.orientations[row] == 1


def test_a_file_that_vanishes_is_reported_not_raised(photos):
    source = openers.open_source(photos)
    Path(source.paths[3]).unlink()
    listing = list_images(source)
    assert list(listing.unreadable) == [3]
    assert not listing.digests[3].any()
    assert np.all(listing.digests[[2, 4]].any(axis=1))


def test_make_photos_differ(tmp_path):
    source = openers.open_source(make_photos(tmp_path / "p"))
    listing = list_images(source)
    assert len(np.unique(listing.digests, axis=0)) == len(source)
