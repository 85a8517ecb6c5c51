"""Boxes as people draw them: in manifests, in COCO's, Pascal VOC's and YOLO's files."""

from __future__ import annotations

import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

import featcache as fc
from featcache.core.boxes import Boxes, starts_of
from featcache.core.errors import SourceError

BOXES = {  # by image: label, and left, top, right, bottom in pixels
    "one.jpg": [("cat", (2, 3, 12, 23)), ("dog", (20, 0, 40, 30))],
    "two.jpg": [],
    "zoo/three.png": [("cat", (0, 0, 5.5, 6))],
}
SIZES = {"one.jpg": (40, 30), "two.jpg": (20, 50), "zoo/three.png": (16, 8)}  # width, height


def images(folder):
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (len(name), 90, 120)).save(path)
    return folder


def x_y_width_height(corners):
    left, top, right, bottom = corners
    return [left, top, right - left, bottom - top]


def as_cell(boxes):
    return [{"label": label, "box": x_y_width_height(corners)} for label, corners in boxes]


def manifest(folder, rows, suffix=".jsonl"):
    path = images(folder) / f"boxes{suffix}"
    if suffix == ".csv":
        cells = [json.dumps(cell).replace('"', '""') for cell in rows.values()]
        lines = [f'{name},"{cell}"' for name, cell in zip(rows, cells, strict=True)]
        path.write_text("\n".join(["path,boxes", *lines]))
    else:
        lines = [json.dumps({"path": name, "boxes": cell}) for name, cell in rows.items()]
        path.write_text("\n".join(lines))
    return path


def of_jsonl(folder):
    return manifest(folder, {name: as_cell(boxes) for name, boxes in BOXES.items()})


def of_csv(folder):
    return manifest(folder, {name: as_cell(boxes) for name, boxes in BOXES.items()}, ".csv")


