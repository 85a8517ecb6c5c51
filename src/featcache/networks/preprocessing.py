"""What networks expect instead of RGB from 0 to 255, as stock Keras layers that go into the model.

One preprocessing for every network is the classic silent mistake, so each entry of a provider
names its own. A scheme that only one family knows stands in that family's file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks.providers.base import Scheme

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, deviation of RGB/255
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def rescaled(scale: float, offset: float) -> Scheme:
    """Return the scheme `scale * pixels + offset`."""

    def scheme(x: Any) -> Any:
        return import_keras().layers.Rescaling(scale, offset=offset, name="preprocessing")(x)

    return scheme


def _torch(x: Any) -> Any:
    mean, deviation = (255.0 * np.array(values) for values in IMAGENET_STATISTICS)
    normalization = import_keras().layers.Normalization
    return normalization(mean=mean, variance=deviation**2, name="preprocessing")(x)


def _caffe(x: Any) -> Any:
    keras = import_keras()
    bgr = keras.ops.flip(x, axis=-1)
    normalization = keras.layers.Normalization
    return normalization(mean=CAFFE_MEAN_BGR, variance=(1.0,) * 3, name="preprocessing")(bgr)


# Names as in keras.applications. They are in fingerprints: a scheme that changes needs a new name.
COMMON: dict[str, Scheme] = {
    "tf": rescaled(1 / 127.5, -1.0),
    "torch": _torch,
    "caffe": _caffe,
    "included": lambda x: x,  # the network begins with its own preprocessing layers
}
