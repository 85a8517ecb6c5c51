"""AUROC and OSCR of strangers against scikit-learn and the curve's definition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from featcache.scoring.strangers import Trial, telling


def trial(rows, rng, apart, n_scores=1):
    is_stranger = rng.random(len(rows)) < 0.4
    scores = rng.standard_normal((n_scores, len(rows))) + apart * is_stranger
    return Trial(rows, is_stranger, rng.random(len(rows)) < 0.7, scores.round(1))


def test_areas_are_those_of_the_curves():
    rng = np.random.default_rng(0)
    one = trial(np.arange(80), rng, 1.0)
    found = telling({0: [one]}, 0, np.arange(80), 0.9)
    assert found.auroc == pytest.approx(roc_auc_score(one.is_stranger, one.scores[0]))
    known, strange = one.scores[0, ~one.is_stranger], one.scores[0, one.is_stranger]
    right = one.is_right[~one.is_stranger]
    thresholds = [-np.inf, *np.unique(one.scores)]
    rates = [np.mean(strange <= at) for at in thresholds]
    correct = [np.mean(right & (known <= at)) for at in thresholds]
    assert found.oscr == pytest.approx(auc(rates, correct))
    # of the n known images one tenth of n + 1 sets the threshold, and is kept
    at = np.sort(known)[-int(0.1 * (len(known) + 1))]
    assert found.found == pytest.approx(np.mean(strange > at))
    assert found.auroc_low < found.auroc < found.auroc_high
    assert found.oscr_low < found.oscr < found.oscr_high < found.auroc_high


def test_scores_of_different_trials_are_not_compared():
    rng = np.random.default_rng(0)
    trials = [trial(np.arange(first, 90, 3), rng, 1.0) for first in range(3)]
    moved = [
        Trial(one.rows, one.is_stranger, one.is_right, one.scores + 100 * number)
        for number, one in enumerate(trials)
    ]
    assert telling({0: trials}, 0, np.arange(90), 0.9) == telling({0: moved}, 0, np.arange(90), 0.9)


def test_an_interval_has_what_classes_differ_by():
    rng = np.random.default_rng(0)
    alike = {group: [trial(np.arange(200), rng, 1.0)] for group in range(6)}
    rng = np.random.default_rng(0)
    apart = {group: [trial(np.arange(200), rng, 3.0 * (group % 2))] for group in range(6)}
    narrow, wide = (telling(one, 0, np.arange(200), 0.9) for one in (alike, apart))
    assert wide.auroc_high - wide.auroc_low > 2 * (narrow.auroc_high - narrow.auroc_low)
    assert len(wide.each) == 6
    # copies say one thing
    copies = telling(alike, 0, np.arange(200) // 10, 0.9)
    assert copies.auroc_high - copies.auroc_low > narrow.auroc_high - narrow.auroc_low
