"""How long comparing heads takes, against a plain loop of GridSearchCV over the same candidates.

    python benchmarks/heads.py [--rows 10000] [--features 1280] [--no-loop] [--write]

Goals on two cores at 10,000 x 1,280 with 10 classes: the quick set, searched and nested over five
folds, in under 60 s, and in at most a quarter of the loop's time with the same winner within the
noise; the RBF SVM 5 times as fast as scikit-learn's; a dense head in under 8 s. Ratios are of one
run on one machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import page
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

import featcache as fc
from featcache import heads
from featcache.heads import neighbours

N_CLASSES = 10
N_FACTORS = 40  # what embeddings vary in, beside noise
SPREAD = 0.55  # of the class means in each factor, in standard deviations: 0.87 right or so
SCALERS = {"none": "passthrough", "standardise": StandardScaler(), "l2": Normalizer()}
N_JOBS = 2


def embeddings(n_rows: int, n_features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features like pooled ones, not negative and correlated, (n, d), and classes (n,)."""
    rng = np.random.default_rng(seed)
    means = SPREAD * rng.standard_normal((N_CLASSES, N_FACTORS))
    loadings = rng.standard_normal((N_FACTORS, n_features)) / np.sqrt(N_FACTORS)
    y = rng.integers(0, N_CLASSES, n_rows)
    factors = means[y] + rng.standard_normal((n_rows, N_FACTORS))
    noise = rng.standard_normal((n_rows, n_features))
    return np.maximum(factors @ loadings + noise, 0).astype(np.float32), y


def scikit_learn(name: str, params: dict[str, Any], X: np.ndarray) -> Any:
    """Return the pipeline that a user of scikit-learn would write for one of our settings."""
    params = heads.CATALOGUE[name](**params).get_params()
    scaler = SCALERS[params.get("preprocessing", "none")]
    if name == "dummy":
        return make_pipeline("passthrough", DummyClassifier())
    if name == "centroid":
        return make_pipeline(scaler, NearestCentroid())
    if name == "ridge":  # our penalty is relative to the variance of a feature
        scaled = X if scaler == "passthrough" else clone(scaler).fit_transform(X)
        alpha = params["alpha"] * 0.6 * len(X) * float(scaled.var(axis=0).mean())
        return make_pipeline(scaler, RidgeClassifier(alpha=alpha))
    if name == "lda":
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=params["shrinkage"])
        return make_pipeline(scaler, lda)
    if name == "logreg":
        return make_pipeline(scaler, LogisticRegression(C=params["C"], max_iter=2000))
    if name == "linear-svm":
        return make_pipeline(scaler, LinearSVC(C=params["C"], dual=True, max_iter=10_000))
    if name == "knn":
        knn = KNeighborsClassifier(
            params["k"],
            metric=params["metric"],
            weights=softmax_of_cosine if params["weights"] == "softmax" else params["weights"],
            algorithm="brute",
        )
        return make_pipeline(scaler, knn)
    raise ValueError(f"no scikit-learn counterpart of {name}")


def softmax_of_cosine(distances: np.ndarray) -> np.ndarray:
    """Weigh neighbours as our head does."""
    return np.exp((1 - distances) / neighbours.TEMPERATURE)


def loop(X: np.ndarray, y: np.ndarray, settings: dict[str, Any]) -> dict[str, float]:
    """Return the nested mean accuracy of each head, and fit what would ship."""
    outer = StratifiedKFold(5, shuffle=True, random_state=0)
    means = {}
    for name, grid in settings.items():
        pipelines = [scikit_learn(name, params, X) for params in grid]
        # one search over steps: so different pipelines are candidates of one GridSearchCV
        candidates = [
            {"0": [pipeline[0]], "1": [pipeline[1]]} for pipeline in map(_plain, pipelines)
        ]
        search = GridSearchCV(_plain(pipelines[0]), candidates, cv=4, n_jobs=N_JOBS)
        scores = [
            clone(search).fit(X[train], y[train]).score(X[test], y[test])
            for train, test in outer.split(X, y)
        ]
        means[name] = float(np.mean(scores))
        clone(search).set_params(cv=5).fit(X, y)
    return means


def _plain(pipeline: Any) -> Any:
    pipeline.steps = [(str(number), step) for number, (_, step) in enumerate(pipeline.steps)]
    return pipeline


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value


