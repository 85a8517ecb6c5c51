"""Intervals of scores that hold with few images and with scores next to their limit.

A score of 1 on 40 images does not say that the score is 1. So the standard error of a score is
turned into an effective number of rows, at most as many as could tell at all, and the interval is
Wilson's for that number: it has width wherever the number is finite, and stays between 0 and 1.
Scores that have no upper limit get theirs on a logarithmic scale.

What is drawn is units: copies of one image, and images of one group, say one thing together.

Sources: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; Korn
and Graubard 1998, "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data" (the effective number of rows); Nadeau and Bengio 2003,
"Inference for the generalization error", and Bates, Hastie and Tibshirani 2024, "Cross-validation:
what does it estimate and how well does it do it?" (what the choice of training rows adds); Cortes,
Jackel, Solla, Vapnik and Denker 1994, "Learning curves: asymptotic values and rate of convergence"
(the power law of errors).
"""

from __future__ import annotations

import math

import numpy as np

from featcache.core.tasks import TASKS, TargetKind
from featcache.scoring import metrics
from featcache.scoring.jackknife import mean_score, standard_error, without_groups

LEVEL = 0.95
FEW = 3  # rows that are right, or wrong, up to which a share counts as next to its limit
# What cross-validation adds to the variance of drawing rows: its models learn from other rows, and
# from fewer, than the one that ships. At least the first where nothing is seen of it, at most the
# second; measured, see benchmarks/coverage.py
LEAST_OF_TRAINING, MOST_OF_TRAINING = 1.65, 1.9
AT_THE_LIMIT = 1.35  # the same for a score next to its limit, which is not known to vary at all
OF_GAIN = 0.5  # the standard error of what more rows bring, as a share of it


def wilson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share of `n` independent rows.

    Next to 0 and 1 its nearer end is moved outwards to what Poisson's distribution says, as Brown,
    Cai and DasGupta 2001 advise ("Interval estimation for a binomial proportion"): one mistake in
    12 rows is what a share of 0.99 gives in a tenth of draws, and Wilson's interval ends at 0.985.

    Parameters
    ----------
    share : 0 to 1.
    n : above 0, not necessarily whole.
    level : of confidence.
    """
    z = _quantile(level)
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * reach) / (1 + z * z / n) for sign in (-1, 1))
    low = min(low, _at_least(share * n, n, level) / n)
    high = max(high, 1 - _at_least(n - share * n, n, level) / n)
    # what is exact on paper is not in floating point
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def _at_least(few: float, n: float, level: float) -> float:
    """Return the lower limit of a count, by Poisson's distribution; none where it is not small."""
    from scipy import stats

    return float(stats.gamma.ppf(1 - level, few)) if 0 < few <= min(FEW, n / 8) else math.inf


def with_training(se: float, of_each_fold: np.ndarray, n_folds: int) -> float:
    """Return the standard error of a cross-validated score, with what training rows add to it.

    Parameters
    ----------
    se : of drawing the rows that are tested, as `standard_error` gives it.
    of_each_fold : (repeats * n_folds,) float, the scores.
    n_folds : folds of each repeat, 2 or more.

    Returns
    -------
    float. Folds that differ by more than the drawing of their rows explains add the rest, with
    Nadeau and Bengio's factor.
    """
    more = max(0.0, float(np.var(of_each_fold, ddof=1)) - n_folds * se**2)  # NaN adds nothing
    total = se**2 + (1 / len(of_each_fold) + 1 / (n_folds - 1)) * more
    return math.sqrt(min(max(total, LEAST_OF_TRAINING * se**2), MOST_OF_TRAINING * se**2))


def with_all_rows(metric: str, value: float, fewer: float, n_folds: int) -> float:
    """Return the score that a model of all rows is expected to have.

    The models of cross-validation miss one of `n_folds` parts of the rows. With few images a class
    that shows: with eight each, a true 0.76 is found to be 0.70. Errors fall as a power of the
    number of rows, so models that miss two parts tell how much the last one brings.

    Parameters
    ----------
    metric : its name.
    value, fewer : the score of models that miss one part, and two.
    n_folds : parts, 3 or more.

    Returns
    -------
    float. The value itself where fewer rows did as well, or nothing is known of them.
    """
    error, before = (_error_of(metric, score) for score in (value, fewer))
    if not 0 < error < before:  # nor if either is NaN
        return value
    steps = math.log(n_folds / (n_folds - 1)) / math.log((n_folds - 1) / (n_folds - 2))
    expected = error * (error / before) ** steps
    return float(expected if _is_error(metric) else 1 - expected)


def _is_error(metric: str) -> bool:
    return metrics.better(metric) < 0


def _error_of(metric: str, score: float) -> float:
    return score if _is_error(metric) else 1 - score


