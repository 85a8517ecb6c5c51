"""Suppression inside a model against the plain greedy one."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.core.tensorflow import import_keras
from featcache.detection.frames import kept, overlaps
from featcache.detection.network import CENTRES, CLASSES, CORNERS
from featcache.detection.settings import Settings
from featcache.detection.suppression import LEAST_SCORE, detections

SIZE = (80, 100)  # of the image, pixels
GRID = (8, 10)


def model(n_classes, settings):
    keras = import_keras()
    shapes = {CENTRES: GRID, CLASSES: (*GRID, n_classes), CORNERS: (*GRID, 4)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    return keras.Model(inputs, detections(inputs, SIZE, settings))


def by_hand(centres, class_logits, corners, settings):
    """The same in NumPy, one image, one box after the other."""
    rows, columns, n_classes = class_logits.shape
    chance = 1 / (1 + np.exp(-centres))
    padded = np.pad(chance, 1, constant_values=-1)
    near = np.stack([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])
    chance = np.where(chance == near.max(axis=0), chance, 0)
    odds = np.exp(class_logits - class_logits.max(axis=-1, keepdims=True))
    scores = (chance[..., None] * odds / odds.sum(axis=-1, keepdims=True)).reshape(-1)
    best = np.argsort(-scores, kind="stable")[: settings.candidates]
    boxes = corners.reshape(-1, 4)[best // n_classes].clip(0, [100, 80, 100, 80])
    order = kept(boxes, scores[best], best % n_classes, settings.iou)
    order = order[scores[best][order] >= LEAST_SCORE][: settings.max_boxes]
    return boxes[order], (best % n_classes)[order], scores[best][order]


def random_inputs(rng, n, n_classes):
    middle = rng.uniform(0, 80, (n, *GRID, 2))
    sides = rng.uniform(5, 60, (n, *GRID, 2))
    return (
        rng.normal(0, 2, (n, *GRID)).astype(np.float32),
        rng.normal(0, 2, (n, *GRID, n_classes)).astype(np.float32),
        np.concatenate([middle - sides / 2, middle + sides / 2], axis=-1).astype(np.float32),
    )


@pytest.mark.parametrize("iou", [0.1, 0.5])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_a_model_keeps_what_greedy_suppression_keeps(iou, n_classes):
    settings = Settings(candidates=40, max_boxes=35, iou=iou)
    inputs = random_inputs(np.random.default_rng(n_classes), 12, n_classes)
    found = model(n_classes, settings).predict_on_batch(
        dict(zip((CENTRES, CLASSES, CORNERS), inputs, strict=True))
    )
    n_suppressed = 0
    for row in range(12):
        boxes, classes, scores = by_hand(*(one[row] for one in inputs), settings)
        n = int(found["count"][row])
        assert n == len(boxes)
        n_suppressed += n < settings.max_boxes
        np.testing.assert_allclose(found["boxes"][row][:n], boxes, atol=1e-4)
        np.testing.assert_array_equal(found["classes"][row][:n], classes)
        np.testing.assert_allclose(found["scores"][row][:n], scores, atol=1e-6)
        assert not found["boxes"][row][n:].any()
        assert not found["scores"][row][n:].any()
        assert (found["classes"][row][n:] == -1).all()
    assert n_suppressed, "no image had fewer boxes than fit: nothing was tested"


def test_a_chain_of_boxes_in_which_each_suppresses_the_next_is_followed_to_its_end():
    # every second cell, so that each is a peak
    centres = np.full((1, *GRID), -9.0, np.float32)
    corners = np.zeros((1, *GRID, 4), np.float32)
    cells = [(row, column) for row in range(0, 8, 2) for column in range(0, 10, 2)]
    for place, cell in enumerate(cells):
        centres[0][cell] = 3 - place / 10
        corners[0][cell] = (3 * place, 0, 3 * place + 9, 10)  # the next one: IoU 0.5 of 6 in 12
    settings = Settings(candidates=30, max_boxes=30, iou=0.45)
    found = model(1, settings).predict_on_batch(
        {CENTRES: centres, CLASSES: np.zeros((1, *GRID, 1), np.float32), CORNERS: corners}
    )
    left = found["boxes"][0][: found["count"][0], 0]
    np.testing.assert_allclose(left, np.arange(0, 3 * len(cells), 6))


def test_nothing_found_is_nothing():
    zero = np.zeros((2, *GRID), np.float32)
    found = model(2, Settings()).predict_on_batch(
        {
            CENTRES: zero - 20,
            CLASSES: np.zeros((2, *GRID, 2), np.float32),
            CORNERS: np.zeros((2, *GRID, 4), np.float32),
        }
    )
    assert found["count"].tolist() == [0, 0]
    assert not found["boxes"].any()


def test_overlaps_are_intersection_over_union():
    one = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    other = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    np.testing.assert_allclose(overlaps(one, other), [[1 / 3, 0, 1], [0, 0, 0]])
