from __future__ import annotations

import zipfile

import numpy as np
import pytest

from featcache.core.tensorflow import import_keras
from featcache.networks import backbones

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet50():
    return backbones.resolve("resnet50", weights="random")


@pytest.fixture(scope="module")
def mobilenet():
    return backbones.resolve("mobilenet-v2", weights="random", image_size=64)


# Of files that were extracted before there were providers: they must be found again.
@pytest.mark.slow
def test_fingerprints_of_efficientnet_lite0():
    default = backbones.resolve().spec
    assert default.short_name == "efficientnet-lite0-189be3c5"
    assert default.weights == "0a19cb5b4a1686334a1c57c03f577f9d"
    assert default.fingerprint == "189be3c5407c77ee3519128b116d169b"
    smaller = backbones.resolve("efficientnet-lite0", image_size=160).spec
    assert smaller.fingerprint == "f16b51f1bc03ec7a02dbf80518d5c05a"
    drawn = backbones.resolve("efficientnet-lite0", weights="random", image_size=(96, 128)).spec
    assert drawn.weights == "4ce1bcaac5984c9788c91b4b90f75ecd"
    assert drawn.fingerprint == "d0dcc50c5da6bd046dc151dc1bd12977"


@pytest.mark.slow
def test_fingerprints_of_keras_applications(resnet50, mobilenet):
    assert resnet50.spec.weights == "7dd21283b6f4a87f7ac8f221d822eba0"
    assert resnet50.spec.fingerprint == "87e8e10f9a92aa461003de1ad6387768"
    assert mobilenet.spec.weights == "2d1fdd28094843df18c8efc5f2adf565"
    for name, weights, fingerprint in (
        ("densenet121", "de7611d89caa7e6b73dbdd1f0986d946", "58e40b84b8e524e93855fd65b6d997ae"),
        ("efficientnet-b0", "d4d5a4d147b4f42065a9b078290ed68b", "7fbcc91f3b18330804e9d3521ce5d56d"),
    ):
        spec = backbones.resolve(name, weights="random", image_size=64).spec
        assert (spec.weights, spec.fingerprint) == (weights, fingerprint)


def test_fingerprints_of_files(tmp_path):
    """The bytes of a file are its identity, and are not even read by Keras."""
    weights, model = tmp_path / "a.weights.h5", tmp_path / "own.keras"
    weights.write_bytes(b"weights")
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr(
            zipfile.ZipInfo("config.json"),
            '{"config": {"layers": [{"config": {"batch_shape": [null, 48, 32, 3]}}]}}',
        )
    of_weights = backbones.resolve("mobilenet-v2", weights=str(weights), image_size=96).spec
    assert of_weights.weights == "873ac3c6df553eaa62331fd4ff9b521a"
    assert of_weights.fingerprint == "167a1304511ffbdc262c440b16f18fe8"
    of_model = backbones.resolve(weights=str(model)).spec
    assert of_model.image_size == (48, 32)
    assert of_model.fingerprint == "f07b8bee6740c8d7d8a75768305817b0"


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "trainable"), [((), 8_196), ((256,), 525_572)])
def test_trainable_parameters_on_resnet50(resnet50, hidden, trainable):
    keras = import_keras()
    extractor = backbones.frozen_extractor(resnet50.backbone, resnet50.spec)
    x = extractor.output
    for units in hidden:
        x = keras.layers.Dense(units)(x)
    model = keras.Model(extractor.input, keras.layers.Dense(4)(x))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == trainable


@pytest.mark.slow
def test_features_equal_keras_by_hand(mobilenet):
    extractor = backbones.frozen_extractor(mobilenet.backbone, mobilenet.spec)
    pixels = PIXELS.repeat(2, axis=1).repeat(2, axis=2)[:, :64, :64]
    scaled = import_keras().applications.mobilenet_v2.preprocess_input(pixels.copy())
    by_hand = mobilenet.backbone(scaled, training=False).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(extractor(pixels), by_hand, rtol=1e-4, atol=1e-4)


def test_uint8_and_float_images_give_the_same(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone))
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    extractor = backbones.frozen_extractor(backbone, resolved.spec)
    pixels = PIXELS[:, :32, :32]
    np.testing.assert_array_equal(
        extractor.predict(pixels.astype(np.uint8), verbose=0), extractor.predict(pixels, verbose=0)
    )
