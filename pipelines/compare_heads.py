"""The scikit-learn head comparison: which linear or kernel head suits these features?

Shows: nested cross-validated accuracy of logistic regression, a linear SVM and an RBF SVM on the
same stratified folds, what each of them confuses most, and where the two best disagree.

    python pipelines/compare_heads.py FEATURES.h5

Scores to expect on example:clipart with efficientnet-lite0 (12 classes, chance 0.09): 0.69 for the
RBF SVM, 0.68 for logistic regression and the linear SVM, each with a 95 % interval of 0.08 or so to
either side, and statistically level.
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
    """Print the leaderboard and, for each head, the classes it mixes up in unseen images."""
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

    # out of fold, so that the held-out part is looked at for the selected head alone
    said = board.out_of_fold()
    named = [result.head for result in board.results if result.head in HEADS]
    predicted = {name: said.outputs[name].argmax(axis=1) for name in named}
    print(f"\nMixed up most often among {len(said.y)} training images, each out of fold:")
    for name, classes in predicted.items():
        print(f"  {name:<10} {mixed_up(said.y, classes, features.class_names)}")

    first, second = named[:2]
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