def of_tar(folder):
    images(folder)
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name, boxes in BOXES.items():
            archive.add(folder / name, name)
            data = json.dumps({"boxes": as_cell(boxes)}).encode()
            member = tarfile.TarInfo(f"{name.rpartition('.')[0]}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder / "shard.tar"


def coco(folder, **changed):
    images(folder)
    annotations = [
        {"id": number, "image_id": name, "category_id": label, "bbox": x_y_width_height(corners)}
        for number, (name, label, corners) in enumerate(
            (name, label, corners) for name, boxes in BOXES.items() for label, corners in boxes
        )
    ]
    content = {
        "images": [{"id": name, "file_name": name} for name in BOXES],
        "annotations": annotations,
        "categories": [{"id": "dog", "name": "dog"}, {"id": "cat", "name": "cat"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content | changed))
    return folder / "annotations.json"


def voc(folder):
    images(folder / "JPEGImages")
    (folder / "JPEGImages/zoo/three.png").rename(folder / "JPEGImages/three.png")
    (folder / "Annotations").mkdir()
    for name, boxes in BOXES.items():
        file = name.rpartition("/")[2]
        objects = ""
        for label, (left, top, right, bottom) in boxes:
            corners = zip(
                ("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True
            )
            inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
            objects += f"<object><name>{label}</name><bndbox>{inside}</bndbox></object>"
        text = f"<annotation><filename>{file}</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{file.rpartition('.')[0]}.xml").write_text(text)
    return folder


def yolo(folder):
    images(folder / "images")
    (folder / "data.yaml").write_text("names: [dog, cat]\n")
    for name, boxes in BOXES.items():
        path = (folder / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = SIZES[name]
        lines = [
            f"{['dog', 'cat'].index(label)} {(left + right) / 2 / width} "
            f"{(top + bottom) / 2 / height} {(right - left) / width} {(bottom - top) / height}"
            for label, (left, top, right, bottom) in boxes
        ]
        if lines:  # without a box there is no file
            path.write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("write", [of_jsonl, of_csv, of_tar, coco, voc, yolo])
def test_every_form_gives_the_same_boxes(write, tmp_path):
    source = fc.open_source(write(tmp_path / "in"))
    about = source.annotations
    assert about.task == "detection"
    assert about.class_names == ("cat", "dog")
    by_stem = {id_.rpartition("/")[2].partition(".")[0]: row for row, id_ in enumerate(source.ids)}
    for name, expected in BOXES.items():
        row = by_stem[name.rpartition("/")[2].partition(".")[0]]
        mine = about.boxes.take(np.array([row]))
        assert about.labels[row] == len(expected)
        assert [about.class_names[one] for one in mine.classes] == [label for label, _ in expected]
        corners = np.array([corners for _, corners in expected]).reshape(-1, 4)
        np.testing.assert_allclose(mine.corners, corners, atol=1e-9)
        assert mine.sizes[0].tolist() == list(SIZES[name][::-1])
    assert about.is_known.all()


def test_boxes_follow_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 40 x 30 in the file, 30 x 40 as it is shown
    Image.new("RGB", (40, 30)).save(tmp_path / "one.jpg", exif=exif)
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"path": "one.jpg", "boxes": as_cell([("cat", (0, 35, 10, 40))])}))
    boxes = fc.open_source(path).annotations.boxes
    assert boxes.sizes.tolist() == [[40, 30]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([{"label": "cat", "box": [5, 5, -3, 4]}], "Box 1 in line 1 of 'boxes.jsonl' is inverted"),
        (
            [{"label": "cat", "box": [35, 5, 9, 4]}],
            r"Box 1 in line 1 .* lies 4 pixels outside its image, which is 40 x 30 upright",
        ),
        ([{"label": "cat", "box": [1, 2, 3]}], r"Box 1 in line 1 .* must be x, y, width and heig"),
        ([{"box": [1, 2, 3, 4]}], r"Box 1 in line 1 of 'boxes.jsonl' has no label"),
        ([{"label": "cat", "box": [1, 2, 3, 1e400]}], r"corners of box 1 in .* no finite numbers"),
        ("everywhere", r"'boxes' in line 1 of 'boxes.jsonl' must be a JSON list"),
    ],
)
def test_what_is_no_box_is_said_of_the_box(cell, message, tmp_path):
    with pytest.raises(SourceError, match=message) as caught:
        fc.open_source(manifest(tmp_path, {"one.jpg": cell}))
    assert "\n" not in str(caught.value)


def test_half_a_pixel_outside_is_cut_off_and_no_width_is_listed_and_not_learnt(tmp_path):
    cell = as_cell([("cat", (-0.5, 3, 40.9, 30)), ("dog", (4, 4, 4.5, 9)), ("dog", (7, 7, 9, 7))])
    source = fc.open_source(manifest(tmp_path, {"one.jpg": cell}))
    assert source.annotations.boxes.corners.tolist() == [[0, 3, 40, 30]]
    assert source.class_names == ("cat",)
    assert source.remarks == (
        "2 boxes of less than a pixel's width or height are not learnt: 'box 2 in line 1 of "
        "'boxes.jsonl'', 'box 3 in line 1 of 'boxes.jsonl''.",
    )


def test_an_empty_cell_is_unknown_and_an_empty_list_is_none_of_them(tmp_path):
    source = fc.open_source(manifest(tmp_path, {"one.jpg": None, "two.jpg": []}))
    assert source.annotations.is_known.tolist() == [False, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": [{"id": "two.jpg", "file_name": "two.jpg"}]},
            "Annotation 0 of 'annotations.js",
        ),
        ({"categories": [{"id": "dog", "name": "dog"}]}, "The category cat of annotation 0 of"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "category 'a' twice"),
        ({"annotations": [{"id": 5}]}, "Entry 1 of 'annotations' in .* must have image_id and"),
        ({"images": None}, "is no annotation file of COCO"),
    ],
)
def test_what_is_wrong_in_cocos_file_is_said(changed, message, tmp_path):
    with pytest.raises(SourceError, match=message):
        fc.open_source(coco(tmp_path, **changed))


