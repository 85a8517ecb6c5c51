"""From what the head says of cells to a fixed number of boxes, inside a Keras model.

Stock operations of Keras, so that whoever loads the model needs nothing else. Greedy suppression
looks at one box after the other; here all are looked at together, again and again: a box is kept
unless a better one that is kept suppresses it. A round makes right every box whose better rivals
are right already, so k rounds give what greedy suppression gives unless more than k boxes of a
class overlap each the next, from the best to the worst. See docs/decisions/detection.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.detection.network import CENTRES, CLASSES, CORNERS
from featcache.detection.settings import Settings

BOXES, SCORES, COUNT = "boxes", "scores", "count"  # beside "classes", the outputs
LEAST_SCORE = 0.01  # below it a box is none
ROUNDS = 32
_PEAK = 3  # cells a side, of which only the best is a middle


def detections(
    said: dict[str, Any], image_size: tuple[int, int], settings: Settings
) -> dict[str, Any]:
    """Return Keras tensors of boxes, the best first, from the head's outputs.

    Returns
    -------
    boxes : (n, max_boxes, 4) float32, left, top, right, bottom in pixels of the model's input;
        zeros from `count` on.
    classes : (n, max_boxes) int32, -1 from `count` on.
    scores : (n, max_boxes) float32, probability of a middle times that of the class.
    count : (n,) int32.
    """
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    centres, class_logits, corners = (said[name] for name in (CENTRES, CLASSES, CORNERS))
    _, rows, columns, n_classes = class_logits.shape
    chance = layers.Activation("sigmoid", name="centre_chances")(centres)
    chance = layers.Reshape((rows, columns, 1), name="centre_map")(chance)
    highest = layers.MaxPooling2D(_PEAK, 1, padding="same", name="highest_near")(chance)
    peak = ops.multiply(chance, ops.cast(ops.equal(chance, highest), "float32"))
    # of a single class there is nothing to share out
    shares = layers.Softmax(name="class_chances")(class_logits) if n_classes > 1 else 1.0
    each = ops.multiply(peak, shares)
    each = layers.Reshape((rows * columns * n_classes,), name="score_of_each")(each)

    n_candidates = min(settings.candidates, rows * columns * n_classes)
    n_boxes = min(settings.max_boxes, n_candidates)
    scores, places = ops.top_k(each, n_candidates)
    places = ops.cast(places, "int32")
    classes = ops.mod(places, n_classes)
    cells = ops.expand_dims(ops.floor_divide(places, n_classes), -1)
    flat = layers.Reshape((rows * columns, 4), name="corner_of_each")(corners)
    high, wide = image_size
    edges = np.array([wide, high, wide, high], np.float32)
    boxes = ops.minimum(ops.maximum(ops.take_along_axis(flat, cells, axis=1), 0.0), edges)

    stays = _kept(boxes, classes, settings.iou, n_candidates)
    stays = ops.multiply(stays, ops.cast(ops.greater_equal(scores, LEAST_SCORE), "float32"))
    scores, order = ops.top_k(ops.multiply(scores, stays), n_boxes)
    order = ops.cast(order, "int32")
    is_one = ops.greater(scores, 0.0)
    boxes = ops.take_along_axis(boxes, ops.expand_dims(order, -1), axis=1)
    boxes = ops.multiply(boxes, ops.expand_dims(ops.cast(is_one, "float32"), -1))
    classes = ops.where(is_one, ops.take_along_axis(classes, order, axis=1), -1)

    def named(x: Any, name: str) -> Any:
        return layers.Identity(name=name)(x)

    return {
        BOXES: named(boxes, BOXES),
        "classes": named(classes, "classes"),
        SCORES: named(scores, SCORES),
        COUNT: named(ops.sum(ops.cast(is_one, "int32"), axis=1), COUNT),
    }


def _kept(boxes: Any, classes: Any, iou: float, n: int) -> Any:
    """Return (batch, n) 1.0 for boxes, sorted by score, that greedy suppression keeps, else 0."""
    ops = import_keras().ops
    low, high = ops.split(boxes, 2, axis=-1)
    sides = ops.maximum(ops.subtract(high, low), 0.0)
    area = ops.prod(sides, axis=-1)

    def pairs(x: Any, combined: Any) -> Any:
        return combined(ops.expand_dims(x, 2), ops.expand_dims(x, 1))

    inner = ops.maximum(ops.subtract(pairs(high, ops.minimum), pairs(low, ops.maximum)), 0.0)
    both = ops.prod(inner, axis=-1)
    either = ops.maximum(ops.subtract(pairs(area, ops.add), both), 1e-9)
    # compared as a product: a division would round the same pair otherwise here and there
    overlaps = ops.greater(both, ops.multiply(either, iou))
    is_rival = ops.logical_and(overlaps, pairs(classes, ops.equal))
    better = np.triu(np.ones((1, n, n), np.float32), 1)  # [i, j]: i has the higher score
    suppresses = ops.multiply(ops.cast(is_rival, "float32"), better)
    # with a one beside what is kept, one product is 1 - (how many kept ones suppress a box)
    one = np.ones((1, 1, n + 1), np.float32)
    counted = ops.pad(ops.negative(suppresses), ((0, 0), (0, 1), (0, 1)))
    counted = ops.add(counted, np.pad(one, ((0, 0), (n, 0), (0, 0))))
    stays = ops.add(ops.multiply(ops.sum(counted, axis=1, keepdims=True), 0.0), one)
    for _ in range(min(ROUNDS, n)):
        stays = ops.relu(ops.matmul(stays, counted))
    kept, _ = ops.split(ops.squeeze(stays, 1), [n], axis=1)
    return kept
