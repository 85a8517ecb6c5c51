"""What predictions of unseen images show: pure functions of arrays, that know no files.

Every probability that comes in is of an image that its head was not fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    row: int  # place in the arrays that were given
    given: int  # its label
    suggested: int  # what the head takes it for
    p_given: float
    p_suggested: float
    margin: float  # what it is ordered by; the lower, the likelier is the label wrong


def thresholds(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (k,): the mean probability of each class among the images labelled so."""
    n_classes = probabilities.shape[1]
    counts = np.bincount(y, minlength=n_classes)
    sums = np.bincount(y, probabilities[np.arange(len(y)), y], minlength=n_classes)
    # a class without images can be nobody's suggestion
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def label_suspects(
    probabilities: np.ndarray, y: np.ndarray, limits: np.ndarray | None = None
) -> list[Suspect]:
    """Return the images whose label is probably wrong, the likeliest first.

    Confident learning (Northcutt, Jiang and Chuang 2021): an image labelled i is suspected where
    some other class j has at least the mean probability that j has among images labelled j, and is
    more probable than i. They are ordered by the margin of the label over the other classes.

    Parameters
    ----------
    probabilities : (n, k), out of fold.
    y : (n,) the labels.
    limits : (k,) the `thresholds`; None takes them from the same images.
    """
    limits = thresholds(probabilities, y) if limits is None else limits
    rows = np.arange(len(y))
    given = probabilities[rows, y]
    others = np.array(probabilities, copy=True)
    others[rows, y] = -1.0
    margin = given - others.max(axis=1)
    others[others < limits] = -1.0
    suggested = others.argmax(axis=1)
    found = np.flatnonzero(others[rows, suggested] > given)
    return [
        Suspect(
            *(int(row), int(y[row]), int(suggested[row])),
            float(probabilities[row, y[row]]),
            float(probabilities[row, suggested[row]]),
            float(margin[row]),
        )
        for row in found[np.argsort(margin[found], kind="stable")]
    ]


def confident_mistakes(probabilities: np.ndarray, y: np.ndarray, limit: int) -> np.ndarray:
    """Return rows that are predicted wrongly, the surest first; at most `limit`."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != y)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:limit]


def principal_components(X: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """Return (n, k) coordinates on the first components (randomised SVD, Halko et al. 2011)."""
    X = X - X.mean(axis=0, dtype=np.float64).astype(np.float32)
    n_components = min(n_components, *X.shape)
    rng = np.random.default_rng(seed)
    size = min(n_components + 10, *X.shape)
    basis = X @ rng.standard_normal((X.shape[1], size)).astype(np.float32)
    for _ in range(6):
        basis, _ = np.linalg.qr(X @ (X.T @ basis))
    _, _, directions = np.linalg.svd(basis.T @ X, full_matrices=False)
    directions = directions[:n_components]
    # the sign is arbitrary; this one does not depend on the linear algebra library
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(n_components), largest])[:, None]
    return np.asarray(X @ directions.T)


def sample(strata: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return at most `n` places in ascending order, every stratum with about its share."""
    if len(strata) <= n:
        return np.arange(len(strata))
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, n).round().astype(int)])
