from __future__ import annotations

import importlib

import numpy as np
import pytest

from featcache.core.tensorflow import import_keras
from featcache.networks import registry
from featcache.networks.providers import keras_applications

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)


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
    # some networks take pixels as they are, and Keras 3.12 makes no model of inputs alone
    outputs = keras.layers.Identity()(registry.PREPROCESSING[entry.preprocessing](inputs))
    ours = keras.Model(inputs, outputs)(PIXELS)
    theirs = keras_module(keras_applications.FACTORIES[name]).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-5)
