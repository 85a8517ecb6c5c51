"""Views of an image: the clean one, number 0, and augmented ones, each the same every time.

What is random in a view is drawn from a digest of the image and the view's number, never from a
generator: it does not depend on the order of the images, the number of views, the machine or a
library's version. So a view that was computed can be found again by its key.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from featcache.core.tensorflow import import_tensorflow

N_DRAWS = 8  # uniform numbers a view: 0 flip; 1 to 4 crop; 5 to 7 color
CROP_AREA = (0.5, 1.0)  # share of the image that a crop keeps
CROP_ASPECT = (3 / 4, 4 / 3)  # of a crop, relative to the image's own
COLOR_STRENGTH = 0.3  # brightness, contrast and saturation change by up to this factor


def draws(digest: np.ndarray, views: tuple[int, ...]) -> np.ndarray:
    """Return (len(views), N_DRAWS) float32 in [0, 1), from an image's digest (16,) uint8."""
    numbers = [
        np.frombuffer(
            hashlib.blake2b(
                digest.tobytes() + view.to_bytes(8, "little"), digest_size=4 * N_DRAWS
            ).digest(),
            "<u4",
        )
        for view in views
    ]
    # 24 bits are what a float32 below 1 holds exactly
    return np.asarray((np.stack(numbers) >> 8) / np.float32(1 << 24), np.float32)


def crop(image: Any, drawn: Any) -> Any:
    """Return a random part of a TensorFlow image (height, width, 3), of 0.5 to 1 of its area.

    As in Szegedy et al. (2015), "Going deeper with convolutions", with gentler bounds: a frozen
    backbone cannot get used to slivers.
    """
    tf = import_tensorflow()
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    area = CROP_AREA[0] + drawn[1] * (CROP_AREA[1] - CROP_AREA[0])
    low, high = np.log(CROP_ASPECT).astype(np.float32)
    aspect = tf.exp(low + drawn[2] * (high - low))
    share = tf.minimum(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)]), 1.0)
    size = tf.maximum(tf.round(share * shape), 1.0)
    offset = tf.floor(drawn[3:5] * (shape - size + 1.0))
    offset, size = (tf.cast(pair, tf.int32) for pair in (offset, size))
    return image[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]


def flip(image: Any, drawn: Any) -> Any:
    """Return a TensorFlow image mirrored left to right, every second time."""
    tf = import_tensorflow()
    return tf.where(drawn[0] < 0.5, tf.reverse(image, [1]), image)


def color(image: Any, drawn: Any) -> Any:
    """Return a TensorFlow image, float 0 to 255, of other brightness, contrast and saturation."""
    tf = import_tensorflow()
    factors = 1.0 + COLOR_STRENGTH * (2.0 * drawn[5:8] - 1.0)
    image = tf.clip_by_value(image * factors[0], 0.0, 255.0)
    grey = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
    mean = tf.reduce_mean(grey)
    image = tf.clip_by_value(mean + factors[1] * (image - mean), 0.0, 255.0)
    grey = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
    return tf.clip_by_value(grey + factors[2] * (image - grey), 0.0, 255.0)
