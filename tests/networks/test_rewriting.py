from __future__ import annotations

import numpy as np
import pytest

from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras
from featcache.networks import backbones, registry, rewriting
from featcache.networks.weights import digest_of


@pytest.fixture(scope="module")
def convnext():
    """keras.applications' ConvNeXt with few layers, its weights drawn."""
    from keras.src.applications.convnext import ConvNeXt

    model = ConvNeXt(
        depths=[1, 1, 1, 1],
        projection_dims=[8, 12, 16, 20],
        include_top=False,
        input_shape=(32, 32, 3),
        name="convnext_tiny",
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "normalization" not in weight.path:
            weight.assign(0.3 * rng.standard_normal(weight.shape) + (len(weight.shape) == 1))
    return model


@pytest.fixture
def images():
    return np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def kinds(model):
    return {type(layer).__name__ for layer in model._flatten_layers()}


def test_a_rewritten_network_has_the_same_numbers_names_and_weights(convnext, images):
    keras = import_keras()
    twin = rewriting.rewritten(convnext)
    assert [one.name for one in twin.layers] == [one.name for one in convnext.layers]
    assert "DepthwiseConv2D" in kinds(twin)
    assert not any(map(rewriting._is_slow, twin._flatten_layers()))
    for one, other in zip(twin.get_weights(), convnext.get_weights(), strict=True):
        np.testing.assert_array_equal(one.ravel(), other.ravel())
    names = [layer.name for layer in convnext.layers[3:]]
    for name in names:  # each can be tapped
        both = [keras.Model(one.inputs[0], one.get_layer(name).output) for one in (convnext, twin)]
        before, after = (np.asarray(one(images, training=False)) for one in both)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    assert rewriting.rewritten(twin) is twin


def test_groups_of_several_filters_and_strides_are_rewritten_exactly():
    keras = import_keras()
    inputs = keras.Input((9, 9, 4))
    conv = keras.layers.Conv2D(12, 3, 2, "same", groups=4, activation="relu", name="by_channel")
    apart = keras.layers.Conv2D(12, 3, groups=2, name="in_two")(conv(inputs))
    uneven = keras.layers.Conv2D(12, 1, (2, 1), groups=12, use_bias=False, name="uneven")(apart)
    model = keras.Model(inputs, uneven)
    twin = rewriting.rewritten(model)
    assert type(twin.get_layer("by_channel")) is keras.layers.DepthwiseConv2D
    assert type(twin.get_layer("in_two")) is type(twin.get_layer("uneven")) is keras.layers.Conv2D
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 4)).astype(np.float32)
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_network_without_slow_layers_is_left_alone(tiny_backbone):
    model = import_keras().saving.load_model(tiny_backbone)
    assert rewriting.rewritten(model) is model


@pytest.fixture
def convnext_tiny(convnext, monkeypatch):
    """The name convnext-tiny, which gives the small one."""

    def factory(**options):
        twin = import_keras().models.clone_model(convnext)
        if options["weights"] is None:
            twin.set_weights([np.zeros_like(one) + 1 for one in convnext.get_weights()])
        return twin

    monkeypatch.setattr(import_keras().applications, "ConvNeXtTiny", factory)
    return "convnext-tiny"


def test_what_identifies_a_network_is_as_it_was_before(convnext_tiny):
    resolved = backbones.resolve(convnext_tiny, weights="random", image_size=32)
    provider = registry.provider_of(convnext_tiny, "random")
    built = provider.build(convnext_tiny, "random", (32, 32))
    assert "DepthwiseConv2D" not in kinds(built)
    assert resolved.spec.weights == digest_of(built)
    assert "DepthwiseConv2D" in kinds(resolved.backbone)
    assert "DepthwiseConv2D" in kinds(backbones.build(convnext_tiny, "random", (32, 32)))


@pytest.mark.parametrize("kind", ["before.keras", "before.weights.h5", "after.keras"])
def test_weights_saved_before_and_after_load(kind, convnext, convnext_tiny, images, tmp_path):
    path = tmp_path / kind
    model = rewriting.rewritten(convnext) if kind.startswith("after") else convnext
    model.save_weights(path) if kind.endswith("h5") else model.save(path)
    found = backbones.build(convnext_tiny, str(path), (32, 32))
    np.testing.assert_allclose(found(images), convnext(images), rtol=1e-4, atol=1e-4)


def test_its_gelu_is_computed_with_lower_precision(convnext, images):
    from featcache.networks.engines import tensorflow

    spec = ExtractionSpec("convnext-tiny", "x", (32, 32), "included")
    model = backbones.frozen_extractor(rewriting.rewritten(convnext), spec)
    lower = np.asarray(tensorflow.in_precision(model, "bfloat16")(images), np.float32)
    whole = np.asarray(model(images))
    assert np.corrcoef(lower.ravel(), whole.ravel())[0, 1] > 0.999
