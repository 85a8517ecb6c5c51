"""From images with boxes to a detector, one Keras model, predictions and scores."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs as plotlyjs
from typer.testing import CliRunner

import featcache as fc
from featcache import extraction
from featcache.cli.main import app
from featcache.core.errors import HeadError, SourceError, SpecError, StitchError
from featcache.detection import detector, maps, stitching
from featcache.detection.frames import overlaps

pytestmark = pytest.mark.slow

COLOURS = {"brick": (220, 40, 30), "leaf": (30, 190, 60)}
HOW = {"epochs": 40, "width": 32, "dropout": 0.0, "batch_size": 8}


def make_images(folder, n=60, seed=0):
    """Grey noise with one coloured box or two; a manifest that says where."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = []
    for number in range(n):
        width, height = int(rng.integers(60, 100)), int(rng.integers(50, 90))
        pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
        boxes = []
        for side in ("left", "right")[: int(rng.integers(1, 3))]:
            wide, high = rng.integers(14, width // 2 - 8), rng.integers(14, height // 2)
            left = int(rng.integers(0, width // 2 - wide)) + (width // 2) * (side == "right")
            top = int(rng.integers(0, height - high))
            label = sorted(COLOURS)[int(rng.integers(2))]
            pixels[top : top + high, left : left + wide] = COLOURS[label]
            boxes.append({"label": label, "box": [left, top, int(wide), int(high)]})
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        lines.append(json.dumps({"path": f"{number:02d}.png", "boxes": boxes}))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    return folder / "boxes.jsonl"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("detector")


@pytest.fixture(scope="module")
def features(place, tiny_backbone):
    done = extraction.run(
        make_images(place / "in"),
        weights=str(tiny_backbone),
        cache_dir=place / "cache",
        pooling="none",
        resize="letterbox",
        views=2,
        augment="flip",
        show_progress=False,
    )
    return done.features


@pytest.fixture(scope="module")
def fitted(features):
    return fc.fit_detector(features, **HOW, show_progress=False)


@pytest.fixture(scope="module")
def model(fitted, place):
    path = place / "boxes.keras"
    fc.stitch_detector(fitted, path, show_progress=False)
    return path


def test_boxes_are_found_on_held_out_images(fitted):
    assert fitted.test.map50 > 0.7
    assert fitted.test.ap50 > 0.8
    low, high = fitted.test.intervals["map50"]
    assert low <= fitted.test.map50 <= high
    assert [one["name"] for one in fitted.test.of_class] == ["brick", "leaf"]
    assert "map50" in str(fitted)


def test_the_same_request_is_answered_from_the_folder(fitted, features, monkeypatch):
    monkeypatch.setattr(fc.detection.api, "_fit", None)
    again = fc.fit_detector(features, **HOW)
    assert again.to_dict() == fitted.to_dict()


def test_a_fit_that_is_killed_leaves_nothing_half(features, place, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    folder = place / "killed.heads"
    monkeypatch.setattr(detector, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        fc.fit_detector(features, epochs=1, width=8, folder=folder, show_progress=False)
    assert not folder.exists()
    assert not list(place.glob("killed*.tmp"))


def test_a_changed_folder_is_not_believed(fitted, place):
    folder = place / "changed.heads"
    shutil.copytree(fitted.folder, folder)
    file = folder / detector.FILE
    file.write_text(file.read_text().replace('"best_epoch": ', '"best_epoch": 1'))
    with pytest.raises(HeadError, match=r"was changed since the detector was fitted"):
        detector.load(folder)


def test_mirrored_views_have_mirrored_boxes(features):
    opened = maps.opened([features])
    row = int(np.flatnonzero(opened.is_mirrored[:, 1])[0])
    clean, *_ = opened.drawn_on(row, 0)
    mirrored, *_ = opened.drawn_on(row, 1)
    np.testing.assert_allclose(mirrored[:, 0] + clean[:, 2], features.spec.image_size[1])
    assert not opened.is_mirrored[:, 0].any()
    assert 0.2 < opened.is_mirrored[:, 1].mean() < 0.8


def test_the_model_finds_what_the_head_finds(fitted, model):
    described = json.loads(model.with_suffix(".json").read_text())
    parity = stitching.Parity(**described["parity"])
    assert parity.holds
    assert parity.n_images == 60
    assert parity.n_same == parity.n_boxes > 30
    assert parity.largest_corner_px < 0.5
    assert described["test"]["map50"] == pytest.approx(fitted.test.map50)


def test_a_model_that_differs_is_not_written(fitted, place, monkeypatch):
    monkeypatch.setattr(stitching.Parity, "holds", False)
    with pytest.raises(StitchError, match="does not find what the head does on the cached maps"):
        fc.stitch_detector(fitted, place / "other.keras", show_progress=False)
    assert not (place / "other.keras").exists()


def test_the_file_opens_where_featcache_is_not(model):
    code = (
        "import sys; sys.modules['featcache'] = None\n"
        "import keras, numpy as np\n"
        f"model = keras.models.load_model({str(model)!r})\n"
        "found = model.predict(np.full((2, 32, 32, 3), 128, 'uint8'), verbose=0)\n"
        "print({name: part.shape for name, part in found.items()})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shapes = "{'boxes': (2, 50, 4), 'classes': (2, 50), 'count': (2,), 'scores': (2, 50)}"
    assert eval(ran.stdout.strip().splitlines()[-1]) == eval(shapes)


def test_predictions_lie_where_boxes_were_drawn_in_pixels_of_the_file(fitted, model, place):
    source = fc.open_source(place / "in/boxes.jsonl")
    every = fc.load_detector(model).predict(place / "in/boxes.jsonl", show_progress=False)
    assert [one.path for one in every] == list(source.ids)
    about = source.annotations
    n_near = 0
    for row, one in enumerate(every):
        drawn = about.boxes.take(np.array([row]))
        assert one.size == tuple(drawn.sizes[0])
        assert one.found.scores.min(initial=1) >= fitted.min_score
        near = overlaps(drawn.corners, one.found.corners)
        near[drawn.classes[:, None] != one.found.classes[None]] = 0
        n_near += int((near.max(axis=1, initial=0) > 0.5).sum())
    assert n_near > 0.8 * about.labels.sum()


def test_an_image_that_cannot_be_read_keeps_its_place(model, place):
    bad = place / "broken.png"
    bad.write_bytes(b"no image")
    found = fc.load_detector(model).predict([place / "in/00.png", bad], show_progress=False)
    assert [bool(one.error) for one in found] == [False, True]
    assert found[1].boxes == []
    with pytest.raises(SourceError, match="None of 1 image could be read"):
        fc.load_detector(model).predict(bad, show_progress=False)


def test_evaluate_scores_the_file_on_images(fitted, model, place):
    done = fc.evaluate_detector(model, show_progress=False)
    assert done.part == "test"
    assert done.n_images == fitted.n_images["test"]
    assert done.precision.map50 == pytest.approx(fitted.test.map50, abs=0.02)
    other = place / "in/other.jsonl"
    boxes = [{"label": "cat", "box": [1, 1, 9, 9]}]
    other.write_text(json.dumps({"path": "00.png", "boxes": boxes}))
    with pytest.raises(SourceError, match="boxes of class 'cat', which the model does not know"):
        fc.evaluate_detector(model, other, show_progress=False)


def test_onnx_runs_alone_and_finds_the_same(model, place):
    done = fc.export_detector(model, max_images=20, show_progress=False)
    assert done.path == place / "boxes.onnx"
    assert done.n_images == 20
    assert done.n_same == done.n_boxes > 10
    with pytest.raises(SpecError, match="is there"):
        fc.export_detector(model, show_progress=False)
    import onnx

    outputs = onnx.load(done.path).graph.output
    assert [one.name for one in outputs] == ["boxes", "classes", "scores", "count"]


def run(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    return done.stdout


def test_the_verbs_do_it_all(features, place):
    folder = place / "verbs"
    shutil.copytree(features.path.parent, folder / "boxes")
    file = folder / "boxes" / features.path.name
    assert "map50" in run("fit-heads", file, "--epochs", 2, "--no-report")
    heads = file.with_suffix(".heads")
    out = folder / "verbs.keras"
    assert "Parity: same" in run("stitch", heads, "--out", out)
    assert run("stitch", heads, "--out", out).startswith("Found")
    coco, table = folder / "found.json", folder / "found.csv"
    run(
        "predict", out, place / "in/00.png", place / "in/01.png", "--out", coco, "--min-score", 0.01
    )
    run("predict", out, place / "in/00.png", "--out", table, "--min-score", 0.01)
    found = json.loads(coco.read_text())
    assert [one["file_name"] for one in found["images"]] == [
        str(place / "in/00.png"),
        str(place / "in/01.png"),
    ]
    assert {one["image_id"] for one in found["annotations"]} <= {1, 2}
    assert [one["name"] for one in found["categories"]] == ["brick", "leaf"]
    with table.open() as opened:
        rows = list(csv.DictReader(opened))
    assert set(rows[0]) == {"path", "label", "score", "x", "y", "width", "height", "error"}
    assert json.loads(run("evaluate", out, "--json"))["n_images"] == 12
    said = json.loads(run("info", out, "--json"))
    assert said["task"] == "detection"
    assert json.loads(run("info", file, "--json"))["classes"].keys() == {"brick", "leaf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "MODEL", "x.png", "--top", 2], "--top means nothing for boxes; leave it out"),
        (["evaluate", "MODEL", "--assert-accuracy-at-least", 1], "accuracy-at-least means nothing"),
        (["export", "MODEL", "--format", "tflite"], "A detector is exported as onnx; got tflite"),
    ],
)
def test_what_means_nothing_for_boxes_is_said(arguments, message, model):
    with pytest.raises(SpecError, match=message):
        run(*(model if one == "MODEL" else one for one in arguments))


def test_who_knows_no_boxes_says_who_does(model):
    out = model.with_name("tuned.keras")
    for ask in (fc.load, fc.evaluate, lambda path: fc.finetune(path, out=out)):
        with pytest.raises(SpecError, match=r"finds boxes. Load it by load_detector"):
            ask(model)


def test_the_page_is_whole_and_loads_nothing(fitted):
    text = (fitted.folder / detector.PAGE_FILE).read_text()
    assert "Where it is wrong" in text
    assert f"{fitted.test.map50:.3f}" in text
    assert text.count("<svg viewBox") >= 1
    for place in re.findall(r'(?:src|href)="([^"]*)"', text.replace(plotlyjs(), "")):
        assert place.startswith(("#", "data:"))


def test_features_that_are_no_maps_of_boxes_are_refused(features, photos, extract, tmp_path):
    with pytest.raises(HeadError, match="has no boxes; its task is classification"):
        fc.fit_detector(extract(photos).features)
    path = make_images(tmp_path / "in", 6)
    with pytest.raises(HeadError, match="has vectors, which do not say where something is"):
        fc.fit_detector(extract(path).features)
    cropped = extract(path, pooling="none", views=2, augment="crop").features
    with pytest.raises(HeadError, match="has cropped images, and boxes do not follow them"):
        fc.fit_detector(cropped)
    one, other = (
        extract(path, pooling="none", layer=name).features for name in ("relu_1", "relu_2")
    )
    with pytest.raises(HeadError, match="A map of 15 x 15 cells does not fit one of 7 x 7"):
        fc.fit_detector([one, other], epochs=1)
    with pytest.raises(HeadError, match="are not of the same images, boxes and network"):
        fc.fit_detector([features, one])
    with pytest.raises(SpecError, match="fit_detector knows no 'epoch'"):
        fc.fit_detector(one, epoch=1)


def test_fit_heads_says_who_learns_boxes(features):
    with pytest.raises(HeadError, match="fit_detector"):
        fc.fit_heads(features)
