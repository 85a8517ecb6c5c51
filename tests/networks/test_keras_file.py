from __future__ import annotations

import pytest

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks import backbones


def test_own_keras_file_brings_its_name_and_size(tiny_backbone):
    spec = backbones.resolve(weights=str(tiny_backbone)).spec
    assert (spec.backbone, spec.image_size) == ("tiny.keras", (32, 32))
    assert spec.preprocessing == "included"


def test_a_spec_of_a_file_is_resolved_again(tiny_backbone):
    first = backbones.resolve(weights=str(tiny_backbone), layer="relu_1", pooling="max")
    name, options = backbones.options_of(first.spec, first.weights)
    assert name is None
    assert backbones.resolve(name, **options) == first


def test_grey_backbones_are_refused(tmp_path):
    keras = import_keras()
    inputs = keras.Input((16, 16, 1))
    keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)).save(tmp_path / "grey.keras")
    with pytest.raises(BackboneError, match=r"1 channel\(s\); 3 \(RGB\)"):
        backbones.resolve(weights=str(tmp_path / "grey.keras"))
