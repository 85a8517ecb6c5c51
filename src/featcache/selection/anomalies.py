"""What a comparison of heads that learn from good images alone does otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.heads.anomaly import AnomalyHead, Threshold
from featcache.heads.anomaly.base import ANOMALY, GOOD
from featcache.selection import masked
from featcache.selection.comparison import Fitted
from featcache.selection.dataset import Dataset
from featcache.selection.folds import FoldedData
from featcache.selection.ranking import Judged


def with_places(data: FoldedData, dataset: Dataset, selected: Judged, folder: Path) -> Judged:
    """Return the selected head's result with scores of places, where images have masks."""
    one, path = selected.fitted, dataset.sets[selected.fitted.features].path
    assert path is not None
    head = one.shipped_from(folder)
    assert isinstance(head, AnomalyHead)
    rows = dataset.rows[one.features][data.test]
    scores, of = masked.place_scores(head, store.Features(path), rows, data.y[data.test])
    if not scores:
        return selected
    progress.note(f"Compared heat maps with {of}.")
    test = {**(selected.result.test or {}), **scores}
    return replace(selected, result=replace(selected.result, test=test))


def set_thresholds(data: FoldedData, found: list[Fitted], false_alarms: float) -> None:
    """Have out-of-fold outputs say good or anomaly, by good images that taught no fold's head."""
    y = data.y
    for one in found:
        for repeat, folds in enumerate(data.folds):
            scores = np.concatenate(
                [
                    one.outputs[repeat, fold][y[folds == fold] == GOOD, ANOMALY]
                    for fold in range(data.n_folds)
                ]
            )
            value = Threshold.of(scores, false_alarms).value
            for fold in range(data.n_folds):
                shift = np.array([value, -value], one.outputs[repeat, fold].dtype)
                one.outputs[repeat, fold] = one.outputs[repeat, fold] + shift
