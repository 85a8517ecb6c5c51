"""Every head on the same folds of one feature file: search, leaderboard, fitted heads on disk.

Each setting of each head is scored by cross-validation on the training part; the best setting of
a head is fitted on the whole training part, scored once on the held-out part, and saved. Selection
looks at the folds alone. The numbers do not depend on how many processes share the work, because
every fit has one thread.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from featcache import heads, progress, splits, store
from featcache.errors import HeadError, SpecError
from featcache.heads.dense import limit_threads
from featcache.spec import ExtractionSpec

BOARD_FILE = "leaderboard.json"
BOARD_VERSION = 1


@dataclass(frozen=True)
class Result:
    """How one head did with its best setting."""

    head: str  # name in heads.CATALOGUE
    params: dict[str, Any]  # the setting; everything else is the head's default
    fold_accuracy: tuple[float, ...]  # of each fold of the training part
    accuracy_mean: float
    accuracy_std: float  # standard deviation over the folds
    test_accuracy: float  # on the held-out part
    test_macro_f1: float  # mean over classes
    fit_s: float  # seconds to fit on the whole training part
    file: str  # in the folder of the leaderboard


@dataclass(frozen=True)
class FittedHead:
    """A head of a leaderboard, with what stitching needs to know of its features."""

    board: Leaderboard
    result: Result

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        return self.result.head

    @property
    def path(self) -> Path:
        """The head's file."""
        return self.board.folder / self.result.file

    @cached_property
    def head(self) -> heads.Head:
        """The fitted head itself, loaded without running anything in its file."""
        return heads.load(self.name, self.path, _as_params(self.result.params))