def of_score(
    metric: str, value: float, se: float, n: float, unseen: float = 0.0, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of a score.

    Parameters
    ----------
    metric : its name.
    value, se : the score and its standard error.
    n : independent rows that could tell at most, see `most_rows`.
    unseen : of an error, what mistakes that were not among the rows could add to it.
    level : of confidence.

    Returns
    -------
    (low, high), around the value. NaN where the value or its standard error is.
    """
    return _around(metric, value, value, se, n, unseen, level)


def _around(
    metric: str, expected: float, value: float, se: float, n: float, unseen: float, level: float
) -> tuple[float, float]:
    """Return an interval around what is expected, with what was found in it."""
    if math.isnan(value) or math.isnan(se):
        return math.nan, math.nan
    if metric == "r2":  # 1 - r2 is a ratio of sums of squares
        high, low = (1 - end for end in _of_error(1 - expected, se, n, unseen, level))
    elif _is_error(metric):
        low, high = _of_error(expected, se, n, unseen, level)
    else:
        spread = value * (1 - value)
        if se > 0 and spread > 0:
            n = min(n, spread / se**2)
        low, high = wilson(min(max(expected, 0.0), 1.0), n, level)
    return min(low, value), max(high, value)


def _of_error(
    value: float, se: float, n: float, unseen: float, level: float
) -> tuple[float, float]:
    """Return an interval, on a logarithmic scale, of what is above 0 and has no upper limit.

    The scale's spread is that of a lognormal distribution with this mean and standard error: a
    small error that is known badly has a wide interval, and not one without end.
    """
    if value <= 0:
        return value, value + unseen
    spread = max(se / value, 1 / n)
    factor = math.exp(_quantile(level) * math.sqrt(2 * math.log(math.hypot(1, spread))))
    return value / factor, value + math.hypot(value * factor - value, unseen)


def unseen(metric: str, kind: TargetKind, y: np.ndarray, outputs: np.ndarray, n: float) -> float:
    """Return what mistakes that `n` rows happen not to show could add to an error.

    Where nearly all rows are right, log-loss hangs on the few that are not: their share may be as
    large as Wilson's upper limit, and each costs what the least sure rows would if they were wrong.
    An error of targets that are all hit may be as large as the targets' spread in so many rows.
    """
    most = wilson(0.0, n)[1]
    if kind is TargetKind.NUMBERS:
        return most * float(np.mean(np.std(y, axis=0)))
    if metric != "log-loss":
        return 0.0
    rows = np.arange(len(y))
    said = outputs.argmax(axis=1)
    p = np.clip(outputs.astype(np.float64), np.finfo(np.float64).eps, 1)
    doubt = 1 - p[rows, said]
    p[rows, said] = 0
    of_mistake = -np.log(np.clip(p.max(axis=1), np.finfo(np.float64).eps, 1))
    share = float(np.mean(said != y))
    cost = float(np.average(of_mistake, weights=doubt + np.finfo(np.float64).tiny))
    return (wilson(share, n)[1] - share) * cost


def _quantile(level: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf((1 + level) / 2))


_MEANS_OVER_CLASSES = (
    *("balanced-accuracy", "macro-f1", "roc-auc"),
    *("average-precision", "recall-at-fpr-5"),
)


def most_rows(metric: str, kind: TargetKind, y: np.ndarray, units: np.ndarray) -> float:
    """Return how many independent rows of equal weight could tell of a metric, at most.

    Parameters
    ----------
    metric : its name.
    kind : of `y`.
    y : as the kind says.
    units : (n,) int; rows of one number count once.
    """
    n_units = len(np.unique(units))
    if kind is not TargetKind.CLASS or metric not in _MEANS_OVER_CLASSES:
        return n_units
    # a mean over classes is as uncertain as the mean of one over their sizes
    sizes = np.array([len(np.unique(units[y == one])) for one in np.unique(y)])
    return float(min(n_units, len(sizes) ** 2 / np.sum(1 / sizes)))


def of_share(right: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Return the interval of the share of rows that are right.

    Parameters
    ----------
    right : (n,) bool.
    units : (n,) int; rows of one number, copies of an image or of one group, are drawn together.
    """
    se = standard_error(without_groups(lambda rows: float(np.mean(right[rows])), units))
    return of_score("accuracy", float(np.mean(right)), se, len(np.unique(units)))


def of_outputs(
    metric: str, task: str, y: np.ndarray, outputs: np.ndarray, kind: str, units: np.ndarray
) -> tuple[float, float]:
    """Return the interval of a score of rows that taught nothing.

    Parameters
    ----------
    metric, task : their names.
    y : as the task's `TargetKind` says.
    outputs : (n, n_outputs).
    kind : probabilities, scores or values.
    units : (n,) int; as for `of_share`.
    """
    statistic, about = mean_score(metric, task, y, [(outputs, kind)]), TASKS[task].kind
    n = most_rows(metric, about, y, units)
    value = statistic(np.arange(len(y)))
    se = standard_error(without_groups(statistic, units))
    return of_score(metric, value, se, n, unseen(metric, about, y, outputs, n))


def of_folds(
    metric: str,
    task: str,
    y: np.ndarray,
    outputs: np.ndarray,
    units: np.ndarray,
    of_each_fold: np.ndarray,
    left_out: np.ndarray,
    n_folds: int,
    fewer: float = math.nan,
) -> tuple[float, float]:
    """Return the interval of a score by cross-validation, for a model of all its rows.

    Parameters
    ----------
    metric, task, y, units : as for `of_outputs`.
    outputs : (n, n_outputs), out of fold, of the first repeat.
    of_each_fold : (repeats * n_folds,) float, the scores; their mean is in the interval.
    left_out : what `jackknife.replicates` gives for all repeats.
    n_folds : of each repeat.
    fewer : mean score of models that miss two folds, if known; see `with_all_rows`.
    """
    about, value = TASKS[task].kind, float(np.mean(of_each_fold))
    expected = with_all_rows(metric, value, fewer, n_folds)
    se = with_training(standard_error(left_out), of_each_fold, n_folds)
    se = math.hypot(se, OF_GAIN * (expected - value))
    n = most_rows(metric, about, y, units) / AT_THE_LIMIT
    more = unseen(metric, about, y, outputs, n)
    return _around(metric, expected, value, se, n, more, LEVEL)
