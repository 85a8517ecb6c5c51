"""Every head on the same folds: search, leaderboard, fitted heads and a report on disk.

Settings are chosen by nested cross-validation on the training part (`nested_cv`), so that the score
of an outer fold is of a head that never saw it, its settings included. What ships is fitted on the
whole training part; the selected head alone is scored on the held-out part, once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.core import atomic, disk, progress
from featcache.core.checks import check_choice, whole_number, with_checked_arguments
from featcache.core.errors import SpecError
from featcache.core.running import DEFAULT_CACHE
from featcache.core.tasks import TASKS
from featcache.data import splits
from featcache.scoring import leaderboard, metrics
from featcache.scoring.leaderboard import Leaderboard
from featcache.selection import (
    anomalies,
    candidates,
    folds,
    heads_folder,
    learning_curve,
    nested_cv,
    open_set,
    parallel,
    ranking,
    shared_fits,
)
from featcache.selection.comparison import Comparison, asked_of
from featcache.selection.dataset import Dataset
from featcache.selection.opening import opened
from featcache.selection.preference import LEVEL, PREFERENCES
from featcache.store import uploading, working_copy

CALIBRATIONS = ("auto", "temperature", "platt", "isotonic")
CLASS_WEIGHTS = (None, "balanced")
FALSE_ALARMS = 0.05


@with_checked_arguments
def fit_heads(
    features: Any,
    names: str | Sequence[Any] | None = None,
    *,
    cv: int = 5,
    repeats: int = 1,
    metric: str | None = None,
    prefer: str = LEVEL,
    class_weight: str | None = None,
    calibrate: str | None = None,
    learning_curve: bool = False,
    seed: int = 0,
    jobs: int = -1,
    backend: str = "loky",
    scheduler: str | None = None,
    address: str | None = None,
    dense: dict[str, Any] | None = None,
    task: str | None = None,
    good: str = "",
    false_alarms: float = FALSE_ALARMS,
    unknown: bool = False,
    keep_known: float = open_set.KEEP_KNOWN,
    groups: Sequence[Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    overwrite: bool = False,
    report: bool = True,
    show_progress: bool = True,
) -> Leaderboard:
    """Return the leaderboard of heads fitted on cached features; save it with a report.

    The same request on unchanged features is answered from the saved leaderboard.

    Parameters
    ----------
    features : a feature file, its path or s3:// URL; several of them, for backbones x heads on the
        same folds of the images that all have; or arrays (X, y): (n, d) numbers and (n,) classes,
        (n, k) of 0 and 1, or float targets.
    names : "quick" (None) for the heads that a minute has time for, by rows, features and outputs
        (see `quick`); "all"; or a list of "quick", names of the catalogue, heads of it with
        settings instead of its grid (`heads.CATALOGUE["logreg"](preprocessing="l2+standardise")`),
        scikit-learn estimators, (name, estimator) pairs and "module:factory" texts.
    cv : outer folds, 3 or more; the inner folds of one are the others.
    repeats : of the cross-validation, on other folds each time.
    metric : what is optimised; None is accuracy, map or rmse by task. See `Task.metrics`.
    prefer : which head is selected. "level": of those statistically level with the best score, one
        whose outputs are probabilities, and of these the simplest. "best": the best score.
        "simple": the simplest head, and setting, within one standard error of the best (Breiman et
        al. 1984). The floor, dummy, is never selected.
    class_weight : "balanced" weighs classes by the inverse of their size, in heads that can.
    calibrate : auto, temperature, platt or isotonic: turn outputs into calibrated probabilities, by
        a map fitted on out-of-fold outputs.
    learning_curve : also score the selected head with parts of the training rows.
    seed : of the held-out part, the folds and the heads.
    jobs : processes; -1 is one per core. Does not change the numbers.
    backend : loky, dask or ray, as joblib knows them.
    scheduler : address of Dask's scheduler, as tcp://HOST:8786. None is the current client's, else
        that which DASK_SCHEDULER_ADDRESS names, else a new cluster of processes here.
    address : of a Ray cluster, as HOST:6379. None is that which RAY_ADDRESS names, else a new one.
    dense : parameters of the dense head (hidden, dropout, batch_norm, …) instead of its grid.
    task : "anomaly": learn from good images alone what others are unlike, from vectors or from
        maps; all other images judge it. Of plain arrays also what to learn where `y` does not tell.
    good : of anomalies, the class whose images are good; "" is that called good, normal or ok, or
        the only one. Where nothing is labelled all images are good.
    false_alarms : of anomalies, the rate of good images that may be called one; see
        `heads.anomaly.Threshold`, which says what is promised.
    unknown : of classification, have the first head that can be stitched also say unknown: leave
        each class out in turn, and take the score that tells its images best; see `open_set`.
    keep_known : the share of images of known classes that is not called unknown.
    groups : of plain arrays, (n,): rows of one group are never parted.
    folder : where to save; None is beside the features, as .heads. What others put there stays.
    cache_dir : where heads are saved that have no such place: those of arrays, in
        `arrays-DIGEST/arrays.heads`, and of features in a folder that may not be written to.
    overwrite : fit again even if nothing changed.
    report : write report.html into the folder.

    Raises
    ------
    HeadError
        When there is one class only, a class has fewer training images than folds, features are not
        finite, or `unknown` takes more classes or held-out images.
    StoreError
        When a feature file cannot be read.
    SpecError
        When an option, a head's name or a parameter is wrong.
    DiskError
        When heads have to be fitted, and cannot be saved.
    EngineError
        When the backend is not installed, or its cluster does not answer.
    """
    cv = whole_number("cv", cv, splits.MIN_FOLDS)
    repeats = whole_number("repeats", repeats, 1)
    check_choice("prefer", prefer, PREFERENCES)
    check_choice("class_weight", class_weight, CLASS_WEIGHTS)
    check_choice("calibrate", calibrate, (None, *CALIBRATIONS))
    seed = splits.check_seed(seed)
    on = parallel.Backend(backend, scheduler, address)
    jobs = parallel.check(jobs, on)
    dataset = opened(features, task, groups, good)
    open_set.check(dataset, unknown, keep_known)
    about = dataset.annotations
    metric = metrics.check(metric, about.task)
    if calibrate is not None and not TASKS[about.task].is_calibrated:
        can = " and ".join(name for name, one in TASKS.items() if one.is_calibrated)
        raise SpecError(f"calibrate is for {can}; the task here is {about.task}.")
    parts = splits.parts(about, dataset.digests, seed)
    n_views = max(1 if one.spec is None else one.spec.views for one in dataset.sets)
    chosen, left_out = candidates.choose(
        names,
        task=about.task,
        size=(
            int((parts["train"] | parts["val"]).sum()) * n_views,
            max(one.n_features for one in dataset.sets),
            len(about.output_names),
        ),
        metric=metric,
        class_weight=class_weight,
        calibrate=calibrate,
        seed=seed,
        dense=dense,
        false_alarms=false_alarms,
        are_maps=all(dataset.map_shapes),
    )
    cache = working_copy.pulled(cache_dir)
    place = heads_folder.beside(dataset, cache) if folder is None else Path(folder)
    request = {
        "features": sorted(one.content for one in dataset.sets),
        "cv": cv,
        "repeats": repeats,
        "metric": metric,
        "prefer": prefer,
        "seed": seed,
        "class_weight": class_weight,
        "calibrate": calibrate,
        "curve": learning_curve,
        "heads": asked_of(chosen),
        "versions": _versions(),
    }
    if TASKS[about.task].is_one_class:
        request |= {"good": about.class_names[0], "false_alarms": false_alarms}
    if unknown:
        request |= {"unknown": True, "keep_known": keep_known}
    is_known = not overwrite and not any(one.is_own for one in chosen)
    # who only reads needs no lock, and may have no right to write
    board = heads_folder.known(place, cache, request) if is_known else None
    if board is None:
        place = heads_folder.ready(place, dataset, cache) if folder is None else place
        place = heads_folder.checked(place)
        with heads_folder.alone(place, show_progress):
            board = heads_folder.known(place, cache, request) if is_known else None
            if board is None:
                comparison = Comparison(
                    task=about.task,
                    metric=metric,
                    n_outputs=len(dataset.annotations.output_names),
                    prefer=prefer,
                    seed=seed,
                    candidates=tuple(chosen),
                    calibrates=calibrate is not None,
                    moments_travel=backend == "loky",
                    map_shapes=dataset.map_shapes,
                )
                how = (jobs, on, show_progress)
                board = _compare(dataset, parts, comparison, request, left_out, place, *how)
    if report and not (board.folder / leaderboard.REPORT_FILE).exists():
        heads_folder.add_report(board, show_progress)
    uploading.push_results(board.folder, show_progress)
    return board


def _compare(
    dataset: Dataset,
    parts: folds.SplitMasks,
    comparison: Comparison,
    request: dict[str, Any],
    left_out: dict[str, str],
    folder: Path,
    jobs: int,
    backend: parallel.Backend,
    show_progress: bool,
) -> Leaderboard:
    """Compare, and put the outcome in place of what was in the folder."""
    disk.demand(folder, dataset.size_bytes)
    with (
        atomic.replacing(folder, is_ours=heads_folder.own_files(folder)) as made,
        atomic.temporary(atomic.real(folder)) as scratch,
    ):
        made.mkdir(parents=True)
        scratch.mkdir()
        data = folds.prepare(
            dataset, parts, request["cv"], request["repeats"], comparison.seed, scratch
        )
        total, class_names = nested_cv.n_calls(data, comparison), dataset.annotations.output_names
        if "unknown" in request:
            total += open_set.n_calls(data, class_names, comparison.seed)
        with (
            parallel.processes(jobs, backend) as run,
            progress.bar("Fitting", total, "fits", show_progress) as advance,
        ):
            run = shared_fits.where_needed(run, data, jobs, advance)
            found = nested_cv.search_and_fit(data, comparison, made, run, advance)
            for one in found:
                for message in one.messages:
                    progress.note(f"{one.candidate.name}: {message}", show_progress)
            if TASKS[comparison.task].is_one_class:
                anomalies.set_thresholds(data, found, request["false_alarms"])
            names = [
                f"{dataset.sets[one.features].name}/{one.candidate.name}"
                if len(dataset.sets) > 1
                else one.candidate.name
                for one in found
            ]
            judged, luck = ranking.judge(data, comparison, found, names, made, request["calibrate"])
            curve = None
            if request["curve"]:
                curve = learning_curve.curve(data, comparison, judged[0], run)
            judged[0], test = ranking.score_held_out(data, comparison, judged[0], made)
            strangers = None
            if "unknown" in request:
                about = (class_names, judged, request["keep_known"], made)
                strangers = open_set.compare(data, comparison, *about, run, advance)
        first = judged[0].fitted.features
        if dataset.path is not None and TASKS[comparison.task].is_one_class:
            judged[0] = anomalies.with_places(data, dataset, judged[0], made)
        # the selected head's features come first, since the predictions name their rows
        order = sorted(range(len(dataset.sets)), key=lambda number: number != first)
        results = [replace(one.result, features=order.index(one.result.features)) for one in judged]
        board = Leaderboard(
            folder=folder,
            features=tuple(dataset.sets[number] for number in order),
            task=comparison.task,
            metric=comparison.metric,
            class_names=class_names,
            results=tuple(results),
            request=request,
            n_train=len(data.train),
            n_test=len(data.test),
            warnings=folds.warnings_of(dataset, parts, data)
            + folds.warnings_of_features(dataset, data, first),
            luck=luck,
            left_out=left_out,
            learning_curve=curve,
            open_set=strangers,
        )
        leaderboard.write(board, ranking.predictions(data, dataset.rows[first], judged, test), made)
    return board


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("featcache", "scikit-learn", "keras")}
