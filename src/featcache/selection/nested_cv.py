"""Nested cross-validation in which every inner fit serves two outer folds.

The inner folds of an outer fold are the other outer folds. Then the fit that leaves out folds i
and j judges settings for i by its score on j, and for j by its score on i: with k folds
k (k - 1) / 2 fits per setting do the work of k (k - 1), and no choice for a fold has seen it. The
setting of the head that ships is chosen by all those scores together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from featcache.core.progress import Advance
from featcache.heads.moments import SHARED, are_few
from featcache.heads.training_rows import Moments, TrainingRows
from featcache.selection import fold_work
from featcache.selection.comparison import Comparison, Fitted, job_of, uses_moments
from featcache.selection.fold_work import KnownMoments
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls
from featcache.selection.search import choose_settings, is_tried


def n_calls(data: FoldedData, comparison: Comparison) -> int:
    """Return how many fits, about, the comparison makes; for progress."""
    repeats, k = len(data.folds), data.n_folds
    pairs = k * (k - 1) // 2
    for_calibration = pairs * repeats if comparison.calibrates else 0
    each = sum(
        (pairs * repeats if is_tried(data, one) else 0) + k * repeats + 1 + for_calibration
        for one in comparison.candidates
    )
    return each * len(data.views)


def search_and_fit(
    data: FoldedData, comparison: Comparison, folder: Path, run: RunCalls, advance: Advance
) -> list[Fitted]:
    """Choose settings, predict every outer fold, and fit and save the heads that ship."""
    found = [
        Fitted(candidate, number)
        for number in range(len(data.views))
        for candidate in comparison.candidates
    ]
    known = _fold_moments(data, comparison, run)
    choose_settings(data, comparison, found, known, run, advance)
    _predict_and_fit(data, comparison, found, known, folder, run, advance)
    return found


def _fold_moments(
    data: FoldedData, comparison: Comparison, run: RunCalls
) -> dict[tuple[int, int], KnownMoments]:
    """Return the moments of each fold for each (set of features, repeat), where they are of use."""
    known: dict[tuple[int, int], KnownMoments] = {}
    if not comparison.moments_travel or not any(uses_moments(one) for one in comparison.candidates):
        return known
    calls = []
    for number, views in enumerate(data.views):
        n_fit = len(data.train) * views.shape[1] * (data.n_folds - 2) // data.n_folds
        if are_few(n_fit, views.shape[2]):
            continue  # then the rows themselves are the smaller problem
        shift = TrainingRows(views, data.y, data.train).near_mean()
        for repeat, folds in enumerate(data.folds):
            for fold in range(data.n_folds):
                for kind in SHARED:
                    key = (number, repeat, kind, fold)
                    about = (fold, kind, comparison.task, comparison.n_outputs, shift)
                    calls.append(Call(key, fold_work.fold_moments, (views, data.y, folds, *about)))
    moments: Moments
    for (number, repeat, kind, fold), moments in run(calls) if calls else ():
        known.setdefault((number, repeat), {})[kind, fold] = moments
    return known


def _predict_and_fit(
    data: FoldedData,
    comparison: Comparison,
    found: list[Fitted],
    known: dict[tuple[int, int], KnownMoments],
    folder: Path,
    run: RunCalls,
    advance: Advance,
) -> None:
    """Predict every outer fold with its own setting, and fit what ships to all training rows."""
    calls = [
        call
        for number in reversed(range(len(found)))
        for call in _last_calls(data, comparison, number, found[number], known)
    ]
    for (number, what, place), result in run(calls):
        one = found[number]
        if what == "ships":
            name, content, one.fit_s, one.output, one.messages, one.head = result
            one.file = name if len(data.views) == 1 else f"{one.features}-{name}"
            (folder / one.file).write_bytes(content)
        elif what == "fold":
            one.outputs[place], one.output, _ = result
        elif what == "shipped":
            one.shipped[place], _, _ = result
        else:
            repeat, first, second = place
            one.inner[repeat, second, first], one.inner[repeat, first, second] = result
        advance(1)
    for one in found:
        for fold in range(data.n_folds):
            one.shipped.setdefault(fold, one.outputs[0, fold])


def _last_calls(
    data: FoldedData,
    comparison: Comparison,
    number: int,
    one: Fitted,
    known: dict[tuple[int, int], KnownMoments],
) -> Iterator[Call]:
    features = (data.views[one.features], data.y)
    job = job_of(comparison, one, (one.chosen,), (), known.get((one.features, 0)))
    yield Call((number, "ships", None), fold_work.fit_finally, (*features, data.folds[0], job))
    for repeat, folds in enumerate(data.folds):
        mine = known.get((one.features, repeat))
        choice = [one.fold_chosen.get((repeat, fold), 0) for fold in range(data.n_folds)]
        for fold, setting in enumerate(choice):
            job = job_of(comparison, one, (setting,), (fold,), mine)
            place = (repeat, fold)
            yield Call((number, "fold", place), fold_work.predict_fold, (*features, folds, job))
            if comparison.calibrates and repeat == 0 and setting != one.chosen:
                job = job_of(comparison, one, (one.chosen,), (fold,), mine)
                yield Call(
                    (number, "shipped", fold), fold_work.predict_fold, (*features, folds, job)
                )
        for first, second in combinations(range(data.n_folds), 2) if comparison.calibrates else ():
            settings = (choice[first], choice[second])
            job = job_of(comparison, one, settings, (first, second), mine)
            key = (number, "pair", (repeat, first, second))
            yield Call(key, fold_work.predict_pair, (*features, folds, job))
