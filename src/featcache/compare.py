"""Every head on the same folds of one feature file: search, leaderboard, fitted heads on disk.

Each setting of each head is scored by cross-validation on the training part; the best setting of
a head is fitted on the whole training part, scored once on the held-out part, and saved. Selection
looks at the folds alone. The numbers do not depend on how many processes share the work, because
every fit has one thread.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache import files, heads, progress, splits, store, weights_memo
from featcache.errors import HeadError, SpecError
from featcache.heads.dense import limit_threads
from featcache.leaderboard import Leaderboard, Result, load_if_same, write


def fit_heads(
    features: store.Features | str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    cv: int = 5,
    seed: int = 0,
    jobs: int = -1,
    dense: dict[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Leaderboard:
    """Return the leaderboard of heads fitted on cached features; save it beside the file.

    The same request on unchanged features is answered from the saved leaderboard.

    Parameters
    ----------
    features : a feature file or its path; labelled with at least two classes.
    names : heads of the catalogue; None is all of them.
    cv : number of stratified folds of the training part.
    seed : of the held-out part, the folds and the heads.
    jobs : processes; -1 is one a core. Does not change the numbers.
    dense : parameters of the dense head (hidden, dropout, batch_norm, …) instead of its grid.
    folder : where to save; None is beside the features, with the ending .heads.
    overwrite : fit again even if nothing changed.

    Raises
    ------
    HeadError
        When there is one class only, or a class has fewer training images than folds.
    StoreError
        When the feature file cannot be read.
    SpecError
        When a head's name or parameter is wrong.
    """
    if not isinstance(features, store.Features):
        features = store.Features(features)
    if features.task != "classification":
        raise HeadError(
            f"The heads learn one class an image; '{features.path}' is for {features.task}."
        )
    names = list(dict.fromkeys(names)) if names else list(heads.CATALOGUE)
    heads.check_names(names)
    splits.check_seed(seed)
    if jobs == 0:
        raise SpecError("jobs must be a number of processes, or -1 for one a core; got 0.")
    if dense and "dense" not in names:
        raise SpecError("Options of the dense head are given, but dense is not among the heads.")
    if cv < 2:
        raise SpecError(f"cv must be 2 folds or more; got {cv}.")
    folder = features.path.with_suffix(".heads") if folder is None else Path(folder)
    settings = {name: _settings(name, seed, dense) for name in names}
    request = {
        "features": features.content,
        "cv": cv,
        "seed": seed,
        "heads": {name: [_as_json(params) for params in grid] for name, grid in settings.items()},
        "versions": _versions(),
    }
    if not overwrite and (known := load_if_same(folder, request)) is not None:
        return known

    data = _Data.of(features, cv, seed)
    scores = _search(data, settings, jobs, show_progress)
    # the first of equals: grids go from simple to flexible
    chosen = {name: int(scores[name].mean(axis=1).argmax()) for name in names}
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    files.sweep(folder.parent, f"{folder.name}.")
    temporary.mkdir(parents=True)
    try:
        best = {name: (settings[name][chosen[name]], scores[name][chosen[name]]) for name in names}
        results = _refit_all(data, best, temporary, jobs)
        results.sort(key=lambda result: (-result.accuracy_mean, names.index(result.head)))
        board = Leaderboard(
            folder=folder,
            features_path=features.path.resolve(),
            spec=features.spec,
            class_names=features.class_names,
            results=tuple(results),
            request=request,
            n_train=len(data.y),
            n_test=len(data.y_test),
            majority=float(np.mean(data.y_test == np.bincount(data.y).argmax())),
        )
        write(board, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return board


@dataclass(frozen=True)
class _Data:
    """The training part with its folds, and the held-out part."""

    views: np.ndarray  # (n, v, d) features of the training part: all views, the clean one first
    y: np.ndarray  # (n,)
    X_test: np.ndarray  # (m, d) clean images
    y_test: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]  # (train rows, test rows) of `views`

    @classmethod
    def of(cls, features: store.Features, cv: int, seed: int) -> _Data:
        """Part a feature file; raise HeadError where it cannot be."""
        part = splits.parts(features.annotations, features.digests, seed)
        train, test = np.flatnonzero(part["train"] | part["val"]), np.flatnonzero(part["test"])
        if not len(train):
            where = "train/" if features.splits else "one subfolder a class"
            raise HeadError(
                f"Feature file '{features.path}' has no labelled training images. "
                f"Put images into {where} and extract again."
            )
        about = features.annotations.take(train)
        folds = splits.folds(
            about.labels, features.digests[train], cv, seed, features.class_names, about.groups
        )
        X, y = features.X, features.labels
        views = features.views[train] if features.spec.views > 1 else X[train][:, None]
        return cls(views, y[train], X[test], y[test], folds)


def _fit(
    name: str, params: dict[str, Any], views: np.ndarray, y: np.ndarray, rows: np.ndarray
) -> heads.Head:
    """Fit a head to all views of some rows; which are of one image is said to it."""
    some = views[rows]
    n, v, d = some.shape
    groups = np.repeat(np.arange(n), v) if v > 1 else None
    return heads.CATALOGUE[name](**params).fit(
        some.reshape(n * v, d), np.repeat(y[rows], v), groups
    )


def _search(
    data: _Data, settings: dict[str, list[dict[str, Any]]], jobs: int, show_progress: bool
) -> dict[str, np.ndarray]:
    """Return the accuracy of each setting of each head on each fold, (n_settings, n_folds)."""
    scores = {name: np.zeros((len(grid), len(data.folds))) for name, grid in settings.items()}
    tasks = [
        (name, number, fold)
        for name, grid in settings.items()
        for number in range(len(grid))
        for fold in range(len(data.folds))
    ]
    with (
        _parallel(jobs) as run,
        progress.bar("Folds", len(tasks), "fits", show_progress) as advance,
    ):
        done = run(
            _Call(
                _score_fold,
                (name, number, fold),
                (name, settings[name][number], data.views, data.y, *data.folds[fold]),
            )
            for name, number, fold in tasks
        )
        for (name, number, fold), accuracy in done:
            scores[name][number, fold] = accuracy
            advance(1)
    return scores


def _refit_all(
    data: _Data, best: dict[str, tuple[dict[str, Any], np.ndarray]], folder: Path, jobs: int
) -> list[Result]:
    """Fit each head's best setting on the whole training part, save it, score the held-out part."""
    folder = folder.resolve()  # a worker process may have another current folder
    parts = (data.views, data.y, data.X_test, data.y_test)
    results = []
    with _parallel(jobs) as run:
        done = run(
            _Call(_refit, name, (name, params, *parts, folder))
            for name, (params, _) in best.items()
        )
        for name, (file, accuracy, macro_f1, seconds, messages) in done:
            for message in messages:
                progress.note(f"{name}: {message}")
            params, fold_scores = best[name]
            results.append(
                Result(
                    head=name,
                    params=_as_json(params),
                    fold_accuracy=tuple(fold_scores.tolist()),
                    accuracy_mean=float(fold_scores.mean()),
                    accuracy_std=float(fold_scores.std()),
                    test_accuracy=accuracy,
                    test_macro_f1=macro_f1,
                    fit_s=seconds,
                    file=file,
                    file_digest=weights_memo.digest_file(folder / file),
                )
            )
    return results


