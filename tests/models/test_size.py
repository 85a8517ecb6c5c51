from __future__ import annotations

import keras
import numpy as np
import pytest

from featcache.models import stitching


def stitched(n_classes, backbone, hidden=0):
    """A model in the shape of stitched ones: a nested backbone, pooling, a head."""
    images = keras.Input((64, 64, 3))
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(backbone(images))
    x = keras.layers.Normalization(mean=np.zeros(x.shape[1]), variance=np.ones(x.shape[1]))(x)
    if hidden:
        x = keras.layers.Dense(hidden, activation="relu")(x)
    return keras.Model(images, keras.layers.Dense(n_classes)(x))


def small():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Conv2D(16, 1, use_bias=False)(x))


@pytest.mark.slow
def test_of_resnet50_as_the_textbooks_have_it():
    backbone = keras.applications.ResNet50(include_top=False, weights=None)
    for hidden, expected in ((0, 8_196), (256, 525_572)):
        size = stitching.size_of(stitched(4, backbone, hidden))
        assert (size.backbone_layers, size.backbone_parameters) == (175, 23_587_712)
        assert size.head_parameters == expected


def test_multiply_adds_by_hand():
    """The stride halves the first convolution's places; each later one runs at 16 x 16."""
    convolution, depthwise, pointwise = 16**2 * 9 * 3 * 8, 16**2 * 9 * 8, 16**2 * 8 * 16
    assert stitching.multiply_adds(small()) == convolution + depthwise + pointwise
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.GlobalMaxPooling2D()(small()(keras.layers.Resizing(32, 32)(inputs)))
    nested = keras.Model(inputs, keras.layers.Dense(5)(x))
    assert stitching.multiply_adds(nested) == convolution + depthwise + pointwise + 16 * 5


def test_weights_that_are_shared_count_once():
    dense = keras.layers.Dense(4)
    dense.build((None, 4))
    assert stitching.n_parameters([*dense.weights, *dense.weights]) == 20


def test_of_a_network_of_any_size_it_is_not_known():
    """Its layers do not say at how many positions they run; one each would be far too few."""
    images = keras.Input((None, None, 3))
    anywhere = keras.Model(images, keras.layers.Conv2D(4, 3)(images))
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalMaxPooling2D()(anywhere(inputs))
    assert stitching.multiply_adds(keras.Model(inputs, keras.layers.Dense(5)(x))) is None
