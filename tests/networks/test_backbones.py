from __future__ import annotations

import importlib

import numpy as np
import pytest

from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.networks import backbones, registry
from featcache.networks.providers import keras_applications

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)
SEEDS = ("resnet50", "vgg16", "mobilenet-v2", "inception-v3", "efficientnet-b0")


def test_catalogue_has_all_of_keras_applications():
    applications = import_keras().applications
    offered = {name for name in dir(applications) if name[0].isupper()}
    assert set(keras_applications.FACTORIES.values()) == offered


def test_names_are_kebab_case():
    assert all(name == name.lower() and "_" not in name for name in registry.CATALOGUE)


def keras_module(factory):
    """The keras.applications module that holds a network and its preprocess_input."""
    applications = import_keras().applications
    for name in dir(applications):
        module = getattr(applications, name)
        if hasattr(module, "preprocess_input") and hasattr(module, factory):
            return module
    return importlib.import_module("keras.applications.mobilenet_v3")


@pytest.mark.parametrize("name", keras_applications.FACTORIES)
def test_preprocessing_equals_that_of_keras(name):
    entry = registry.find(name)
    keras = import_keras()
    inputs = keras.Input((40, 40, 3))
    ours = keras.Model(inputs, registry.PREPROCESSING[entry.preprocessing](inputs))(PIXELS)
    theirs = keras_module(keras_applications.FACTORIES[name]).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [
        ("resnet50", 175, 23_587_712),
        ("vgg16", 19, 14_714_688),
        ("mobilenet-v2", 154, 2_257_984),
        ("inception-v3", 311, 21_802_784),
    ],
)
def test_size_without_top(name, layers, parameters):
    size = registry.find(name).image_size
    backbone = backbones.build(name, "random", (size, size))
    assert len(backbone.layers) == layers
    assert backbone.count_params() == parameters


@pytest.mark.parametrize(("hidden", "trainable"), [((), 8_196), ((256,), 525_572)])
def test_trainable_parameters_on_resnet50(hidden, trainable):
    keras = import_keras()
    resolved = backbones.resolve("resnet50", weights="random")
    extractor = backbones.frozen_extractor(resolved.backbone, resolved.spec)
    x = extractor.output
    for units in hidden:
        x = keras.layers.Dense(units)(x)
    model = keras.Model(extractor.input, keras.layers.Dense(4)(x))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == trainable


@pytest.mark.parametrize("name", SEEDS)
def test_default_size_is_the_networks_own(name):
    entry = registry.find(name)
    factory = getattr(import_keras().applications, keras_applications.FACTORIES[name])
    with_top = factory(weights=None, include_top=True)
    assert with_top.input_shape[1] == entry.image_size


def test_features_equal_keras_by_hand():
    resolved = backbones.resolve("mobilenet-v2", weights="random", image_size=64)
    extractor = backbones.frozen_extractor(resolved.backbone, resolved.spec)
    pixels = PIXELS.repeat(2, axis=1).repeat(2, axis=2)[:, :64, :64]
    scaled = import_keras().applications.mobilenet_v2.preprocess_input(pixels.copy())
    by_hand = resolved.backbone(scaled, training=False).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(extractor(pixels), by_hand, rtol=1e-4, atol=1e-4)


def test_uint8_and_float_images_give_the_same(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone))
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    extractor = backbones.frozen_extractor(backbone, resolved.spec)
    pixels = PIXELS[:, :32, :32]
    np.testing.assert_array_equal(
        extractor.predict(pixels.astype(np.uint8), verbose=0), extractor.predict(pixels, verbose=0)
    )


def test_random_weights_are_the_same_every_time():
    first, second = (backbones.resolve("mobilenet-v2", weights="random") for _ in range(2))
    assert first.spec == second.spec


def test_weights_are_part_of_the_fingerprint(tmp_path):
    resolved = backbones.resolve("mobilenet-v2", weights="random", image_size=96)
    for array in resolved.backbone.weights[:1]:
        array.assign(array + 1)
    file = tmp_path / "mine.weights.h5"
    resolved.backbone.save_weights(file)
    other = backbones.resolve("mobilenet-v2", weights=str(file), image_size=96)
    assert other.spec.fingerprint != resolved.spec.fingerprint
    loaded = backbones.build("mobilenet-v2", str(file), (96, 96))
    np.testing.assert_array_equal(loaded.get_weights()[0], resolved.backbone.get_weights()[0])


def test_a_second_resolve_builds_nothing(tmp_path):
    memo = tmp_path / "memo.json"
    first = backbones.resolve("mobilenet-v2", weights="random", memo=memo)
    second = backbones.resolve("mobilenet-v2", weights="random", memo=memo)
    assert first.backbone is not None
    assert second.backbone is None
    assert first.spec == second.spec


