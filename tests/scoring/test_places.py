"""Scores of places against masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as sk

from featcache.scoring.places import scores_of_places


def given(seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((3, 20, 24), bool)
    masks[0, 2:6, 3:9] = masks[0, 12:14, 15:17] = masks[1, 8:18, 1:4] = True
    return rng.random(masks.shape).astype(np.float32) + 0.4 * masks, masks


def test_they_are_what_the_definitions_say():
    maps, masks = given()
    found = scores_of_places(maps, masks)
    assert found["pixel-roc-auc"] == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()))
    regions = [
        maps[image][labels == number]
        for image, (labels, n) in enumerate(ndimage.label(mask) for mask in masks)
        for number in range(1, n + 1)
    ]
    false, overlap = [], []
    for threshold in np.unique(maps)[::-1]:
        false.append(np.mean(maps[~masks] > threshold))
        overlap.append(np.mean([np.mean(region > threshold) for region in regions]))
    grid = np.linspace(0, 0.3, 3001)
    assert found["aupro"] == pytest.approx(
        np.trapezoid(np.interp(grid, false, overlap), grid) / 0.3, abs=0.01
    )


def test_a_perfect_map_scores_one_and_without_masks_there_is_nothing():
    _, masks = given()
    found = scores_of_places(masks.astype(np.float32), masks)
    assert found == pytest.approx({"pixel-roc-auc": 1.0, "aupro": 1.0})
    none = scores_of_places(np.zeros(masks.shape), np.zeros(masks.shape, bool))
    assert np.isnan(list(none.values())).all()
