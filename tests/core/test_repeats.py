from __future__ import annotations

import numpy as np
import pytest

from featcache.core.repeats import Repeats

DIGESTS = np.random.default_rng(0).integers(0, 256, (6, 16), np.uint8)
DIFFERENT = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)


def count(features, digests=DIGESTS, step=4):
    repeats = Repeats()
    for start in range(0, len(features), step):
        repeats.add(features[start : start + step])
    return repeats.count(digests)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_different_images_with_the_same_features_count_and_copies_do_not(dtype):
    features = DIFFERENT.astype(dtype)
    assert count(features) == 0
    features[5] = features[1]
    assert count(features) == 2
    copies = DIGESTS.copy()
    copies[5] = copies[1]
    assert count(features, copies) == 0
    features[0] = features[1]
    assert count(features, copies) == 3  # the copies, and what is no copy


def test_one_row_for_all_is_told_from_rounding():
    one = np.repeat(DIFFERENT[:1], 6, axis=0)
    assert count(one) == 6
    one[4, 2] = np.nextafter(one[4, 2], np.float32(9))
    assert count(one) == 6
    one[4, 2] += 0.01
    assert count(one) == 5
    assert count(one[:1], DIGESTS[:1]) == 0
    assert count(np.repeat(one[:1], 2, axis=0), DIGESTS[[0, 0]]) == 0
    assert Repeats().count(DIGESTS) == 0  # maps are not looked at
