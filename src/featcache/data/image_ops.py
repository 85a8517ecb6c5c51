"""TensorFlow's operations on an image: decode a plain file, turn it upright, resize it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from featcache.core.geometry import GREY, LETTERBOX, NONE, Geometry
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import decoding

# libjpeg's transforms: the accurate one gives Pillow's pixels, the fast one is a level off
DCT = {"exact": "INTEGER_ACCURATE", "fast": "INTEGER_FAST"}


def resize(image: Any, geometry: Geometry) -> Any:
    """Return a TensorFlow image (height, width, 3) as float32 at the size of a geometry.

    Without a crop the aspect ratio is not kept, as in `keras.utils.image_dataset_from_directory`.
    "antialias" and "bicubic" have a wider filter when shrinking, as Pillow has.
    """
    tf = import_tensorflow()
    size, method, crop = geometry
    if method == LETTERBOX:
        return _letterboxed(
            image, geometry, lambda new: tf.image.resize(image, new, antialias=True)
        )
    if crop != NONE:
        image = _middle(image, geometry)
    elif method == "bicubic":
        image = tf.image.resize(image, size, "bicubic", antialias=True)
    else:
        return tf.image.resize(image, size, "bilinear", antialias=method == "antialias")
    return tf.clip_by_value(image, 0.0, 255.0)  # which cubic kernels overshoot


def _letterboxed(image: Any, geometry: Geometry, resized: Callable[[Any], Any]) -> Any:
    """Return an image at the size that `core.geometry.inside` says, with grey beside it."""
    tf = import_tensorflow()
    height, width = (tf.shape(image, tf.int64)[axis] for axis in (0, 1))
    high, wide = (tf.constant(side, tf.int64) for side in geometry.image_size)
    new = tf.stack(
        [
            tf.minimum(high, (2 * height * wide + width) // (2 * width)),
            tf.minimum(wide, (2 * width * high + height) // (2 * height)),
        ]
    )
    new = tf.cast(tf.maximum(new, 1), tf.int32)
    before = (geometry.image_size - new) // 2
    beside = tf.stack([before, geometry.image_size - new - before], axis=1)
    made = tf.pad(resized(new), tf.concat([beside, [[0, 0]]], 0), constant_values=float(GREY))
    return tf.clip_by_value(made, 0.0, 255.0)


def _middle(image: Any, geometry: Geometry) -> Any:
    """Return what the middle of an image is once all of it is resized: only that is computed."""
    scale, offset = _enlarged(image, geometry)
    return import_tensorflow().raw_ops.ScaleAndTranslate(
        images=image[None],
        size=geometry.image_size,
        scale=scale,
        translation=-offset,
        kernel_type="keyscubic" if geometry.resize == "bicubic" else "triangle",
        antialias=geometry.resize != "bilinear",
    )[0]


def _enlarged(image: Any, geometry: Geometry) -> tuple[Any, Any]:
    """Return (2,) what an image is enlarged by, rows and columns, and where the part begins then.

    Of a crop, the shorter side gets the size divided by the share, the longer one what keeps the
    proportions.
    """
    tf = import_tensorflow()
    wanted = np.array(geometry.image_size, np.float32)
    old = tf.cast(tf.shape(image)[:2], tf.float32)
    if geometry.crop == NONE:
        return wanted / old, np.zeros(2, np.float32)
    least = np.round(wanted / geometry.share)
    new = tf.maximum(tf.floor(old * tf.reduce_max(least / old) + 1e-3), least)
    return new / old, tf.floor((new - wanted) / 2)


def resize_on_gpu(image: Any, geometry: Geometry) -> Any:
    """Return what `resize` does of a float image (height, width, 3), by what GPUs can compute.

    For wider filters and crops TensorFlow has nothing there. They are two products, with what each
    row and each column of the result is made of.
    """
    if (geometry.resize, geometry.crop) == ("bilinear", NONE):
        return resize(image, geometry)
    tf = import_tensorflow()
    shape = tf.shape(image)

    def product(size: Any, scale: Any, offset: Any) -> Any:
        rows, columns = (
            _shares(shape[axis], size[axis], scale[axis], offset[axis], geometry.resize)
            for axis in (0, 1)
        )
        return tf.einsum("ah,hwc,bw->abc", rows, image, columns, optimize="optimal")

    if geometry.resize == LETTERBOX:
        old = tf.cast(shape[:2], tf.float32)
        return _letterboxed(
            image, geometry, lambda new: product(new, tf.cast(new, tf.float32) / old, (0.0, 0.0))
        )
    made = product(geometry.image_size, *_enlarged(image, geometry))
    return tf.clip_by_value(made, 0.0, 255.0)


def _shares(n: Any, size: Any, scale: Any, offset: Any, method: str) -> Any:
    """Return (size, n), which share each of `n` places has in each place of the result."""
    tf = import_tensorflow()
    middles = (tf.range(size, dtype=tf.float32) + 0.5 + offset) / scale
    places = tf.cast(tf.range(n), tf.float32) + 0.5
    width = 1.0 if method == "bilinear" else tf.maximum(1.0 / scale, 1.0)
    away = tf.abs(middles[:, None] - places) / width
    if method == "bicubic":  # Keys (1981), "Cubic convolution interpolation", with a = -1/2
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = ((-0.5 * away + 2.5) * away - 4.0) * away + 2.0
        shares = tf.where(away < 1.0, near, tf.where(away < 2.0, far, 0.0))
    else:
        shares = tf.maximum(1.0 - away, 0.0)
    return shares / tf.reduce_sum(shares, axis=1, keepdims=True)


def by_tensorflow(spec: ExtractionSpec) -> ExtractionSpec:
    """Return a spec as files are decoded where no GPU does it."""
    return replace(spec, decoder="exact") if spec.decoder == "gpu" else spec


def decode(data: Any, spec: ExtractionSpec) -> Any:
    """Return a plain JPEG or PNG file, a TensorFlow string, as (height, width, 3) uint8.

    With `spec.decode_scale` a large JPEG is decoded at the ratio that `decoding` says.
    """
    tf = import_tensorflow()

    def at(ratio: int) -> Any:
        return tf.io.decode_jpeg(data, 3, ratio=ratio, dct_method=DCT[spec.decoder])  # PNG too

    if not spec.decode_scale:
        return at(1)
    side = spec.geometry.side
    shortest = tf.cond(
        tf.image.is_jpeg(data),
        lambda: tf.reduce_min(tf.io.extract_jpeg_shape(data)[:2]),
        lambda: 0,
    )
    cases = [
        (shortest >= decoding.shortest_side(ratio, side), functools.partial(at, ratio))
        for ratio in decoding.RATIOS
    ]
    return tf.case(cases, default=lambda: at(1))


def turned(image: Any, orientation: Any) -> Any:
    """Return a TensorFlow image (height, width, 3) upright, by its EXIF orientation, 1 to 8.

    Turning comes before resizing, as in Pillow's path, so that not a bit of the result differs. All
    orientations are one gather; TensorFlow's transposition of bytes logs an error of oneDNN's.
    """
    tf = import_tensorflow()
    height, width = tf.shape(image)[0], tf.shape(image)[1]

    def is_in(*some: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(some))

    rows, columns = tf.range(height), tf.range(width)
    rows = tf.where(is_in(3, 4, 6, 7), rows[::-1], rows)
    columns = tf.where(is_in(2, 3, 7, 8), columns[::-1], columns)
    places = tf.cond(
        is_in(5, 6, 7, 8),
        lambda: rows[None, :] * width + columns[:, None],
        lambda: rows[:, None] * width + columns[None, :],
    )
    return tf.gather(tf.reshape(image, (-1, 3)), places)
