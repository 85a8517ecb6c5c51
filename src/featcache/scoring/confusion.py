"""What is taken for what, and how well each class, label or target does by itself."""

from __future__ import annotations

import numpy as np

from featcache.core.tasks import TASKS, TargetKind
from featcache.scoring.metrics import average_precision


def of_each(
    task: str, y: np.ndarray, outputs: np.ndarray, output: str
) -> tuple[list[dict[str, float]], np.ndarray | None]:
    """Return the scores of each class, label or target, and of a task that has it the confusion.

    Parameters
    ----------
    task : name of one; its `scores_of_each` are the keys.
    y : as the task's `TargetKind` says; classes are columns of `outputs`.
    outputs : (n, n_outputs) float.
    output : what they are.
    """
    about = TASKS[task]
    counts = None
    if about.has_confusion:
        counts = confusion(y, about.said(outputs, output), outputs.shape[1])
    if about.kind is TargetKind.NUMBERS:
        return per_target(y, outputs), counts
    if about.kind is TargetKind.LABELS:
        return per_label(y, outputs, about.threshold(output)), counts
    assert counts is not None, "classes are taken for each other"
    return per_class(counts), counts


def confusion(y: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return (k, k) int64: how many images of each class (row) were taken for which (column)."""
    flat = np.bincount(y * n_classes + predicted, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def per_class(counts: np.ndarray) -> list[dict[str, float]]:
    """Return precision, recall, F1 and support of each class of a confusion matrix (k, k)."""
    found = []
    for number in range(len(counts)):
        right = int(counts[number, number])
        predicted, support = int(counts[:, number].sum()), int(counts[number].sum())
        found.append(_scores(right, predicted, support))
    return found


def per_label(y: np.ndarray, outputs: np.ndarray, threshold: float) -> list[dict[str, float]]:
    """Return precision, recall, F1, average precision and support of each label.

    Parameters
    ----------
    y : (n, k) of 0 and 1.
    outputs : (n, k); a label is predicted from `threshold` on.
    """
    found = []
    for truth, output in zip(y.T.astype(bool), outputs.T, strict=True):
        positive = output >= threshold
        one = _scores(int((truth & positive).sum()), int(positive.sum()), int(truth.sum()))
        precision = average_precision(truth, output) if truth.any() else float("nan")
        found.append(one | {"average_precision": precision})
    return found


def per_target(y: np.ndarray, values: np.ndarray) -> list[dict[str, float]]:
    """Return mean absolute error, root mean squared error, R2 and bias of each target (n, k)."""
    found = []
    for truth, value in zip(y.T.astype(np.float64), values.T.astype(np.float64), strict=True):
        residual = value - truth
        varies = (truth != truth[0]).any()
        spread = ((truth - truth.mean()) ** 2).sum()
        found.append(
            {
                "mae": float(np.abs(residual).mean()),
                "rmse": float(np.sqrt((residual**2).mean())),
                "r2": float(1 - (residual**2).sum() / spread) if varies else float("nan"),
                "bias": float(residual.mean()),
            }
        )
    return found


def most_confused(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, images) of every kind of mistake, most first."""
    wrong = counts - np.diag(np.diag(counts))
    true, predicted = np.nonzero(wrong)
    found = zip(true.tolist(), predicted.tolist(), wrong[true, predicted].tolist(), strict=True)
    return sorted(found, key=lambda one: -one[2])


def _scores(right: int, predicted: int, support: int) -> dict[str, float]:
    both = predicted + support
    return {
        "precision": right / predicted if predicted else float("nan"),
        "recall": right / support if support else float("nan"),
        "f1": 2 * right / both if both else float("nan"),
        "support": support,
    }
