"""What a folder of images is taken for, and what is said where it may have been meant otherwise."""

from __future__ import annotations

import re

import pytest
from conftest import make_image

from featcache.data import openers
from featcache.inference.predict.inputs import opened

NFC, NFD = "caf\u00e9", "cafe\u0301"


def opened_as(root, *names):
    for seed, name in enumerate(names):
        make_image(root / name, (100, 100, 100), seed, (8, 8))
    return openers.open_source(root)


def test_images_right_in_split_folders_have_no_labels(tmp_path):
    source = opened_as(tmp_path, "train/1.png", "train/2.png", "test/3.png", "stray.png")
    assert source.ids == ("test/3.png", "train/1.png", "train/2.png")
    assert source.splits == ("test", "train", "train")
    assert (source.class_names, source.labels.tolist()) == ((), [-1] * 3)
    assert source.passed_over.told() == "1 .png beside the splits"
    beside, flat = source.remarks
    assert "Beside train/, val/ and test/ lie 1 image, which were passed over" in beside
    assert "lie right in test and train, which were taken as splits: they have no labels" in flat
    assert "as train/CLASS; or rename test and train, if they are the classes." in flat


def test_images_beside_the_classes_are_named(tmp_path):
    source = opened_as(tmp_path, "a/1.png", "b/2.png", *(f"cover {n}.jpg" for n in range(5)))
    assert source.ids == ("a/1.png", "b/2.png")
    assert source.passed_over.told() == "5 .jpg beside the class folders"
    (remark,) = source.remarks
    assert "5 images, which were passed over: 'cover 0.jpg', 'cover 1.jpg'" in remark
    assert "and 2 more. Put what is to be used into them." in remark


@pytest.mark.parametrize(
    ("names", "said"),
    [
        # an archive unpacked into a folder of its name
        (["photos/a/1.png", "photos/b/1.png"], r"the only class\. .*'a', 'b', give '.*/photos'"),
        (["train/p/a/1.png", "train/p/b/1.png", "test/p/a/1.png"], "'a', 'b', move them one up"),
        (["a/train/1.png", "a/test/1.png", "b/train/1.png", "b/test/1.png"], "as train/a"),
        (["learn/a/1.png", "learn/b/1.png", "judge/a/1.png", "judge/b/1.png"], "'judge', 'learn'"),
        (["train/1.png", "test/2.png", "extra/3.png"], "test and train were taken as classes"),
    ],
)
def test_folders_that_look_like_something_else(tmp_path, names, said):
    (remark,) = opened_as(tmp_path, *names).remarks
    assert re.search(said, remark)


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "b/1.png"],
        ["train/a/1.png", "test/a/1.png", "train/b/1.png"],
        ["a/images/1.png", "b/images/1.png"],
        ["a/2019/1.png", "a/2020/1.png", "b/2020/1.png"],
        ["a/x/1.png", "a/y/1.png", "a/1.png"],
        ["train/1.png", "bus/1.png"],
        ["1.png", "2.png"],
    ],
)
def test_of_ordinary_folders_nothing_is_said(tmp_path, names):
    assert opened_as(tmp_path, *names).remarks == ()


def test_a_table_beside_images_without_labels_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n")
    (remark,) = opened_as(tmp_path, "1.png", "2.png").remarks
    assert "have no labels. If 'labels.csv' lists them" in remark
    assert opened_as(tmp_path, "a/3.png", "b/4.png").remarks[0].startswith("Beside")


def test_class_folders_in_two_unicode_forms_are_one_class(tmp_path):
    source = opened_as(tmp_path, f"train/{NFC}/1.png", f"test/{NFD}/2.png", "train/tea/3.png")
    if len({path.name for path in tmp_path.glob("*/caf*")}) == 1:
        pytest.skip("this file system sees both forms as one")
    assert source.class_names == (NFC, "tea")
    assert source.labels.tolist() == [0, 0, 1]
    assert source.ids == (f"test/{NFD}/2.png", f"train/{NFC}/1.png", "train/tea/3.png")
    assert [source.get(row)[:4] for row in range(3)] == [b"\x89PNG"] * 3
    (remark,) = source.remarks
    assert f"differ in Unicode form alone (NFC, NFD) count as one: '{NFC}'" in remark


def test_a_class_in_one_form_keeps_it(tmp_path):
    source = opened_as(tmp_path, f"{NFD}/1.png", "tea/2.png")
    assert (source.class_names, source.remarks) == ((NFD, "tea"), ())


def test_prediction_sorts_a_folder_into_nothing(tmp_path):
    opened_as(tmp_path, "train/1.png", "test/3.png", "stray.png")
    (given,) = opened(str(tmp_path))
    assert len(given) == 3
    assert (given.remarks, given.n_passed_over) == ((), 0)
