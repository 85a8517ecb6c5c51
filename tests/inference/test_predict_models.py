"""Which model predicts: whole or its head alone, on which runtime, and what cannot be used."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from conftest import make_image, parse_single_json

import featcache as fc
from featcache.core.errors import SpecError, StitchError
from featcache.core.tensorflow import import_keras
from featcache.inference.predict import known
from featcache.models import card

NO_CACHE = {"cache_dir": None}


@pytest.fixture
def model_path(lent_models, tmp_path):
    return lent_models(tmp_path / "m.keras")


def run(path, what, load=NO_CACHE, **options):
    return fc.load(path, **load).predict(what, show_progress=False, **options)


def test_known_images_need_no_backbone(model_path, photos, extract, tmp_path, images_run, capfd):
    extract(photos)
    images_run.clear()
    shutil.copytree(photos, tmp_path / "elsewhere")
    known = run(model_path, tmp_path / "elsewhere", {"cache_dir": tmp_path / "cache"}, top=3)
    assert images_run == []
    assert [one.from_cache for one in known] == [True] * 21
    computed = run(
        model_path,
        tmp_path / "elsewhere",
        {"cache_dir": tmp_path / "cache"},
        top=3,
        use_cache=False,
    )
    assert sum(images_run) == 21
    for one, other in zip(known, computed, strict=True):
        assert one == dataclasses.replace(other, scores=one.scores)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)


def test_only_unknown_images_are_computed(model_path, photos, extract, cli, images_run):
    features = extract(photos).features
    images_run.clear()
    make_image(photos / "pear" / "new.png", (9, 200, 9), 77, (50, 40))
    (photos / "pear" / "bad.png").write_bytes(b"x")
    done = cli("predict", "m.keras", photos, "--features", "--json")
    assert images_run == [1]
    found = parse_single_json(done.stdout)
    assert (found["images"], found["from_cache"], found["unreadable"]) == (23, 21, 1)
    assert "Took the features of 21 of 23 images from the cache.\n" in done.stderr
    by_path = {one["path"]: one for one in found["predictions"]}
    for id_, row in zip(features.ids, features.X, strict=True):
        np.testing.assert_array_equal(np.float32(by_path[str(photos / id_)]["features"]), row)
    assert len(by_path[str(photos / "pear" / "new.png")]["features"]) == 12
    done = cli("predict", "m.keras", photos, "--no-cache", "--json")
    assert (sum(images_run), parse_single_json(done.stdout)["from_cache"]) == (1 + 22, 0)


def changed(path, **values):
    """Edit a card of before cards had a digest."""
    file = card.path_of(path)
    saved = json.loads(file.read_text()) | values
    del saved["digest"]
    file.write_text(json.dumps(saved))


@pytest.mark.parametrize(
    "change",
    [
        *({"class_names": ["quince", "pear", "apple"]}, {"output": "scores"}, {"max_pixels": 9}),
        *({"calibration": {"name": "temperature"}}, {"finetuned": {"changed": []}}),
        *({"task": "multi-label"}, {"head": "lda"}, {"params": {"C": 2.0}}, {"model_digest": ""}),
    ],
)
def test_a_card_that_was_edited_is_not_believed(model_path, change):
    file = card.path_of(model_path)
    saved = json.loads(file.read_text())
    file.write_text(json.dumps(saved | change))
    with pytest.raises(StitchError, match=r"m\.json' was changed since its model was made"):
        card.read(model_path)
    file.write_text(json.dumps(saved | {"source": "/elsewhere", "provenance": None}))
    assert card.read(model_path).source == "/elsewhere"  # where things lie is no matter


def test_a_card_without_a_digest_is_of_before_and_its_spec_has_one(model_path):
    before = card.read(model_path)
    changed(model_path)
    assert card.read(model_path) == before
    changed_spec = before.spec.to_dict() | {"background": "#ff0000"}
    card.path_of(model_path).write_text(
        json.dumps(json.loads(card.path_of(model_path).read_text()) | {"spec": changed_spec})
    )
    with pytest.raises(StitchError, match="was changed since its model was made"):
        card.read(model_path)


def test_rows_of_other_numbers_are_never_taken(
    model_path, tiny_backbone, photos, extract, tmp_path, images_run
):
    extract(photos, pooling="max")
    extract(photos, dtype="float16")
    with_cache = {"cache_dir": tmp_path / "cache"}
    assert not any(one.from_cache for one in run(model_path, photos, with_cache))
    extract(photos)
    assert all(one.from_cache for one in run(model_path, photos, with_cache))
    changed(model_path, finetuned={"changed": []})
    assert not any(one.from_cache for one in run(model_path, photos, with_cache))


def test_what_a_model_must_be_to_take_cached_features(model_path):
    described = card.read(model_path)
    halves = dataclasses.replace(described.spec, dtype="float16")
    other = dataclasses.replace(described.spec, precision="bfloat16")
    for values, can in (
        ({}, True),
        ({"spec": halves}, True),
        ({"spec": other}, False),
        ({"finetuned": {"changed": []}}, False),
        ({"model_digest": ""}, False),
    ):
        assert known.can_be_used(dataclasses.replace(described, **values)) is can


def test_a_damaged_file_of_features_is_passed_over(model_path, photos, extract, tmp_path, capfd):
    path = extract(photos).features.path
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)
    found = run(model_path, photos, {"cache_dir": tmp_path / "cache"})
    assert not any(one.from_cache for one in found)
    assert found == run(model_path, photos)
    assert "Passed over a file of cached features" in capfd.readouterr().err


def without_card(path):
    card.path_of(path).unlink()


def damaged_card(path):
    card.path_of(path).write_text("{")


def retrained(path):
    model = import_keras().models.load_model(path)
    model.layers[-1].set_weights([w + 1 for w in model.layers[-1].get_weights()])
    model.save(path)


def folder(path):
    path.unlink()
    path.mkdir()


def of_nobody(path, data):
    """Another file under a card that does not say which one it must be."""
    path.write_bytes(data)
    changed(path, model_digest="")


def cut_off(path):
    of_nobody(path, path.read_bytes()[:-100])


def with_own_layer(path):
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = files["config.json"].decode().replace('"class_name": "Dense"', '"class_name": "Mine"')
    files["config.json"] = config.replace('"keras.layers"', '"mine"').encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    of_nobody(path, made.getvalue())


def with_lambda(path):
    keras = import_keras()
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(path)
    of_nobody(path, path.read_bytes())


def of_other_shape(path):
    keras = import_keras()
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(path)
    of_nobody(path, path.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (folder, "is a folder"),
        (without_card, "has no card 'm.json'"),
        (damaged_card, "is damaged"),
        (lambda path: changed(path, class_names=["a", "b"]), "do not belong together"),
        (lambda path: changed(path, card_version=9), "has version 9"),
        (lambda path: changed(path, source=5), "source is no str"),
        (lambda path: changed(path, class_names=["a", "b", "a"]), "has a name twice"),
        (lambda path: changed(path, seed=-1), "seed"),
        (lambda path: changed(path, source_options={"root": 3}), "source_options are no texts"),
        (retrained, "is not the file that its card 'm.json' describes"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is not the file that its card"),
        (lambda path: of_nobody(path, b"hello"), "cannot be loaded"),
        (lambda path: of_nobody(path, b""), "cannot be loaded"),
        (cut_off, "cannot be loaded"),
        (with_own_layer, "cannot be loaded"),
        (with_lambda, "cannot be loaded"),
        (of_other_shape, "do not belong together"),
    ],
)
def test_models_that_cannot_be_used(model_path, damage, message):
    damage(model_path)
    with pytest.raises(StitchError, match=message) as caught:
        fc.load(model_path)
    assert "\n" not in str(caught.value)


def test_every_runtime_predicts_the_same(model_path, photos):
    one, other = (
        run(model_path, photos, {"runtime": name, **NO_CACHE})
        for name in ("openvino", "tensorflow")
    )
    assert [each.classes for each in one] == [each.classes for each in other]
    np.testing.assert_allclose(
        [each.scores for each in one], [each.scores for each in other], rtol=1e-4
    )
    with pytest.raises(SpecError, match="runtime must be one of auto, tensorflow, openvino"):
        fc.load(model_path, runtime="torch")


def test_a_converted_model_is_kept_where_there_is_a_cache(model_path, photos, tmp_path):
    run(model_path, photos, {"runtime": "openvino", "cache_dir": tmp_path / "nowhere"})
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "cache").mkdir()
    run(model_path, photos, {"runtime": "openvino", "cache_dir": tmp_path / "cache"})
    digest = card.read(model_path).model_digest
    assert list((tmp_path / "cache" / ".models" / digest).glob("*/model.xml"))


def test_the_first_images_are_compared_with_keras_once(model_path, photos, monkeypatch):
    from featcache.networks import engines

    compared = []
    agree = engines.agree
    monkeypatch.setattr(engines, "agree", lambda *args: compared.append(1) or agree(*args))
    model = fc.load(model_path, **NO_CACHE)
    for _ in range(2):
        assert len(model.predict(photos, show_progress=False)) == 21
    assert len(compared) == 1
