"""Nested cross-validation in which every inner fit serves two outer folds.

The inner folds of an outer fold are the other outer folds. Then the fit that leaves out folds i
and j judges settings for i by its score on j, and for j by its score on i: with k folds
k (k - 1) / 2 fits a setting do the work of k (k - 1), and no choice for a fold has seen it. The
setting of the head that ships is chosen by all those scores together.

Heads that are slow to fit try their settings on a quarter of the rows first, and only the better
third of the settings on all of them (successive halving, Jamieson and Talwalkar 2016).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from featcache import heads
from featcache.core.progress import Advance
from featcache.heads.moments import SHARED, MomentsHead
from featcache.heads.training_rows import Moments, TrainingRows
from featcache.selection import fold_work
from featcache.selection.candidates import Candidate
from featcache.selection.dataset import Data
from featcache.selection.parallel import Call, Run

FIRST_RUNG = 4  # a quarter of the rows
KEEP = 3  # a third of the settings
ENOUGH_ROWS = 500  # fewer are never taken for a first look
SIMPLE = "simple"  # the simplest within one standard error of the best (Breiman et al. 1984)
BEST = "best"


@dataclass
class Fitted:
    """All that was found out about one head on one set of features."""

    candidate: Candidate
    features: int
    chosen: int = 0  # number of the setting of the head that ships
    fold_chosen: dict[tuple[int, int], int] = field(default_factory=dict)  # (repeat, fold)
    outputs: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # of each tested fold
    # for calibration: what models without two folds, with the setting that the first of them chose,
    # say of the second, (repeat, first, second); and what the setting that ships says of each fold
    inner: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict)
    shipped: dict[int, np.ndarray] = field(default_factory=dict)
    output: str = ""
    file: str = ""
    fit_s: float = 0.0
    messages: list[str] = field(default_factory=list)
    head: heads.Head | None = None  # of the user's own: a file of foreign types is not loaded


@dataclass(frozen=True)
class Plan:
    """What is asked of the comparison."""

    task: str
    metric: str
    n_outputs: int
    prefer: str
    seed: int
    candidates: tuple[Candidate, ...]
    calibrates: bool
    moments_travel: bool  # moments reach the workers without being copied for each call


def n_calls(data: Data, plan: Plan) -> int:
    """Return how many fits, about, the comparison makes; for progress."""
    repeats, k = len(data.folds), data.n_folds
    pairs = k * (k - 1) // 2
    for_calibration = pairs * repeats if plan.calibrates else 0
    each = sum(
        (pairs * repeats if len(one.settings) > 1 else 0) + k * repeats + 1 + for_calibration
        for one in plan.candidates
    )
    return each * len(data.views)


def search_and_fit(
    data: Data, plan: Plan, folder: Path, run: Run, advance: Advance
) -> list[Fitted]:
    """Choose settings, predict every outer fold, and fit and save the heads that ship."""
    found = [
        Fitted(candidate, number)
        for number in range(len(data.views))
        for candidate in plan.candidates
    ]
    known = _fold_moments(data, plan, run)
    _search(data, plan, found, known, run, advance)
    _predict_and_fit(data, plan, found, known, folder, run, advance)
    return found


def _fold_moments(data: Data, plan: Plan, run: Run) -> dict[tuple[int, int], fold_work.Known]:
    """Return the moments of each fold for each (set of features, repeat), where they are of use."""
    known: dict[tuple[int, int], fold_work.Known] = {}
    if not plan.moments_travel or not any(_uses_moments(one) for one in plan.candidates):
        return known
    calls = []
    for number, views in enumerate(data.views):
        n_fit = len(data.train) * views.shape[1] * (data.n_folds - 2) // data.n_folds
        if n_fit < views.shape[2]:
            continue  # then the rows themselves are the smaller problem
        shift = TrainingRows(views, data.y, data.train).near_mean()
        for repeat, folds in enumerate(data.folds):
            for fold in range(data.n_folds):
                for kind in SHARED:
                    key = (number, repeat, kind, fold)
                    about = (fold, kind, plan.task, plan.n_outputs, shift)
                    calls.append(Call(key, fold_work.fold_moments, (views, data.y, folds, *about)))
    moments: Moments
    for (number, repeat, kind, fold), moments in run(calls) if calls else ():
        known.setdefault((number, repeat), {})[kind, fold] = moments
    return known


def _uses_moments(candidate: Candidate) -> bool:
    return issubclass(candidate.kind, MomentsHead)


def job_of(
    plan: Plan,
    one: Fitted,
    settings: tuple[int, ...],
    without: tuple[int, ...],
    known: fold_work.Known | None,
    at_most: int | None = None,
) -> fold_work.Job:
    known = known if _uses_moments(one.candidate) else None
    return fold_work.Job(
        candidate=one.candidate,
        settings=settings,
        without=without,
        task=plan.task,
        metric=plan.metric,
        n_outputs=plan.n_outputs,
        at_most=at_most,
        known=known,
        seed=plan.seed,
    )


Scores = dict[tuple[int, int], np.ndarray]  # (head, repeat) -> (n_settings, k, k)
Asked = dict[int, np.ndarray]  # head -> (repeats, k, n_settings) bool: for which outer folds


def _search(
    data: Data,
    plan: Plan,
    found: list[Fitted],
    known: dict[tuple[int, int], fold_work.Known],
    run: Run,
    advance: Advance,
) -> None:
    """Set `chosen` and `fold_chosen` of every head that has several settings."""
    k, repeats = data.n_folds, len(data.folds)
    scores: Scores = {}

    def try_out(asked: Asked, at_most: int | None) -> None:
        calls = list(_pair_calls(data, plan, found, known, asked, at_most))
        for (number, repeat, settings, pair), pair_scores in run(calls) if calls else ():
            shape = (len(found[number].candidate.settings), k, k)
            table = scores.setdefault((number, repeat), np.full(shape, np.nan))
            i, j = pair  # [s, i, j]: left out i and j, scored on j
            table[list(settings), i, j] = pair_scores[:, 1]
            table[list(settings), j, i] = pair_scores[:, 0]
            advance(1)

    asked: Asked = {
        number: np.ones((repeats, k, len(one.candidate.settings)), bool)
        for number, one in enumerate(found)
        if len(one.candidate.settings) > 1
    }
    first_look = len(data.train) * (k - 2) // k // FIRST_RUNG
    slow = {number: asked[number] for number in asked if found[number].candidate.kind.halves}
    if first_look >= ENOUGH_ROWS and slow:
        try_out(slow, first_look)
        for number in slow:
            asked[number] = _survivors(scores, number, repeats, k)
            if asked[number].sum(axis=2).max() == 1:  # the first look decided
                _choose(plan, found[number], number, scores, repeats, k)
                del asked[number]
            else:
                for repeat in range(repeats):
                    del scores[number, repeat]
    try_out(asked, None)
    for number in asked:
        _choose(plan, found[number], number, scores, repeats, k)


def _survivors(scores: Scores, number: int, repeats: int, k: int) -> np.ndarray:
    """Return (repeats, k, n_settings) bool: each outer fold's better third of the settings."""
    n_settings = len(scores[number, 0])
    n_kept = -(-n_settings // KEEP)
    kept = np.zeros((repeats, k, n_settings), bool)
    for repeat in range(repeats):
        for fold in range(k):
            order = np.argsort(-_mean(scores[number, repeat][:, fold]), kind="stable")
            kept[repeat, fold, order[:n_kept]] = True
    return kept


def _pair_calls(
    data: Data,
    plan: Plan,
    found: list[Fitted],
    known: dict[tuple[int, int], fold_work.Known],
    asked: Asked,
    at_most: int | None,
) -> Iterator[Call]:
    # flexible heads, which take longest, first: so that no process is left with one at the end
    for number in sorted(asked, reverse=True):
        one = found[number]
        for repeat, folds in enumerate(data.folds):
            for pair in combinations(range(data.n_folds), 2):
                wanted = asked[number][repeat, list(pair)].any(axis=0)
                settings = tuple(np.flatnonzero(wanted).tolist())
                job = job_of(plan, one, settings, pair, known.get((one.features, repeat)), at_most)
                yield Call(
                    (number, repeat, settings, pair),
                    fold_work.try_settings,
                    (data.views[one.features], data.y, folds, job),
                )


def _choose(plan: Plan, one: Fitted, number: int, scores: Scores, repeats: int, k: int) -> None:
    for repeat in range(repeats):
        for fold in range(k):
            # scores of models that left out `fold`, on the other folds
            others = np.delete(scores[number, repeat][:, fold], fold, axis=1)
            one.fold_chosen[repeat, fold] = pick(others, plan.prefer)
    by_fold = [_mean_over(scores[number, repeat], axis=1) for repeat in range(repeats)]
    one.chosen = pick(np.concatenate(by_fold, axis=1), plan.prefer)


def pick(scores: np.ndarray, prefer: str) -> int:
    """Return the setting with the best mean over columns, of equals the first, the simplest.

    Parameters
    ----------
    scores : (n_settings, m), more is better; NaN where a setting was not tried.
    prefer : "best", or "simple" for the first within one standard error of the best.
    """
    means = _mean(scores)
    if np.isnan(means).all():
        return 0
    best = int(np.nanargmax(means))
    if prefer != SIMPLE:
        return best
    known = scores[best][~np.isnan(scores[best])]
    error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else 0.0
    return int(np.flatnonzero(means >= means[best] - error)[0])


def _mean(scores: np.ndarray) -> np.ndarray:
    return _mean_over(scores, axis=1)


def _mean_over(scores: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN is NaN
        return np.asarray(np.nanmean(scores, axis=axis))


def _predict_and_fit(
    data: Data,
    plan: Plan,
    found: list[Fitted],
    known: dict[tuple[int, int], fold_work.Known],
    folder: Path,
    run: Run,
    advance: Advance,
) -> None:
    """Predict every outer fold with its own setting, and fit what ships to all training rows."""
    calls = [
        call
        for number in reversed(range(len(found)))
        for call in _last_calls(data, plan, number, found[number], known)
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
    data: Data,
    plan: Plan,
    number: int,
    one: Fitted,
    known: dict[tuple[int, int], fold_work.Known],
) -> Iterator[Call]:
    features = (data.views[one.features], data.y)
    job = job_of(plan, one, (one.chosen,), (), known.get((one.features, 0)))
    yield Call((number, "ships", None), fold_work.fit_finally, (*features, data.folds[0], job))
    for repeat, folds in enumerate(data.folds):
        mine = known.get((one.features, repeat))
        choice = [one.fold_chosen.get((repeat, fold), 0) for fold in range(data.n_folds)]
        for fold, setting in enumerate(choice):
            job = job_of(plan, one, (setting,), (fold,), mine)
            place = (repeat, fold)
            yield Call((number, "fold", place), fold_work.predict_fold, (*features, folds, job))
            if plan.calibrates and repeat == 0 and setting != one.chosen:
                job = job_of(plan, one, (one.chosen,), (fold,), mine)
                yield Call(
                    (number, "shipped", fold), fold_work.predict_fold, (*features, folds, job)
                )
        for first, second in combinations(range(data.n_folds), 2) if plan.calibrates else ():
            settings = (choice[first], choice[second])
            job = job_of(plan, one, settings, (first, second), mine)
            key = (number, "pair", (repeat, first, second))
            yield Call(key, fold_work.predict_pair, (*features, folds, job))


def params_of(one: Fitted, setting: int) -> dict[str, Any]:
    """Return a setting as plain JSON types, without a user's own estimator."""
    return as_json(one.candidate.settings[setting])


def as_json(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as plain JSON types, without a user's own estimator."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in params.items()
        if key != "estimator"
    }
