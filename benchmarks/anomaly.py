"""Defects from good images alone: by head and backbone, the memory's coreset, the promise kept.

    python benchmarks/anomaly.py [--good 250] [--bad 90] [--new 2000] [--only heads,memory,promise]

Needs scikit-image (in `dev`), whose brick, grass and gravel are cropped and damaged (defects.py);
of the clip art one class is good and the others are anomalies. Prints tables.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import defects
import numpy as np

import featcache as fc
from featcache import extraction
from featcache.heads.anomaly import NeighbourDistance, PatchMemory
from featcache.scoring.metrics import area_under_roc

TAPS = {  # maps of 28 x 28 places, from two depths
    "efficientnet-lite0": "block3b_add+block5c_add",
    "efficientnet-lite2": "block3c_add+block5d_add",
}
GOOD_DRAWINGS = "bird"


def maps_of(source: str, backbone: str, cache: Path) -> fc.Features:
    return extraction.run(
        source,
        backbone,
        layer=TAPS[backbone],
        pooling="none",
        cache_dir=cache,
        show_progress=False,
    ).features


def heads(folder: Path, n_good: int, n_bad: int) -> None:
    """AUROC, nested over five folds, by texture, backbone and head; and on what is held out."""
    sources = {
        name: str(defects.write(folder / name, name, n_good, n_bad, seed=0))
        for name in defects.TEXTURES
    }
    for name, source in (sources | {"clip art": "example:clipart"}).items():
        for backbone in TAPS:
            features = maps_of(source, backbone, folder / "cache")
            good = GOOD_DRAWINGS if name == "clip art" else "good"
            board = fc.fit_heads(
                features, task="anomaly", good=good, report=False, show_progress=False
            )
            for one in board.results:
                tested = "".join(f" {key} {value:.3f}" for key, value in (one.test or {}).items())
                print(
                    f"{name:9} {backbone:19} {one.name:14} {one.mean:.3f} "
                    f"[{one.low:.3f} {one.high:.3f}] fit {one.fit_s:5.1f} s{tested}",
                    flush=True,
                )


def memory(folder: Path) -> None:
    """A tenth of the memory beside the whole one and scikit-learn's exact neighbours."""
    from sklearn.neighbors import NearestNeighbors

    for name in defects.TEXTURES:
        source = str(defects.write(folder / name, name, 250, 90, seed=0))
        features = maps_of(source, "efficientnet-lite0", folder / "cache")
        y = (features.labels != features.class_names.index("good")).astype(int)
        good, bad = np.flatnonzero(y == 0), np.flatnonzero(y)
        learnt, judged = good[:200], np.concatenate([good[200:], bad])
        X, found = features.X, {}
        for share in (0.01, 0.1, 1.0):
            before, started = _peak_mb(), time.perf_counter()
            head = PatchMemory(coreset=share).fit(X[learnt], y[learnt])
            took, peak = time.perf_counter() - started, _peak_mb()
            found[share] = head.scores(X[judged])
            auc = area_under_roc(y[judged] == 1, found[share])
            print(
                f"{name:7} coreset {share:4} of {len(learnt)} images of {X.shape[1]} x "
                f"{X.shape[2]} patches: AUROC {auc:.4f}, fit {took:.1f} s, peak {peak} MB "
                f"({peak - before} more)",
                flush=True,
            )
        whole = PatchMemory(coreset=1.0).fit(X[learnt], y[learnt])
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(whole.memory_)
        some = judged[:: max(1, len(judged) // 40)]
        patches = whole._patches(X[some].reshape(len(some), -1))
        distance, _ = search.kneighbors(patches.reshape(-1, patches.shape[-1]))
        places = (distance**2).reshape(len(some), -1)
        exact = np.sort(places, axis=1)[:, -whole._n_worst(whole.worst) :].mean(axis=1)
        print(
            f"{name:7} scikit-learn's neighbours on {len(some)} images: largest difference "
            f"{np.abs(exact - whole.scores(X[some])).max():.1e}",
            flush=True,
        )


def promise(folder: Path, n_new: int) -> None:
    """False alarms on new good crops, whose rate the threshold promised."""
    for name in defects.TEXTURES:
        source = defects.write(folder / name, name, 250, 90, seed=0)
        more = defects.write(folder / f"new-{name}", name, n_new, 0, seed=1)
        learnt = extraction.run(str(source), cache_dir=folder / "cache", show_progress=False)
        new = extraction.run(str(more), cache_dir=folder / "cache", show_progress=False)
        X, y = learnt.features.X, learnt.features.labels
        good = X[y == learnt.features.class_names.index("good")]
        rng, rates, inside = np.random.default_rng(0), [], []
        for _ in range(20):  # which fifth is held out
            order = rng.permutation(len(good))
            head = NeighbourDistance().fit(good[order[50:]], np.zeros(len(good) - 50, int))
            head.set_threshold(good[order[:50]])
            rates.append(float(head.predict(new.features.X).mean()))
            low, high = head.threshold_.interval
            inside.append(low <= rates[-1] <= high)
        print(
            f"{name:7} promised {head.threshold_.promised:.4f}, of {n_new} new crops "
            f"{np.mean(rates):.4f} on average over 20 thresholds; {sum(inside)} of 20 within "
            f"their intervals, the last [{low:.3f} {high:.3f}]",
            flush=True,
        )


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--good", type=int, default=250)
    parser.add_argument("--bad", type=int, default=90)
    parser.add_argument("--new", type=int, default=2000)
    parser.add_argument("--only", default="heads,memory,promise")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in given.only.split(","):
            if part == "heads":
                heads(folder, given.good, given.bad)
            elif part == "memory":
                memory(folder)
            else:
                promise(folder, given.new)


if __name__ == "__main__":
    main()
