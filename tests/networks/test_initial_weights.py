from __future__ import annotations

import numpy as np
import pytest

from featcache.core.errors import BackboneError, SpecError
from featcache.networks import backbones

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mobilenet():
    """MobileNetV2 at 96 pixels, drawn, with its spec."""
    return backbones.resolve("mobilenet-v2", weights="random", image_size=96)


def test_random_weights_are_the_same_every_time(mobilenet):
    again = backbones.resolve("mobilenet-v2", weights="random", image_size=96)
    assert mobilenet.spec == again.spec


def test_a_file_of_weights_is_loaded_and_is_part_of_the_fingerprint(mobilenet, tmp_path):
    array = mobilenet.backbone.weights[0]
    before = array.numpy()
    array.assign(before + 1)
    file = tmp_path / "mine.weights.h5"
    mobilenet.backbone.save_weights(file)
    array.assign(before)
    other = backbones.resolve("mobilenet-v2", weights=str(file), image_size=96)
    assert other.spec.fingerprint != mobilenet.spec.fingerprint
    loaded = backbones.build("mobilenet-v2", str(file), (96, 96))
    np.testing.assert_array_equal(loaded.get_weights()[0], before + 1)


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