def test_a_folder_called_random_does_not_mix_up_the_memo(tmp_path, monkeypatch):
    (tmp_path / "random").mkdir()
    monkeypatch.chdir(tmp_path)
    memo = tmp_path / "memo.json"
    first, second = (
        backbones.resolve(name, weights="random", image_size=32, memo=memo)
        for name in ("mobilenet-v2", "mobilenet")
    )
    assert first.spec.weights != second.spec.weights


def test_grey_backbones_are_refused(tmp_path):
    keras = import_keras()
    inputs = keras.Input((16, 16, 1))
    keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)).save(tmp_path / "grey.keras")
    with pytest.raises(BackboneError, match=r"1 channel\(s\); 3 \(RGB\)"):
        backbones.resolve(weights=str(tmp_path / "grey.keras"))


def test_a_damaged_memo_is_no_obstacle(tmp_path, tiny_backbone):
    memo = tmp_path / "memo.json"
    memo.write_text("{")
    first = backbones.resolve(weights=str(tiny_backbone), memo=memo)
    assert first.spec == backbones.resolve(weights=str(tiny_backbone), memo=memo).spec


def test_own_keras_file_brings_its_name_and_size(tiny_backbone):
    spec = backbones.resolve(weights=str(tiny_backbone)).spec
    assert (spec.backbone, spec.image_size) == ("tiny.keras", (32, 32))
    assert spec.preprocessing == "included"


@pytest.mark.parametrize(("pooling", "n_features"), [("avg", 12), ("max", 12), ("flatten", 588)])
def test_pooling(tiny_backbone, pooling, n_features):
    resolved = backbones.resolve(weights=str(tiny_backbone), pooling=pooling)
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    feature_map = backbone(PIXELS[:, :32, :32], training=False).numpy()
    features = backbones.frozen_extractor(backbone, resolved.spec)(PIXELS[:, :32, :32]).numpy()
    assert features.shape == (2, n_features)
    expected = {
        "avg": feature_map.mean(axis=(1, 2)),
        "max": feature_map.max(axis=(1, 2)),
        "flatten": feature_map.reshape(2, -1),
    }
    np.testing.assert_allclose(features, expected[pooling], rtol=1e-5, atol=1e-6)


def test_tapped_layer(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="relu_1")
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    assert backbones.frozen_extractor(backbone, resolved.spec).output_shape == (None, 8)


def test_nothing_in_an_extractor_is_trainable(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="bn_2")
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    assert backbones.frozen_extractor(backbone, resolved.spec).trainable_variables == []


def test_unknown_layer_names_the_nearest(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="relu_3")
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    with pytest.raises(SpecError, match=r"no layer 'relu_3'. Nearest: relu_2"):
        backbones.frozen_extractor(backbone, resolved.spec)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet", "resnet50"), ("MobileNetV2", "mobilenet"), ("xyzzy", "For")]
)
def test_unknown_name_says_the_nearest(name, nearest):
    with pytest.raises(SpecError, match=nearest):
        backbones.resolve(name)


def test_weights_of_another_architecture(tmp_path, tiny_backbone):
    file = tmp_path / "vgg.weights.h5"
    backbones.build("vgg16", "random", (32, 32)).save_weights(file)
    with pytest.raises(BackboneError, match=r"vgg\.weights\.h5' is not of mobilenet-v2"):
        backbones.build("mobilenet-v2", str(file), (96, 96))
    with pytest.raises(BackboneError, match="not of the architecture of mobilenet-v2"):
        backbones.build("mobilenet-v2", str(tiny_backbone), (96, 96))


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".pth"])
def test_a_file_that_holds_no_weights(tmp_path, suffix):
    file = tmp_path / f"notes{suffix}"
    file.write_text("hello")
    with pytest.raises(BackboneError, match="notes"):
        backbones.build("efficientnet-lite0", str(file), (64, 64))
    with pytest.raises(SpecError, match="there is no file"):
        backbones.resolve("vgg16", weights=str(tmp_path / "nowhere.h5"))


def test_no_network_says_where_to_put_the_file(monkeypatch):
    # what keras.utils.get_file raises when the host cannot be reached
    def unreachable(*args, **options):
        raise Exception(
            "URL fetch failure on https://host/a/vgg16_notop.h5: None -- Name or service not known"
        )

    monkeypatch.setattr(import_keras().applications, "VGG16", unreachable)
    with pytest.raises(BackboneError) as caught:
        backbones.resolve("vgg16")
    message = str(caught.value)
    assert "vgg16_notop.h5 into ~/.keras/models/" in message
    assert "efficientnet-lite0, which needs no download" in message


def test_too_small_an_image():
    with pytest.raises(SpecError, match="mobilenet-v2 does not take images of 8 x 8"):
        backbones.resolve("mobilenet-v2", weights="random", image_size=8)
