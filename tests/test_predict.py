from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import featcache as fc
from featcache import card, predict, quiet
from featcache.errors import SourceError, SpecError, StitchError


@pytest.fixture
def model_path(photos, extract, tmp_path):
    board = fc.fit_heads(
        extract(photos).features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False
    )
    fc.stitch(board.best, tmp_path / "m.keras", show_progress=False)
    return tmp_path / "m.keras"


def test_predictions_are_those_of_the_head(model_path, photos, tmp_path):
    features = fc.Features(next(tmp_path.glob("cache/*/*.h5")))
    from featcache import leaderboard

    head = leaderboard.load(features.path.with_suffix(".heads")).best.head
    predictions = fc.load(model_path).predict(photos, top=3, show_progress=False)
    assert [one.path for one in predictions] == [str(photos / id_) for id_ in features.ids]
    expected = head.outputs(features.X)
    for one, row in zip(predictions, expected, strict=True):
        order = np.argsort(-row)
        assert one.classes == tuple(features.class_names[label] for label in order)
        np.testing.assert_allclose(one.scores, row[order], rtol=1e-4, atol=1e-5)


def test_unreadable_files_keep_their_line(model_path, photos, tmp_path):
    (photos / "pear" / "pear ü3.png").write_bytes(b"broken")
    predictions = fc.load(model_path).predict([photos / "pear"], show_progress=False)
    assert [bool(one.error) for one in predictions] == [
        one.path.endswith("ü3.png") for one in predictions
    ]
    predict.write_csv(predictions, tmp_path / "out.csv", top=2)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "class", "score", "class_2", "score_2"]
    assert [len(row) for row in rows] == [5] * 8
    bad = next(row for row in rows if row[0].endswith("ü3.png"))
    assert bad[1:] == [""] * 4


def test_top_beyond_the_classes_gives_them_all(model_path, photos):
    path = photos / "pear" / "pear ü1.jpg"
    (one,) = fc.load(model_path).predict(path, top=9, show_progress=False)
    assert len(one.classes) == 3
    assert sum(one.scores) == pytest.approx(1)


def test_bad_requests(model_path, photos, tmp_path):
    model = fc.load(model_path)
    with pytest.raises(SpecError, match="top must be 1 or more"):
        model.predict(photos, top=0)
    with pytest.raises(SourceError, match="nowhere"):
        model.predict(tmp_path / "nowhere.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images"):
        model.predict(tmp_path / "empty")
    (tmp_path / "empty" / "x.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match="None of the 1 images could be read"):
        model.predict(tmp_path / "empty")


def without_card(path):
    card.path_of(path).unlink()


def damaged_card(path):
    card.path_of(path).write_text("{")


def other_card(path):
    values = json.loads(card.path_of(path).read_text())
    values["class_names"] = values["class_names"][:2]
    card.path_of(path).write_text(json.dumps(values))


def newer_card(path):
    values = json.loads(card.path_of(path).read_text())
    values["card_version"] = 9
    card.path_of(path).write_text(json.dumps(values))


def odd_card(path):
    values = json.loads(card.path_of(path).read_text())
    card.path_of(path).write_text(json.dumps(values | {"source": 5}))


def retrained(path):
    model = quiet.keras().models.load_model(path)
    model.layers[-2].set_weights([w + 1 for w in model.layers[-2].get_weights()])
    model.save(path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (without_card, "has no card 'm.json'"),
        (damaged_card, "is damaged"),
        (other_card, "do not belong together"),
        (newer_card, "has version 9"),
        (odd_card, "source is no str"),
        (retrained, "is not the file that its card 'm.json' describes"),
        (truncated, "is not the file that its card"),
    ],
)
def test_models_that_cannot_be_used(model_path, damage, message):
    damage(model_path)
    with pytest.raises(StitchError, match=message) as caught:
        fc.load(model_path)
    assert "\n" not in str(caught.value)


def test_every_runtime_predicts_the_same(model_path, photos):
    by = {
        name: fc.load(model_path, runtime=name).predict(photos, show_progress=False)
        for name in ("openvino", "tensorflow")
    }
    for one, other in zip(by["openvino"], by["tensorflow"], strict=True):
        assert (one.path, one.classes) == (other.path, other.classes)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
    with pytest.raises(SpecError, match="runtime must be one of auto, tensorflow, openvino"):
        fc.load(model_path, runtime="torch")


def test_a_converted_model_is_kept_where_there_is_a_cache(model_path, photos, tmp_path):
    fc.load(model_path, runtime="openvino", cache_dir=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    fc.load(model_path, runtime="openvino", cache_dir=tmp_path / "cache")
    digest = card.read(model_path).model_digest
    assert list((tmp_path / "cache" / ".models" / digest).glob("*/model.xml"))


def test_the_first_images_are_compared_with_keras_once(model_path, photos, monkeypatch):
    from featcache import runtime

    compared = []
    agree = runtime.agree
    monkeypatch.setattr(runtime, "agree", lambda *args: compared.append(1) or agree(*args))
    model = fc.load(model_path)
    for _ in range(2):
        assert len(model.predict(photos, show_progress=False)) == 21
    assert len(compared) == 1
