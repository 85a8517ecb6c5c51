"""The learning curve of a head: would more labels help?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featcache.core.tasks import TASKS
from featcache.scoring import metrics, statistics
from featcache.selection import fold_work
from featcache.selection.comparison import Comparison, job_of
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls
from featcache.selection.ranking import LEVEL, Judged, sizes

SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # of the rows of an outer fold to learn from
HALF = SHARES.index(0.5)


def curve(
    data: FoldedData, comparison: Comparison, selected: Judged, run: RunCalls
) -> dict[str, Any]:
    """Return scores of the selected head for parts of the training rows, on the outer folds.

    Each part holds the smaller ones. The settings are those that the folds chose with all rows.

    Returns
    -------
    `n_train`, rows learnt from; `scores`, for each of them those of the folds; `metric`; `verdict`,
    a sentence.
    """
    one, folds = selected.fitted, data.folds[0]
    n_all = sizes(data)[0]
    counts = [max(2, round(share * n_all)) for share in SHARES]
    calls = []
    for place, count in enumerate(counts[:-1]):
        for fold in range(data.n_folds):
            setting = one.fold_chosen.get((0, fold), 0)
            job = replace(job_of(comparison, one, (setting,), (fold,), None), at_most=count)
            arguments = (data.views[one.features], data.y, folds, job)
            calls.append(Call((place, fold), fold_work.predict_fold, arguments))
    scores = np.full((len(SHARES), data.n_folds), np.nan)
    for (place, fold), (outputs, kind, _) in run(calls):
        scores[place, fold] = metrics.score_one(
            _metric(comparison, kind), comparison.task, data.y[folds == fold], outputs, kind
        )
    for fold in range(data.n_folds):
        outputs = one.outputs[0, fold]
        scores[-1, fold] = metrics.score_one(
            _metric(comparison, one.output),
            comparison.task,
            data.y[folds == fold],
            outputs,
            one.output,
        )
    return {
        "metric": _metric(comparison, one.output),
        "n_train": counts,
        "scores": scores.tolist(),
        "verdict": _verdict(_metric(comparison, one.output), scores, counts, data),
    }


def _metric(comparison: Comparison, kind: str) -> str:
    """Return the metric, or the task's own where the raw outputs do not allow it."""
    needs = comparison.metric in metrics.NEEDS_PROBABILITIES and kind == "scores"
    return TASKS[comparison.task].default_metric if needs else comparison.metric


def _verdict(metric: str, scores: np.ndarray, counts: list[int], data: FoldedData) -> str:
    """Return what the last doubling of the rows brought, and whether it is more than chance."""
    sign = metrics.better(metric)
    gains = sign * (scores[-1] - scores[HALF])
    low, high = statistics.interval(gains, *sizes(data))
    p_value = statistics.corrected_t_test(gains, *sizes(data))
    what = (
        f"From {counts[HALF]} to {counts[-1]} training images {metric} got better by "
        f"{gains.mean():.3f} (95 %: {low:.3f} to {high:.3f})"
    )
    if p_value < LEVEL and gains.mean() > 0:
        return f"{what}: more labels would probably help."
    return f"{what}: that more labels would help is not shown."