def test_crowds_and_difficult_objects_are_ignored(tmp_path):
    crowd = {"id": 1, "image_id": "one.jpg", "category_id": "cat", "bbox": [1, 1, 5, 5]}
    source = fc.open_source(coco(tmp_path, annotations=[crowd | {"iscrowd": 1}]))
    assert source.annotations.boxes.ignored.tolist() == [True]


def test_a_missing_image_is_a_failure_with_its_name(tmp_path, extract):
    path = coco(tmp_path / "in")
    (tmp_path / "in/one.jpg").unlink()
    done = extract(path, pooling="none", layer="relu_1")
    assert [one.id for one in done.features.failures] == ["one.jpg"]
    assert done.features.annotations.boxes.corners.tolist() == [[0, 0, 5.5, 6]]


def test_parts_of_pascal_voc_are_those_of_its_lists(tmp_path):
    folder = voc(tmp_path)
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\n")
    (lists / "test.txt").write_text("three\n")
    (lists / "cat_train.txt").write_text("one 1\n")
    source = fc.open_source(folder)
    assert dict(zip(source.ids, source.splits, strict=True)) == {
        "JPEGImages/one.jpg": "train",
        "JPEGImages/three.png": "test",
    }
    assert "1 annotated image stand in no list" in " ".join(source.remarks)


def test_yolo_says_which_file_has_no_image_and_which_class_no_name(tmp_path):
    folder = yolo(tmp_path)
    (folder / "labels/four.txt").write_text("0 0.5 0.5 1 1")
    assert "There is no image for 'labels/four.txt'." in fc.open_source(folder).remarks
    (folder / "labels/one.txt").write_text("7 0.5 0.5 1 1")
    with pytest.raises(SourceError, match=r"The class 7 in line 1 of 'one.txt' has no name"):
        fc.open_source(folder)


def test_of_a_polygon_yolo_takes_the_box_around_it(tmp_path):
    folder = yolo(tmp_path)
    (folder / "labels/one.txt").write_text("1 0.25 0.5 0.5 0.1 0.75 0.5 0.5 0.9")
    source = fc.open_source(folder)
    np.testing.assert_allclose(source.annotations.boxes.corners[0], (10, 3, 30, 27))


def test_boxes_lie_in_the_feature_file_as_plain_columns(tmp_path, extract):
    done = extract(of_jsonl(tmp_path / "in"), pooling="none", layer="relu_1")
    with h5py.File(done.features.path) as file:
        assert file["labels"][:].tolist() == [2, 0, 1]
        assert file["boxes/corners"][:].tolist() == [
            list(corners) for boxes in BOXES.values() for _, corners in boxes
        ]
        assert file["boxes/classes"][:].tolist() == [0, 1, 0]
        assert file["boxes/sizes"][:].tolist() == [list(size[::-1]) for size in SIZES.values()]
    again = fc.Features(done.features.path)
    assert again.annotations.same_as(fc.open_source(of_jsonl(tmp_path / "in")).annotations)
    assert extract(tmp_path / "in/boxes.jsonl", pooling="none", layer="relu_1").hit


def test_moved_boxes_are_other_content_and_compute_nothing(tmp_path, extract):
    before = extract(of_jsonl(tmp_path / "in"), pooling="none", layer="relu_1").features
    moved = {name: as_cell(boxes) for name, boxes in BOXES.items()}
    moved["one.jpg"][0]["box"] = [3, 3, 10, 20]
    done = extract(manifest(tmp_path / "in", moved), pooling="none", layer="relu_1")
    assert not done.hit
    assert done.n_computed == 0
    assert done.features.content != before.content


def test_boxes_of_some_images_are_taken_in_their_order():
    rng = np.random.default_rng(0)
    counts = np.array([2, 0, 3, 1])
    boxes = Boxes(
        starts_of(counts), rng.random((6, 4)), np.arange(6), np.zeros(6, bool), np.ones((4, 2), int)
    )
    taken = boxes.take(np.array([3, 1, 0]))
    assert taken.classes.tolist() == [5, 0, 1]
    assert taken.image_of.tolist() == [0, 2, 2]
