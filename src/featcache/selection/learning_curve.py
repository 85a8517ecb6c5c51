"""The learning curve of a head: would more labels help?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featcache.core.tasks import TASKS
from featcache.scoring import differences, jackknife, metrics
from featcache.selection import fold_work
from featcache.selection.comparison import Comparison, job_of
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls
from featcache.selection.ranking import Judged, joined

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
    n_all = len(data.train) - len(data.train) // data.n_folds
    counts = [max(2, round(share * n_all)) for share in SHARES]
    calls = []
    for place, count in enumerate(counts[:-1]):
        for fold in range(data.n_folds):
            setting = one.fold_chosen.get((0, fold), 0)
            job = replace(job_of(comparison, one, (setting,), (fold,), None), at_most=count)
            arguments = (data.views[one.features], data.y, folds, job)
            calls.append(Call((place, fold), fold_work.predict_fold, arguments))
    scores, kinds = np.full((len(SHARES), data.n_folds), np.nan), [one.output] * len(SHARES)
    outputs = {(len(SHARES) - 1, fold): one.outputs[0, fold] for fold in range(data.n_folds)}
    for (place, fold), (said, kinds[place], _) in run(calls):
        outputs[place, fold] = said
    for (place, fold), said in outputs.items():
        kind = kinds[place]
        metric = _metric(comparison, kind)
        scores[place, fold] = metrics.score_one(
            metric, comparison.task, data.y[folds == fold], said, kind
        )
    metric = _metric(comparison, one.output)
    all_rows, half = (
        [(joined(data, 0, {fold: outputs[place, fold] for fold in range(data.n_folds)}), kind)]
        for place, kind in ((len(SHARES) - 1, one.output), (HALF, kinds[HALF]))
    )
    units, y = data.units[data.train], data.y[data.train]
    of_all, of_half = (
        jackknife.replicates(metric, comparison.task, y, said, units) for said in (all_rows, half)
    )
    gain = differences.difference(
        scores[-1] - scores[HALF], of_all, of_half, len(np.unique(units)), data.n_folds
    )
    return {
        "metric": metric,
        "n_train": counts,
        "scores": scores.tolist(),
        "verdict": _verdict(metric, gain, counts),
    }


def _metric(comparison: Comparison, kind: str) -> str:
    """Return the metric, or the task's own where the raw outputs do not allow it."""
    needs = comparison.metric in metrics.NEEDS_PROBABILITIES and kind == "scores"
    return TASKS[comparison.task].default_metric if needs else comparison.metric


def _verdict(metric: str, gain: differences.Difference, counts: list[int]) -> str:
    """Return what the last doubling of the rows brought, and whether it is more than chance."""
    ends = sorted(metrics.better(metric) * end for end in (gain.low, gain.high))
    better_by = metrics.better(metric) * gain.value
    what = (
        f"From {counts[HALF]} to {counts[-1]} training images {metric} got better by "
        f"{better_by:.3f} (95 %: {ends[0]:.3f} to {ends[1]:.3f})"
    )
    if gain.p_value < differences.BEHIND and better_by > 0:
        return f"{what}: more labels would probably help."
    return f"{what}: that more labels would help is not shown."
