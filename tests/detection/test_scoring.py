"""Average precision, thresholds, and what is right on an image."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.core.boxes import Boxes, starts_of
from featcache.core.geometry import Geometry
from featcache.detection import frames, scoring
from featcache.detection.judging import judged
from featcache.detection.scoring import Found
from featcache.detection.targets import targets


def drawn(rows, ignored=()):
    """Boxes on images of 100 x 100: a list of (class, corners) for each."""
    every = [one for row in rows for one in row]
    return Boxes(
        starts_of(np.array([len(row) for row in rows])),
        np.array([corners for _, corners in every], float).reshape(-1, 4),
        np.array([kind for kind, _ in every], int),
        np.array([place in ignored for place in range(len(every))], bool),
        np.full((len(rows), 2), 100),
    )


def found(*boxes):
    kinds, scores, corners = zip(*boxes, strict=True) if boxes else ((), (), ())
    return Found(
        np.array(corners, float).reshape(-1, 4), np.array(kinds, int), np.array(scores, np.float32)
    )


A, B, C = (10, 10, 50, 50), (60, 60, 90, 90), (0, 60, 30, 100)
TRUTH = [[(0, A), (1, B)], [(0, C)], []]


def test_all_boxes_and_no_others_are_perfect():
    every = [found((0, 0.9, A), (1, 0.8, B)), found((0, 0.7, C)), found()]
    done = scoring.precision(every, drawn(TRUTH), ["a", "b"], 0.5, np.arange(3))
    assert done.scores() == pytest.approx({"map50": 1, "map": 1, "ap50": 1})
    assert done.intervals["map50"] == pytest.approx((1, 1))
    assert [one["boxes"] for one in done.of_class] == [2, 1]


def test_precision_is_that_of_a_hand_worked_case():
    # of class a: right, wrong, right (recall 0.5, 0.5, 1); of b nothing is found
    every = [found((0, 0.9, A), (0, 0.8, B)), found((0, 0.7, C)), found()]
    done = scoring.precision(every, drawn(TRUTH), ["a", "b"], 0.5)
    # 51 of the 101 recalls, to 0.5, at precision 1, the others at 2 in 3
    of_a = (51 + 50 * 2 / 3) / 101
    assert done.of_class[0]["ap50"] == pytest.approx(of_a)
    assert done.of_class[1]["ap50"] == 0
    assert done.map50 == pytest.approx(of_a / 2)
    assert done.ap50 == pytest.approx(1)  # whatever the class, all three were right
    assert done.intervals == {}


def test_without_classes_two_names_for_one_thing_are_one():
    every = [found((0, 0.9, A), (1, 0.8, A)), found(), found()]
    done = scoring.precision(every, drawn([[(0, A)], [], []]), ["a", "b"], 0.5)
    assert done.ap50 == pytest.approx(1)
    assert np.isnan(done.of_class[1]["ap50"])
    assert done.map50 == pytest.approx(1)  # a class without boxes is left out


def test_ignored_boxes_cost_nothing_found_or_not():
    truth = drawn(TRUTH, ignored=(1,))
    both = [found((0, 0.9, A), (1, 0.95, B)), found((0, 0.7, C)), found()]
    without = [found((0, 0.9, A)), found((0, 0.7, C)), found()]
    for every in (both, without):
        assert scoring.precision(every, truth, ["a", "b"], 0.5).map50 == pytest.approx(1)


def test_an_interval_has_width_where_images_differ():
    rng = np.random.default_rng(0)
    truth = drawn([[(0, A)]] * 40)
    every = [found((0, 0.5 + rng.random() / 2, A if row % 3 else B)) for row in range(40)]
    low, high = scoring.precision(every, truth, ["a"], 0.5, np.arange(40)).intervals["map50"]
    assert 0.2 < low < high < 0.95
    together = scoring.precision(every, truth, ["a"], 0.5, np.arange(40) // 20)
    wide, _ = together.intervals["map50"], None
    assert wide[1] - wide[0] < high - low  # two halves that are alike differ little


def test_the_best_threshold_is_where_f1_is_highest():
    every = [found((0, 0.9, A), (1, 0.8, B)), found((0, 0.7, C), (0, 0.2, A)), found((1, 0.1, A))]
    assert scoring.best_threshold(every, drawn(TRUTH), 2) == (pytest.approx(0.7), 1.0)
    assert scoring.best_threshold([found()] * 3, drawn(TRUTH), 2) == (0.5, 0.0)


def test_a_box_found_twice_is_right_once():
    one = judged(found((0, 0.9, A), (0, 0.8, A), (1, 0.7, B), (1, 0.1, B)), drawn(TRUTH[:1]), 0.5)
    assert one.places.tolist() == [0, 1, 2]
    assert one.is_right.tolist() == [True, False, True]
    assert one.is_missed.tolist() == [False, False]


@pytest.mark.parametrize("resize", ["letterbox", "bilinear"])
def test_boxes_go_to_the_networks_image_and_back(resize):
    geometry = Geometry((64, 96), resize)
    sizes = np.array([[30, 40], [100, 20], [64, 96]])
    corners = np.array([[1, 2, 39, 29], [0, 50, 20, 100], [5, 5, 9, 9]], float)
    there = frames.to_network(corners, sizes, geometry)
    assert (there >= 0).all()
    assert (there <= [96, 64, 96, 64]).all()
    np.testing.assert_allclose(frames.to_image(there, sizes, geometry), corners)
    np.testing.assert_allclose(there[2], corners[2])


def test_mirrored_twice_is_as_before():
    corners = np.array([[1, 2, 39, 29]])
    assert frames.mirrored(corners, 40).tolist() == [[1, 2, 39, 29]]
    assert frames.mirrored(corners, 64).tolist() == [[25, 2, 63, 29]]


def test_targets_are_one_middle_a_box_and_fall_off_around_it():
    corners = np.array([[0, 0, 64, 64], [96, 96, 100, 100], [64, 0, 128, 32]], float)
    made = targets(corners, np.array([2, 1, 0]), np.array([False, False, True]), (8, 8), (128, 128))
    assert np.argwhere(made.centres == 1).tolist() == [[2, 2], [6, 6]]
    assert made.corners[2, 2].tolist() == [0, 0, 64, 64]
    assert made.classes[6, 6] == 1
    assert made.weights.sum() == pytest.approx(2)
    assert made.weights[6, 6] == pytest.approx(1)  # smaller than a cell: its own alone
    assert (made.counted == 0).sum() == 8  # under the ignored one
    near = made.centres[2, 1:5]
    assert near[1] > near[2] > near[3]
