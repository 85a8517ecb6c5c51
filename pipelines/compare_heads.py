"""The scikit-learn head comparison: which linear or kernel head suits these features?

Shows: cross-validated accuracy of logistic regression, a linear SVM and an RBF SVM on the same
stratified folds, what each of them confuses most, and where the two best disagree.

    python pipelines/compare_heads.py FEATURES.h5

Scores to expect on example:clipart with efficientnet-lite0 (12 classes, chance 0.09): 0.69 for the
linear SVM, 0.68 for logistic regression, 0.66 for the RBF SVM, each give or take 0.05 over folds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

import featcache as fc

HEADS = ("logreg", "linear-svm", "rbf-svm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path, help="a file written by `featcache extract`")
    parser.add_argument("--cv", type=int, default=5, help="folds (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    options = parser.parse_args()
    try:
        compare(options)
    except fc.FeatcacheError as error:
        sys.exit(f"Error: {error}")


def compare(options: argparse.Namespace) -> None:
    """Print the leaderboard and, for each head, the classes it mixes up on held-out images."""
    features = fc.Features(options.features)
    # a folder of its own, so that the full comparison beside the features stays as it is
    board = fc.fit_heads(
        features,
        HEADS,
        cv=options.cv,
        seed=options.seed,
        jobs=options.jobs,
        folder=features.path.with_suffix(".sklearn-heads"),
    )
    print(board)

    X, y = features.arrays("test", seed=options.seed)
    predicted = {result.head: board[result.head].head.predict(X) for result in board.results}
    print(f"\nMixed up most often among {len(y)} held-out images:")
    for name, classes in predicted.items():
        print(f"  {name:<10} {mixed_up(y, classes, features.class_names)}")

    first, second = (result.head for result in board.results[:2])
    n_differ = int(np.sum(predicted[first] != predicted[second]))
    print(f"\n{first} and {second} disagree on {n_differ} of them.")


def mixed_up(y: np.ndarray, predicted: np.ndarray, names: tuple[str, ...], n: int = 3) -> str:
    """Return the `n` commonest confusions as text."""
    counts = confusion_matrix(y, predicted, labels=range(len(names)))
    np.fill_diagonal(counts, 0)
    pairs = [np.unravel_index(place, counts.shape) for place in np.argsort(-counts, axis=None)[:n]]
    return ", ".join(
        f"{names[true]} as {names[said]} ({counts[true, said]})"
        for true, said in pairs
        if counts[true, said]
    )


if __name__ == "__main__":
    main()
