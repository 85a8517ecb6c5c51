from __future__ import annotations

import numpy as np
import pytest

from featcache.core.errors import SpecError
from featcache.networks import backbones

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def backbone(tiny_backbone):
    return backbones.build("tiny.keras", str(tiny_backbone), (32, 32))


@pytest.mark.parametrize(("pooling", "n_features"), [("avg", 12), ("max", 12), ("flatten", 588)])
def test_pooling(tiny_backbone, backbone, pooling, n_features):
    resolved = backbones.resolve(weights=str(tiny_backbone), pooling=pooling)
    feature_map = backbone(PIXELS, training=False).numpy()
    features = backbones.frozen_extractor(backbone, resolved.spec)(PIXELS).numpy()
    assert features.shape == (2, n_features)
    expected = {
        "avg": feature_map.mean(axis=(1, 2)),
        "max": feature_map.max(axis=(1, 2)),
        "flatten": feature_map.reshape(2, -1),
    }
    np.testing.assert_allclose(features, expected[pooling], rtol=1e-5, atol=1e-6)


def test_tapped_layer(tiny_backbone, backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="relu_1")
    assert backbones.frozen_extractor(backbone, resolved.spec).output_shape == (None, 8)


def test_nothing_in_an_extractor_is_trainable(tiny_backbone, backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="bn_2")
    assert backbones.frozen_extractor(backbone, resolved.spec).trainable_variables == []


def test_unknown_layer_names_the_nearest(tiny_backbone, backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone), layer="relu_3")
    with pytest.raises(SpecError, match=r"no layer 'relu_3'. Nearest: relu_2"):
        backbones.frozen_extractor(backbone, resolved.spec)