def rbf(X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return seconds to fit to 80 % of the rows and score the rest, ours and scikit-learn's."""
    n = len(X) * 4 // 5
    ours = heads.CATALOGUE["rbf-svm"](C=10.0, gamma=0.3)
    svc = SVC(C=10.0, gamma=0.3 / X.shape[1], cache_size=500)
    plain = make_pipeline(StandardScaler(), svc)
    X64 = X.astype(np.float64)
    with threadpool_limits(1):
        took, _ = timed(lambda: ours.fit(X[:n], y[:n]))
        scored, ours_said = timed(lambda: ours.predict(X[n:]))
        plain_took, _ = timed(lambda: plain.fit(X64[:n], y[:n]))
        plain_scored, plain_said = timed(lambda: plain.predict(X64[n:]))
    return {
        "ours_fit_s": took,
        "ours_score_s": scored,
        "plain_fit_s": plain_took,
        "plain_score_s": plain_scored,
        "ratio": (plain_took + plain_scored) / (took + scored),
        "ours_accuracy": float(np.mean(ours_said == y[n:])),
        "plain_accuracy": float(np.mean(plain_said == y[n:])),
    }


def dense(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the seconds of a fit of each setting to 80 % of the rows, compiled before."""
    n = len(X) * 4 // 5
    kind, found = heads.CATALOGUE["dense"], {}
    for params in kind.grid("classification"):
        kind(**params, epochs=1).fit(X[:1000], y[:1000])
        took, head = timed(lambda params=params: kind(**params).fit(X[:n], y[:n]))
        found[str(params)] = {
            "fit_s": took,
            "accuracy": float(np.mean(head.predict(X[n:]) == y[n:])),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--no-loop", action="store_true", help="leave GridSearchCV out")
    parser.add_argument("--write", action="store_true", help="put the table in docs/performance.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X, y = embeddings(options.rows, options.features)
    with tempfile.TemporaryDirectory() as folder:
        took, board = timed(
            lambda: fc.fit_heads((X, y), jobs=N_JOBS, folder=Path(folder, "x.heads"))
        )
    values: dict[str, Any] = {
        "rows": options.rows,
        "features": options.features,
        "quick_s": took,
        "quick": {result.name: result.mean for result in board.results},
        "interval": [board.results[0].low, board.results[0].high],
    }
    if not options.no_loop:
        settings = board.request["heads"]
        values["loop_s"], values["loop"] = timed(lambda: loop(X, y, settings))
        values["loop_ratio"] = values["loop_s"] / took
    values["rbf"] = rbf(X, y)
    values["dense"] = dense(X, y)
    if options.json:
        print(json.dumps(values))
        return
    text = shown(values)
    print(text)
    if options.write:
        page.put("heads", f"{page.machine()}\n\n{text}")


def shown(values: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    loop_means = values.get("loop", {})
    rows = [
        [name, f"{mean:.4f}", f"{loop_means[name]:.4f}" if name in loop_means else ""]
        for name, mean in values["quick"].items()
    ]
    low, high = values["interval"]
    lines = [
        f"{values['rows']:,} x {values['features']:,} features, {N_CLASSES} classes.",
        "",
        page.table(["head", "nested accuracy", "GridSearchCV loop"], rows),
        "",
        f"The quick set, searched and nested over five folds: {values['quick_s']:.1f} s; 95 % "
        f"interval of the first {low:.4f} to {high:.4f}.",
    ]
    if loop_means:
        lines.append(
            f"The loop over the same candidates: {values['loop_s']:.1f} s, "
            f"{values['loop_ratio']:.1f} times as long."
        )
    svm = values["rbf"]
    lines.append(
        f"RBF SVM: {svm['ours_fit_s']:.1f} + {svm['ours_score_s']:.1f} s, scikit-learn's "
        f"{svm['plain_fit_s']:.1f} + {svm['plain_score_s']:.1f} s, {svm['ratio']:.1f} times as "
        f"long; accuracy {svm['ours_accuracy']:.4f} and {svm['plain_accuracy']:.4f}."
    )
    for setting, one in values["dense"].items():
        lines.append(f"Dense {setting}: {one['fit_s']:.1f} s, accuracy {one['accuracy']:.4f}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