@dataclass(frozen=True)
class Leaderboard:
    """Heads compared on one feature file, best first by mean accuracy over the folds."""

    folder: Path
    features_path: Path
    spec: ExtractionSpec
    class_names: tuple[str, ...]
    results: tuple[Result, ...]
    request: dict[str, Any]  # what was asked: features, folds, seed, heads, versions
    n_train: int
    n_test: int
    majority: float  # accuracy of always naming the largest class, on the held-out part

    @property
    def best(self) -> FittedHead:
        """The first head of the board."""
        return FittedHead(self, self.results[0])

    @property
    def seed(self) -> int:
        """Seed of the held-out part and the folds."""
        return int(self.request["seed"])

    def __getitem__(self, name: str) -> FittedHead:
        for result in self.results:
            if result.head == name:
                return FittedHead(self, result)
        known = ", ".join(result.head for result in self.results)
        raise SpecError(f"There is no head '{name}' in '{self.folder}'; it has {known}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what leaderboard.json holds, as plain JSON types."""
        return {
            "board_version": BOARD_VERSION,
            "features": os.fspath(self.features_path),
            "spec": self.spec.to_dict(),
            "fingerprint": self.spec.fingerprint,
            "class_names": list(self.class_names),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "majority": self.majority,
            "best": self.results[0].head,
            "results": [asdict(result) for result in self.results],
            "request": self.request,
        }

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        n_folds = self.request["cv"]
        table = Table("head", "setting", title_justify="left")
        for column in (f"accuracy, {n_folds} folds", "held out", "macro-F1", "fit"):
            table.add_column(column, justify="right", no_wrap=True)
        for row, result in enumerate(self.results):
            table.add_row(
                result.head,
                Text(_setting(result.params)),  # a list in brackets is no markup
                f"{result.accuracy_mean:.3f} ± {result.accuracy_std:.3f}",
                f"{result.test_accuracy:.3f}",
                f"{result.test_macro_f1:.3f}",
                f"{result.fit_s:.2f} s",
                style="bold" if row == 0 else "",
            )
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()


def fit_heads(
    features: store.Features | str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    cv: int = 5,
    seed: int = 0,
    jobs: int = -1,
    dense: dict[str, Any] | None = None,
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
    names = list(dict.fromkeys(names)) if names else list(heads.CATALOGUE)
    heads.check_names(names)
    if cv < 2:
        raise SpecError(f"cv must be 2 folds or more; got {cv}.")
    folder = features.path.with_suffix(".heads")
    settings = {name: _settings(name, seed, dense) for name in names}
    request = {
        "features": features.content,
        "cv": cv,
        "seed": seed,
        "heads": {name: [_as_json(params) for params in grid] for name, grid in settings.items()},
        "versions": _versions(),
    }
    if not overwrite and (known := _load_if_same(folder, request)) is not None:
        return known

    X, labels = features.X, features.labels
    given = None if features.splits is None else np.array(features.splits, object)
    part = splits.parts(labels, features.digests, given, seed)
    train, test = np.flatnonzero(part["train"] | part["val"]), np.flatnonzero(part["test"])
    if not len(train):
        raise HeadError(
            f"Feature file '{features.path}' has no labelled training images. "
            f"Put images into one subfolder a class and extract again."
        )
    folds = splits.folds(labels[train], features.digests[train], cv, seed, features.class_names)
    X_train, y_train, X_test, y_test = X[train], labels[train], X[test], labels[test]

    tasks = [
        (name, number, fold)
        for name, grid in settings.items()
        for number in range(len(grid))
        for fold in range(cv)
    ]
    scores = np.zeros((len(names), max(map(len, settings.values())), cv))
    with (
        _parallel(jobs) as run,
        progress.bar("Folds", len(tasks), "fits", show_progress) as advance,
    ):
        done = run(
            _Call(
                _score_fold,
                task,
                (task[0], settings[task[0]][task[1]], X_train, y_train, *folds[task[2]]),
            )
            for task in tasks
        )
        for (name, number, fold), accuracy in done:
            scores[names.index(name), number, fold] = accuracy
            advance(1)

    chosen = {}
    for row, name in enumerate(names):
        means = scores[row, : len(settings[name])].mean(axis=1)
        chosen[name] = int(means.argmax())  # the first of equals: grids go from simple to flexible
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        results = []
        with _parallel(jobs) as run:
            done = run(
                _Call(
                    _refit,
                    name,
                    (
                        name,
                        settings[name][chosen[name]],
                        X_train,
                        y_train,
                        X_test,
                        y_test,
                        temporary,
                    ),
                )
                for name in names
            )
            for name, (file, accuracy, macro_f1, seconds, messages) in done:
                for message in messages:
                    progress.note(f"{name}: {message}")
                fold_scores = scores[names.index(name), chosen[name]]
                results.append(
                    Result(
                        head=name,
                        params=_as_json(settings[name][chosen[name]]),
                        fold_accuracy=tuple(fold_scores.tolist()),
                        accuracy_mean=float(fold_scores.mean()),
                        accuracy_std=float(fold_scores.std()),
                        test_accuracy=accuracy,
                        test_macro_f1=macro_f1,
                        fit_s=seconds,
                        file=file,
                    )
                )
        results.sort(key=lambda result: (-result.accuracy_mean, names.index(result.head)))
        board = Leaderboard(
            folder=folder,
            features_path=features.path,
            spec=features.spec,
            class_names=features.class_names,
            results=tuple(results),
            request=request,
            n_train=len(train),
            n_test=len(test),
            majority=float(np.mean(y_test == np.bincount(y_train).argmax())),
        )
        _write(board, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return board


def load(folder: str | os.PathLike[str]) -> Leaderboard:
    """Return the leaderboard that `fit_heads` saved.

    Raises
    ------
    HeadError
        When the folder has none, or one that cannot be read.
    """
    folder = Path(folder)
    file = folder / BOARD_FILE
    if not file.is_file():
        raise HeadError(f"'{folder}' has no {BOARD_FILE}. Run `featcache fit-heads` first.")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved["board_version"] != BOARD_VERSION:
            raise HeadError(
                f"'{file}' has board version {saved['board_version']}; this featcache reads "
                f"version {BOARD_VERSION}. Run `featcache fit-heads` again."
            )
        return Leaderboard(
            folder=folder,
            features_path=Path(saved["features"]),
            spec=ExtractionSpec.from_dict(saved["spec"]),
            class_names=tuple(saved["class_names"]),
            results=tuple(
                Result(**(row | {"fold_accuracy": tuple(row["fold_accuracy"])}))
                for row in saved["results"]
            ),
            request=saved["request"],
            n_train=saved["n_train"],
            n_test=saved["n_test"],
            majority=saved["majority"],
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"'{file}' is damaged. Run `featcache fit-heads` again.") from error


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
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> float:
    limit_threads()
    with warnings.catch_warnings():
        # a setting that does not converge is a worse candidate; the chosen one is looked at again
        warnings.simplefilter("ignore")
        head = heads.CATALOGUE[name](**params).fit(X[train], y[train])
    return float(np.mean(head.predict(X[test]) == y[test]))


def _refit(
    name: str,
    params: dict[str, Any],
    X: np.ndarray,
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
        head = heads.CATALOGUE[name](**params).fit(X, y)
        seconds = time.perf_counter() - started
    predicted = head.predict(X_test)
    messages = [" ".join(str(warning.message).split())[:200] for warning in caught]
    accuracy = float(np.mean(predicted == y_test))
    macro_f1 = float(f1_score(y_test, predicted, average="macro", zero_division=0))
    return heads.save(head, folder, name), accuracy, macro_f1, seconds, messages


def _load_if_same(folder: Path, request: dict[str, Any]) -> Leaderboard | None:
    try:
        board = load(folder)
    except (HeadError, SpecError):
        return None
    has_files = all((folder / result.file).is_file() for result in board.results)
    return board if board.request == request and has_files else None


def _write(board: Leaderboard, folder: Path) -> None:
    """Write leaderboard.json and leaderboard.csv."""
    import csv

    text = json.dumps(board.to_dict(), indent=1, ensure_ascii=False)
    (folder / BOARD_FILE).write_text(text, encoding="utf-8")
    with (folder / "leaderboard.csv").open("w", newline="", encoding="utf-8") as file:
        columns = [key for key in asdict(board.results[0]) if key not in ("fold_accuracy", "file")]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for result in board.results:
            writer.writerow(asdict(result) | {"params": _setting(result.params)})


def _setting(params: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items() if key != "seed")


def _as_json(params: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}


def _as_params(params: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("featcache", "scikit-learn", "keras")}
