"""How far a score varies with the rows that it is of: the jackknife, leaving out groups of units.

Sources: Quenouille 1956, "Notes on bias in estimation"; Tukey 1958, "Bias and confidence in
not-quite large samples".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from featcache.scoring import metrics

N_GROUPS = 60  # units are left out in so many groups; a standard error is known to a tenth then

Statistic = Callable[[np.ndarray], float]  # (m,) rows -> score of them
Outputs = tuple[np.ndarray, str]  # (n, n_outputs), and what they are


def mean_score(metric: str, task: str, y: np.ndarray, of_repeats: Sequence[Outputs]) -> Statistic:
    """Return the mean of a metric over repeats, as a function of rows.

    Parameters
    ----------
    of_repeats : of each, what a head says of the rows out of fold, and of what kind that is.
    """

    def statistic(rows: np.ndarray) -> float:
        scores = [
            metrics.score_one(metric, task, y[rows], outputs[rows], kind)
            for outputs, kind in of_repeats
        ]
        return float(np.mean(scores))

    return statistic


def without_groups(statistic: Statistic, units: np.ndarray) -> np.ndarray:
    """Return a score without each of up to `N_GROUPS` groups of units: the jackknife's replicates.

    The groups depend on `units` alone, so that the replicates of two scores of the same rows can be
    compared one by one.

    Parameters
    ----------
    statistic : of rows.
    units : (n,) int; rows of one number stay together.

    Returns
    -------
    (n_groups,) float64, NaN where the score is undefined without a group; empty where there are
    fewer than two units.
    """
    _, unit_of = np.unique(units, return_inverse=True)
    n_units = int(unit_of.max(initial=-1)) + 1
    n_groups = min(N_GROUPS, n_units)
    if n_groups < 2:
        return np.zeros(0)
    group = (np.random.default_rng(0).permutation(n_units) % n_groups)[unit_of]
    return np.array([statistic(np.flatnonzero(group != one)) for one in range(n_groups)])


def replicates(
    metric: str, task: str, y: np.ndarray, of_repeats: Sequence[Outputs], units: np.ndarray
) -> np.ndarray:
    """Return the replicates of a metric's mean over repeats.

    Arguments are those of `mean_score` and `without_groups`.
    """
    return without_groups(mean_score(metric, task, y, of_repeats), units)


def standard_error(left_out: np.ndarray) -> float:
    """Return the jackknife's standard error of a score, from what `without_groups` gives.

    Replicates that are NaN are not counted; NaN where fewer than two are left.
    """
    found = left_out[~np.isnan(left_out)]
    if len(found) < 2:
        return math.nan
    return float(np.sqrt((len(found) - 1) * np.mean((found - found.mean()) ** 2)))
