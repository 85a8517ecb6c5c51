"""How far two heads are apart, how sure that is, and what several such questions make of it.

The test is of the rows, as McNemar's is, for any metric; but heads of cross-validation learn from
other rows each time, which McNemar's test does not know: it calls one of two equal heads behind in
up to 8 % of comparisons (benchmarks/coverage.py). The t-test over folds knows it, and with five
folds hardly finds anything. This one takes the rows' standard error and adds what folds show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featcache.scoring import intervals, jackknife

BEHIND = 0.05  # a head is behind the first below this p-value


@dataclass(frozen=True)
class Difference:
    """How far two scores on the same rows are apart."""

    value: float
    low: float  # 95 % interval
    high: float
    p_value: float  # two-sided, of there being none


def difference(
    of_each_fold: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    n_units: int,
    n_folds: int,
) -> Difference:
    """Return the difference of two heads' scores by cross-validation on the same folds.

    Over its standard error it is taken as Student's t; the standard error is that of the rows,
    which both heads were asked about, with what training rows add to it.

    Parameters
    ----------
    of_each_fold : (repeats * n_folds,) float, the differences of the scores.
    first, second : what `jackknife.without_groups` gives for either score.
    n_units : rows that differ, or groups of them.
    n_folds : of each repeat.

    Returns
    -------
    Difference. NaN throughout where a score is undefined; where both heads do the same on all rows
    its p-value is 1, and its interval what that many rows could not show.
    """
    from scipy import stats

    value = float(np.mean(of_each_fold))
    se = jackknife.standard_error(first - second)
    if math.isnan(value) or math.isnan(se):
        return Difference(math.nan, math.nan, math.nan, math.nan)
    se = intervals.with_training(se, of_each_fold, n_folds)
    t = stats.t(len(first) - 1)
    reach = max(
        t.ppf((1 + intervals.LEVEL) / 2) * se, intervals.wilson(0.0, n_units)[1] if not se else 0.0
    )
    p_value = 2 * t.sf(abs(value) / se) if se else 1.0
    return Difference(value, value - float(reach), value + float(reach), float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the given order (Holm 1979).

    "A simple sequentially rejective multiple test procedure": of m p-values the i-th smallest is
    multiplied by m - i + 1, and is at least the one before. A NaN stays one and does not count.
    """
    adjusted = np.array(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * adjusted[order]), 1)
    return [float(p) for p in adjusted]