def _settings(name: str, seed: int, dense: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the parameter sets to try for a head."""
    grid = [dense] if name == "dense" and dense else list(heads.CATALOGUE[name].grid)
    known = heads.CATALOGUE[name]().get_params()
    for params in grid:
        for key in params:
            if key not in known:
                raise SpecError(
                    f"Head '{name}' has no parameter '{key}'; it has {', '.join(sorted(known))}."
                )
    return [params | {"seed": seed} for params in grid]


@dataclass(frozen=True)
class _Call:
    """A call whose result comes back with the key it belongs to, in any order."""

    function: Any
    key: Any
    arguments: tuple[Any, ...]

    def __call__(self) -> tuple[Any, Any]:
        return self.key, self.function(*self.arguments)


@contextmanager
def _parallel(jobs: int) -> Iterator[Any]:
    """Yield a function that runs calls in processes of one thread each, as they finish."""
    import joblib
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1),
        joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1),
    ):
        yield lambda calls: joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(_Call.__call__)(call) for call in calls
        )


def _score_fold(
    name: str,
    params: dict[str, Any],
    views: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> float:
    """Fit on all views of the training rows, return the accuracy on the clean test rows."""
    limit_threads()
    with warnings.catch_warnings():
        # a setting that does not converge is a worse candidate; the chosen one is looked at again
        warnings.simplefilter("ignore")
        head = _fit(name, params, views, y, train)
    return float(np.mean(head.predict(views[test, 0]) == y[test]))


def _refit(
    name: str,
    params: dict[str, Any],
    views: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    folder: Path,
) -> tuple[str, float, float, float, list[str]]:
    """Fit on the training part, score the held-out part, save; return file, scores, warnings."""
    from sklearn.metrics import f1_score

    limit_threads()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        head = _fit(name, params, views, y, np.arange(len(y)))
        seconds = time.perf_counter() - started
    predicted = head.predict(X_test)
    messages = [" ".join(str(warning.message).split())[:200] for warning in caught]
    accuracy = float(np.mean(predicted == y_test))
    macro_f1 = float(f1_score(y_test, predicted, average="macro", zero_division=0))
    return heads.save(head, folder, name), accuracy, macro_f1, seconds, messages


def _as_json(params: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("featcache", "scikit-learn", "keras")}
