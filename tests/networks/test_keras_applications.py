from __future__ import annotations

import pytest

from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.networks import backbones, registry
from featcache.networks.providers import keras_applications

SEEDS = ("resnet50", "vgg16", "mobilenet-v2", "inception-v3", "efficientnet-b0")


def test_all_of_keras_applications_is_there():
    applications = import_keras().applications
    offered = {name for name in dir(applications) if name[0].isupper()}
    assert set(keras_applications.FACTORIES.values()) == offered


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_default_size_is_the_networks_own(name):
    entry = registry.find(name)
    factory = getattr(import_keras().applications, keras_applications.FACTORIES[name])
    with_top = factory(weights=None, include_top=True)
    assert with_top.input_shape[1] == entry.image_size


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
