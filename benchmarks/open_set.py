"""Images of no known class: each class of the clip art unknown in turn, and the promise kept.

    python benchmarks/open_set.py [--heads logreg,lda,linear-svm,knn] [--seeds 40]
                                  [--only areas,promise]

Prints AUROC and OSCR with 95 % intervals by head and score, and the share of known images kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

import featcache as fc
from featcache import heads
from featcache.heads.anomaly import Threshold
from featcache.heads.open_set import STRANGER_SCORES, logits_of

KEEP_KNOWN = 0.95


def areas(features: fc.Features, names: list[str], folder: str) -> None:
    """AUROC and OSCR of each score, with each class unknown in turn, nested over five folds."""
    for name in names:
        started = time.perf_counter()
        board = fc.fit_heads(
            features,
            [name],
            unknown=True,
            keep_known=KEEP_KNOWN,
            folder=f"{folder}/{name}.heads",
            report=False,
            show_progress=False,
        )
        seconds = time.perf_counter() - started
        about, best = board.open_set, board[name].result
        print(f"{name}: accuracy {best.mean:.3f}, {seconds:.0f} s with choosing its setting")
        for score, one in about["scores"].items():
            said = " ".join(
                "{} {:.3f} [{:.3f} {:.3f}]".format(
                    area.upper(), *(one[f"{area}{end}"] for end in ("", "_low", "_high"))
                )
                for area in ("auroc", "oscr")
            )
            taken = " taken" if score == about["score"] else ""
            print(f"  {score:11} {said} found {one['found']:.2f}{taken}", flush=True)


def promise(features: fc.Features, n_seeds: int) -> None:
    """The share kept of known images that neither taught the head nor set the threshold."""
    X, y = features.X.astype(np.float32), features.labels
    kept: dict[str, list[float]] = {name: [] for name in STRANGER_SCORES}
    inside = dict.fromkeys(STRANGER_SCORES, 0)
    promised = np.nan
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(len(y))
        learnt, held_out, new = np.split(order, [len(y) // 2, len(y) * 3 // 4])
        head = heads.CATALOGUE["lda"](shrinkage=0.9, preprocessing="l2").fit(X[learnt], y[learnt])
        logits = {
            name: logits_of(head, X[rows])
            for name, rows in (("learnt", learnt), ("held out", held_out), ("new", new))
        }
        for name, kind in STRANGER_SCORES.items():
            score = kind().fit(X[learnt], y[learnt], logits["learnt"])
            set_by = score.scores(X[held_out], logits["held out"])
            threshold = Threshold.of(set_by, 1 - KEEP_KNOWN)
            promised = 1 - threshold.promised
            share = np.mean(score.scores(X[new], logits["new"]) <= threshold.value)
            kept[name].append(float(share))
            low, high = threshold.interval
            few = 1.96 * np.sqrt(share * (1 - share) / len(new))  # new ones are few as well
            inside[name] += bool(1 - high - few <= share <= 1 - low + few)
    print(f"asked {KEEP_KNOWN}, promised {promised:.4f} by {len(held_out)} held-out images")
    for name, shares in kept.items():
        error = np.std(shares, ddof=1) / np.sqrt(n_seeds)
        print(
            f"  {name:11} kept {np.mean(shares):.4f} +- {1.96 * error:.4f} over {n_seeds} seeds, "
            f"{inside[name]} of them within their intervals"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default="logreg,lda,linear-svm,knn")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--only", default="areas,promise")
    parser.add_argument("--cache-dir", default="cache")
    given = parser.parse_args()
    features = fc.extract(cache_dir=given.cache_dir, show_progress=False)
    for part in given.only.split(","):
        if part == "areas":
            with tempfile.TemporaryDirectory() as folder:
                areas(features, given.heads.split(","), folder)
        else:
            promise(features, given.seeds)


if __name__ == "__main__":
    main()
