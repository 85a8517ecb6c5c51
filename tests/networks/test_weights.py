from __future__ import annotations

import os

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks import backbones
from featcache.networks.engines import tensorflow
from featcache.networks.providers import keras_model


def test_weights_are_part_of_the_fingerprint(tmp_path, two_backbones):
    resolved = backbones.resolve("small-5", weights="random")
    file = tmp_path / "same.weights.h5"
    resolved.backbone.save_weights(file)
    assert backbones.resolve("small-5", weights="random").spec == resolved.spec
    of_file = backbones.resolve("small-5", weights=str(file))
    assert of_file.spec.fingerprint != resolved.spec.fingerprint


def test_a_second_resolve_builds_nothing(tmp_path, two_backbones):
    memo = tmp_path / "memo.json"
    first = backbones.resolve("small-5", weights="random", memo=memo)
    second = backbones.resolve("small-5", weights="random", memo=memo)
    assert first.backbone is not None
    assert second.backbone is None
    assert first.spec == second.spec


def test_a_folder_called_random_does_not_mix_up_the_memo(tmp_path, monkeypatch, two_backbones):
    (tmp_path / "random").mkdir()
    monkeypatch.chdir(tmp_path)
    memo = tmp_path / "memo.json"
    first, second = (
        backbones.resolve(name, weights="random", image_size=32, memo=memo)
        for name in two_backbones
    )
    assert first.spec.weights != second.spec.weights


def test_another_weights_file_of_the_same_size_and_time_is_seen(tmp_path, tiny_backbone):
    memo, path, new = tmp_path / "memo.json", tmp_path / "w.keras", tmp_path / "new"
    first = path.write_bytes(tiny_backbone.read_bytes()) and backbones.resolve(
        weights=str(path), memo=memo
    )
    new.write_bytes(path.read_bytes()[:-1] + b"x")
    then = path.stat()
    os.utime(new, ns=(then.st_mtime_ns, then.st_mtime_ns))
    new.replace(path)
    assert path.stat().st_size == then.st_size
    second = backbones.resolve(weights=str(path), memo=memo)
    assert second.spec.weights != first.spec.weights


def test_a_damaged_memo_is_no_obstacle(tmp_path, tiny_backbone):
    memo = tmp_path / "memo.json"
    memo.write_text("{")
    first = backbones.resolve(weights=str(tiny_backbone), memo=memo)
    assert first.spec == backbones.resolve(weights=str(tiny_backbone), memo=memo).spec


def test_a_copy_has_what_layers_were_adapted_to():
    keras = import_keras()
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    normalization = keras.layers.Normalization()
    normalization.adapt(images)
    inner = keras.Input((8, 8, 3))
    body = keras.Model(inner, keras.ops.multiply(keras.layers.Conv2D(2, 3)(inner), 2.0))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, body(normalization(inputs)), name="adapted")
    expected = np.asarray(model(images))
    np.testing.assert_array_equal(keras_model.copy_of(model)(images), expected)
    lower = tensorflow.in_precision(model, "bfloat16")(images)  # the function included
    np.testing.assert_allclose(np.asarray(lower, np.float32), expected, atol=0.1)
