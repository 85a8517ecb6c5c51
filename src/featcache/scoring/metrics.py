"""Scores of predictions, by task, in plain NumPy so that a search may ask for one in its loop.

A metric that is undefined for what it is given is NaN, never an error or a warning.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featcache.core.checks import bad
from featcache.core.tasks import PROBABILITIES, TASKS, TargetKind, first_of

LOWER_IS_BETTER = frozenset({"log-loss", "ece", "mae", "rmse"})
NEEDS_PROBABILITIES = frozenset({"log-loss", "ece"})
FALSE_ALARMS = 0.05  # of recall-at-fpr-5
N_BINS = 15  # of the reliability diagram and of ece


def score(task: str, y: np.ndarray, outputs: np.ndarray, kind: str) -> dict[str, float]:
    """Return every metric of a task, in its own order; NaN where one is undefined.

    Parameters
    ----------
    task : name of one.
    y : as the task's `TargetKind` says; classes are columns of `outputs`.
    outputs : (n, n_outputs) float.
    kind : "probabilities", "scores" or "values"; what the outputs are.
    """
    return {name: score_one(name, task, y, outputs, kind) for name in TASKS[task].metrics}


def score_one(name: str, task: str, y: np.ndarray, outputs: np.ndarray, kind: str) -> float:
    """Return one metric of a task; arguments as for `score`.

    Areas, average precision and recall at a rate of false alarms are means over classes or labels,
    each against the rest; of anomalies they are of these against good images. A class or label
    without both positive and negative rows has none and is left out of the mean, and so is a target
    of a single value from that of r2; without any there is none. log-loss and ece are undefined
    for scores.
    """
    if not len(y) or (name in NEEDS_PROBABILITIES and kind != PROBABILITIES):
        return float("nan")
    about = TASKS[task]
    formulas = _OF_ONE_CLASS if about.is_one_class else _FORMULAS[about.kind]
    return formulas[name](y, outputs, kind)


def better(name: str) -> int:
    """Return 1 for a metric to maximise, -1 for one to minimise."""
    return -1 if name in LOWER_IS_BETTER else 1


def check(name: str | None, task: str) -> str:
    """Return the name of a metric of this task, its default for None.

    Raises
    ------
    SpecError
        When the task has no such metric.
    """
    if name is None:
        return TASKS[task].default_metric
    known = TASKS[task].metrics
    if not isinstance(name, str) or name not in known:
        raise bad("metric", f"be one of {', '.join(known)} for a {task} task", name)
    return name


def reliability(
    y: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS
) -> list[dict[str, float]]:
    """Return a reliability diagram: of each bin of the top probability, how often it was right.

    Guo et al. 2017, "On calibration of modern neural networks". Bin i holds the rows above `low`
    up to and with `high`; a bin without rows is left out.

    Parameters
    ----------
    y : (n,) int, columns of `probabilities`.
    probabilities : (n, n_classes) float.

    Returns
    -------
    list of {low, high, n, confidence, accuracy}; the last two are means over the bin's n rows.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], top, side="left")
    counts = np.bincount(bins, minlength=n_bins)
    confidence = np.bincount(bins, weights=top, minlength=n_bins)
    accuracy = np.bincount(bins, weights=right, minlength=n_bins)
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(counts[i]),
            "confidence": float(confidence[i] / counts[i]),
            "accuracy": float(accuracy[i] / counts[i]),
        }
        for i in np.flatnonzero(counts)
    ]


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return how often a positive row has a larger score than a negative one; ties count half.

    Mann and Whitney's U statistic over its maximum.

    Parameters
    ----------
    positive : (n,) bool, with both values.
    scores : (n,) float.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n_positive = int(positive.sum())
    n_pairs = n_positive * (len(positive) - n_positive)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / n_pairs)


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum over thresholds of (gain in recall) x precision, without interpolation.

    Parameters
    ----------
    positive : (n,) bool, with a true one.
    scores : (n,) float; rows of equal score are taken in together.
    """
    order = np.argsort(-scores)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[ends]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (ends + 1)) / hits[-1])


def _column_mean(
    one: Callable[[np.ndarray, np.ndarray], float], positive: np.ndarray, scores: np.ndarray
) -> float:
    """Return the mean over the columns that have both positive and negative rows."""
    both = positive.any(axis=0) & ~positive.all(axis=0)
    if not both.any() or not np.isfinite(scores).all():
        return float("nan")
    columns = np.flatnonzero(both)
    return float(np.mean([one(positive[:, column], scores[:, column]) for column in columns]))


def _accuracy(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return float(np.mean(outputs.argmax(axis=1) == y))


def _counts(y: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each class how many rows are hit, have it, and are said to have it."""
    said, n = outputs.argmax(axis=1), outputs.shape[1]
    hits, support = np.bincount(y[said == y], minlength=n), np.bincount(y, minlength=n)
    return hits, support, np.bincount(said, minlength=n)


