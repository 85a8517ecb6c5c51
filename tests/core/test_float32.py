from __future__ import annotations

import numpy as np
import pytest

from featcache.core import float32


@pytest.mark.parametrize(
    ("offset", "coarse"),
    [(0, False), (2_000, False), (1e5, False), (-1e5, False), (1e7, True), (-1e9, True)],
)
def test_targets_far_from_zero(offset, coarse):
    values = offset + np.linspace(0, 12, 30)[:, None]
    assert float32.is_too_coarse(values).tolist() == [coarse]
    rounded = values.astype(np.float32).astype(np.float64)
    lost = np.sqrt(np.mean((rounded - values) ** 2)) / values.std()
    assert (lost > 0.003) == coarse  # a third of a step is lost on average
    assert bool(float32.complaint(["age"], values)) == coarse


def test_a_single_value_has_no_differences():
    assert not float32.is_too_coarse(np.full((9, 1), 1e9 + 1)).any()


def test_what_is_said():
    values = np.stack([np.arange(13.0), 1e9 + np.arange(13)], axis=1)
    assert float32.complaint(["near", "far"], values) == (
        "The target 'far' lies near 1,000,000,000 and varies by 3.7, and there float32, in which "
        "models compute, has steps of 64. Subtract 1,000,000,000 from the target, and add it to "
        "what the model predicts"
    )
