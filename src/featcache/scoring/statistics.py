"""How sure a comparison is: tests and intervals of scores over folds, heads and resampled rows.

Scores of several folds are not independent, because the folds share training rows; whatever is
computed from them here takes the variance of Nadeau and Bengio 2003, "Inference for the
generalization error": (1 / k + n_test / n_train) times the sample variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def corrected_t_test(differences: np.ndarray, n_train: int, n_test: int) -> float:
    """Return the two-sided p-value of the corrected resampled t-test (Nadeau and Bengio 2003).

    Parameters
    ----------
    differences : (k,) float; of two heads' scores, one per fold (and repeat).
    n_train : rows that a fold learns from.
    n_test : rows that a fold is tested on.

    Returns
    -------
    float. NaN where k < 2, a difference is NaN, or all are the same but not zero: then their
    spread is unknown; 1 where all are zero.
    """
    from scipy import stats

    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:
        return math.nan if differences[0] else 1.0
    t = np.mean(differences) / standard_error(differences, n_train, n_test)
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def standard_error(values: np.ndarray, n_train: int, n_test: int) -> float:
    """Return the corrected standard error of the mean over folds (Nadeau and Bengio 2003).

    Parameters
    ----------
    values : (k,) float, one per fold (and repeat).
    n_train : rows that a fold learns from.
    n_test : rows that a fold is tested on.

    Returns
    -------
    float. NaN where k < 2 or a value is NaN.
    """
    if len(values) < 2:
        return math.nan
    return float(np.sqrt((1 / len(values) + n_test / n_train) * np.var(values, ddof=1)))


def interval(
    values: np.ndarray, n_train: int, n_test: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the mean over folds, from Student's t and the corrected variance.

    Parameters
    ----------
    values : (k,) float, one per fold (and repeat).
    n_train : rows that a fold learns from.
    n_test : rows that a fold is tested on.
    level : of confidence.

    Returns
    -------
    (low, high). NaN where k < 2 or a value is NaN.
    """
    from scipy import stats

    if len(values) < 2:
        return math.nan, math.nan
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * standard_error(values, n_train, n_test)
    mean = float(np.mean(values))
    return mean - float(reach), mean + float(reach)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) of two heads on the same rows.

    Of the rows on which exactly one head is right, each is as likely to be right under the null
    hypothesis; the p-value is twice the smaller binomial tail, at most 1.

    Parameters
    ----------
    right_a, right_b : (n,) bool; whether the head's prediction of a row is right.
    """
    from scipy import stats

    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    tail = stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    return float(min(1.0, 2 * tail))


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


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic of n rows (Efron 1979).

    Parameters
    ----------
    statistic : takes (n,) int, rows drawn with replacement. Resamples of which it is NaN are left
        out.
    seed : int, of the drawing.
    level : of confidence.
    strata : (n,) int; each keeps its number of rows. None: all rows are of one.

    Returns
    -------
    (low, high). NaN where no resample has the statistic.
    """
    rng = np.random.default_rng(seed)
    members = [np.arange(n)]
    if strata is not None:
        members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    found = np.array(
        [
            statistic(np.concatenate([rng.choice(rows, len(rows)) for rows in members]))
            for _ in range(n_resamples if n else 0)
        ],
        np.float64,
    )
    found = found[~np.isnan(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def drawing(units: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from drawn units to all of their rows.

    Parameters
    ----------
    units : (n,) int, 0 and up without a gap; rows of the same number are drawn together.
    """
    order = np.argsort(units, kind="stable")
    sizes = np.bincount(units)
    starts = np.cumsum(sizes) - sizes
    if sizes.max() == 1:
        return lambda drawn: order[drawn]

    def rows(drawn: np.ndarray) -> np.ndarray:
        lengths = sizes[drawn]
        shift = np.repeat(starts[drawn] - (np.cumsum(lengths) - lengths), lengths)
        return np.asarray(order[shift + np.arange(len(shift))])

    return rows