def _balanced_accuracy(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    hits, support, _said = _counts(y, outputs)
    return float(np.mean(hits[support > 0] / support[support > 0]))


def _f1_of_classes(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    hits, support, said = _counts(y, outputs)
    sizes = support + said
    return float(np.mean(2 * hits[sizes > 0] / sizes[sizes > 0]))


def _log_loss(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    # always float64's, so that heads of either precision are judged alike
    eps = np.finfo(np.float64).eps
    p = outputs[np.arange(len(y)), y].astype(np.float64)
    return float(-np.mean(np.log(np.clip(p, eps, 1 - eps))))


def _roc_auc(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return _column_mean(area_under_roc, y[:, None] == np.arange(outputs.shape[1]), outputs)


def _of_anomalies(
    one: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray, str], float]:
    """Return a metric of classes that counts the second of two alone, against the first."""

    def metric(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
        return _column_mean(one, y[:, None] == 1, outputs[:, 1:2])

    return metric


def recall_at_fpr(positive: np.ndarray, scores: np.ndarray, rate: float = FALSE_ALARMS) -> float:
    """Return the largest share of positive rows above a threshold that few negative ones pass.

    Parameters
    ----------
    positive : (n,) bool, with both values.
    scores : (n,) float.
    rate : of negative rows that may lie above the threshold.
    """
    negative = np.sort(scores[~positive])
    threshold = negative[len(negative) - 1 - int(rate * len(negative))]
    return float(np.mean(scores[positive] > threshold))


def _average_precision(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return _column_mean(average_precision, y[:, None] == np.arange(outputs.shape[1]), outputs)


def _recall_at_fpr(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return _column_mean(recall_at_fpr, y[:, None] == np.arange(outputs.shape[1]), outputs)


def _ece(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    gaps = [one["n"] * abs(one["accuracy"] - one["confidence"]) for one in reliability(y, outputs)]
    return float(sum(gaps) / len(y))


def _mean_average_precision(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return _column_mean(average_precision, y == 1, outputs)


def _hits_of_labels(y: np.ndarray, outputs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return for each label how many rows are hit, and how many have it and are said to, added."""
    said = outputs >= first_of(TargetKind.LABELS).threshold(kind)
    return (said & (y == 1)).sum(axis=0), said.sum(axis=0) + (y == 1).sum(axis=0)


def _micro_f1(y: np.ndarray, outputs: np.ndarray, kind: str) -> float:
    hits, sizes = _hits_of_labels(y, outputs, kind)
    return float(2 * hits.sum() / max(sizes.sum(), 1))


def _f1_of_labels(y: np.ndarray, outputs: np.ndarray, kind: str) -> float:
    hits, sizes = _hits_of_labels(y, outputs, kind)
    return float(np.mean(2 * hits / np.maximum(sizes, 1)))


def _mae(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return float(np.mean(np.abs(outputs - y)))


def _rmse(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    return float(np.mean(np.sqrt(np.mean((outputs - y) ** 2, axis=0))))


def _r2(y: np.ndarray, outputs: np.ndarray, _: str) -> float:
    """Return the mean of 1 - residual / total over the targets that vary; of a constant it is 0/0.

    scikit-learn calls a constant that is hit 1, and otherwise 0, as if it had been explained.
    """
    varies = (y != y[0]).any(axis=0)
    if not varies.any():
        return float("nan")
    y, outputs = y[:, varies], outputs[:, varies]
    residual, total = ((outputs - y) ** 2).sum(axis=0), ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - residual / total))


# (y, outputs, what they are) -> score; a task names those of its kind that it is judged by
_FORMULAS: dict[TargetKind, dict[str, Callable[[np.ndarray, np.ndarray, str], float]]] = {
    TargetKind.CLASS: {
        "accuracy": _accuracy,
        "balanced-accuracy": _balanced_accuracy,
        "macro-f1": _f1_of_classes,
        "log-loss": _log_loss,
        "roc-auc": _roc_auc,
        "average-precision": _average_precision,
        "recall-at-fpr-5": _recall_at_fpr,
        "ece": _ece,
    },
    TargetKind.LABELS: {
        "map": _mean_average_precision,
        "micro-f1": _micro_f1,
        "macro-f1": _f1_of_labels,
    },
    TargetKind.NUMBERS: {"mae": _mae, "rmse": _rmse, "r2": _r2},
}
_OF_ONE_CLASS = {
    "roc-auc": _of_anomalies(area_under_roc),
    "average-precision": _of_anomalies(average_precision),
    "recall-at-fpr-5": _of_anomalies(recall_at_fpr),
}
