"""The head: from maps of one backbone to a centre, a class and a box for each cell of a grid.

Anchor-free, as FCOS (Tian et al. 2019) and CenterNet: a cell says how surely it is the middle of
something, what that is, and how far its four sides are. Stock Keras layers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tensorflow import import_keras
from featcache.detection.settings import Settings

if TYPE_CHECKING:
    import keras

CENTRES, CLASSES, CORNERS = "centres", "class_logits", "corners"  # outputs, by name
FINEST = 32  # pixels of a cell's side: finer maps are brought to it, as cells cost time
_PRIOR = 0.01  # what a cell first says of being a middle, as in focal loss
Shape = tuple[int, int, int]  # height, width, channels


def grid_of(shapes: Sequence[Shape], image_size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the head's grid: those of the finest map that is not too fine.

    Raises
    ------
    HeadError
        When the maps do not part the image alike.
    """
    coarse = sorted((shape[:2] for shape in shapes), reverse=True)
    fit = [grid for grid in coarse if image_size[0] / grid[0] >= FINEST] or coarse[-1:]
    rows, columns = fit[0]
    for high, wide, _ in shapes:
        even = all(max(a, b) % min(a, b) == 0 for a, b in ((high, rows), (wide, columns)))
        if not even or high * columns != wide * rows:
            raise HeadError(
                f"A map of {high} x {wide} cells does not fit one of {rows} x {columns}. Extract "
                f"at a size that the network's strides divide, as --image-size 320."
            )
    return rows, columns


def head(
    shapes: Sequence[Shape],
    moments: Sequence[tuple[np.ndarray, np.ndarray]],
    n_classes: int,
    image_size: tuple[int, int],
    settings: Settings,
) -> keras.Model:
    """Return the untrained head.

    Parameters
    ----------
    shapes : of the maps.
    moments : mean and variance (channels,) of each map, over training images.
    n_classes : that it tells apart.
    image_size : height and width of the network's image, pixels.

    Returns
    -------
    Model from maps (n, h, w, c) to `centres` (n, rows, columns) logits, `class_logits` (n, rows,
    columns, n_classes) and `corners` (n, rows, columns, 4), pixels of the network's image.
    """
    keras = import_keras()
    layers, grid = keras.layers, grid_of(shapes, image_size)
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(64).tolist())

    def conv(x: Any, name: str, filters: int, kernel: int, stride: int = 1) -> Any:
        x = layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.HeUniform(next(seeds)),
            name=name,
        )(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)

    def last(x: Any, name: str, filters: int, bias: float) -> Any:
        return layers.Conv2D(
            filters,
            1,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=next(seeds)),
            bias_initializer=keras.initializers.Constant(bias),
            name=name,
        )(x)

    inputs, parts = [], []
    for number, (shape, (mean, variance)) in enumerate(zip(shapes, moments, strict=True)):
        x = keras.Input(shape, name=f"map_{number}")
        inputs.append(x)
        x = layers.Normalization(mean=mean, variance=variance, name=f"standardised_{number}")(x)
        if settings.dropout:
            x = layers.SpatialDropout2D(settings.dropout, seed=next(seeds), name=f"drop_{number}")(
                x
            )
        finer, coarser = shape[0] // grid[0], grid[0] // shape[0]
        # what is finer is not thinned out but laid side by side, several cells to one
        x = conv(x, f"brought_{number}", settings.width, max(finer, 1), max(finer, 1))
        if coarser > 1:
            x = layers.UpSampling2D(coarser, interpolation="bilinear", name=f"spread_{number}")(x)
        parts.append(x)
    x = layers.Add(name="joined")(parts) if len(parts) > 1 else parts[0]
    x = layers.ReLU(name="joined_relu")(x)
    # what something is, the backbone knows: deep layers of our own learn the training images by
    # heart. Where its sides are, they must find out
    around = layers.AveragePooling2D(3, 1, padding="same", name="around")(x)
    if settings.dropout:
        around = layers.Dropout(settings.dropout, seed=next(seeds), name="drop_around")(around)
    for number in range(settings.depth):
        x = layers.ReLU(name=f"conv_{number}_relu")(conv(x, f"conv_{number}", settings.width, 3))
    centres = last(x, "centre_logits", 1, float(-np.log(1 / _PRIOR - 1)))
    return keras.Model(
        inputs,
        {
            CENTRES: layers.Reshape(grid, name=CENTRES)(centres),
            CLASSES: last(around, CLASSES, n_classes, 0.0),
            CORNERS: _corners(last(x, "side_logits", 4, 1.0), grid, image_size),
        },
        name="detector_head",
    )


def _corners(logits: Any, grid: tuple[int, int], image_size: tuple[int, int]) -> Any:
    """Return corners from how far the sides of a box are from a cell's middle, in cells."""
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    high, wide = (side / n for side, n in zip(image_size, grid, strict=True))
    away = layers.Activation("softplus", name="sides")(logits)
    towards = np.array([-wide, -high, wide, high], np.float32)  # left, top, right, bottom
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(grid, (high, wide), strict=True))
    middles = np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)
    away = layers.Rescaling(towards.tolist(), name="sides_in_pixels")(away)
    return ops.add(away, np.concatenate([middles, middles], axis=-1)[None])
