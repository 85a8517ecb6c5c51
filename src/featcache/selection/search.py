"""Which setting of a head is the best: for each outer fold without it, and for what ships.

The scores are of fits that leave out two folds each, as `nested_cv` explains.

Heads that are slow to fit try their settings on a quarter of the rows first, and only the better
third of the settings on all of them (successive halving, Jamieson and Talwalkar 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from featcache import heads
from featcache.core import process
from featcache.core.progress import Advance
from featcache.scoring import metrics
from featcache.selection import fold_work
from featcache.selection.candidates import Candidate
from featcache.selection.comparison import Comparison, Fitted, job_of
from featcache.selection.fold_work import KnownMoments
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls
from featcache.selection.preference import SIMPLE

FIRST_RUNG = 4  # a quarter of the rows
KEEP = 3  # a third of the settings
FEW_ROWS = 5000  # up to which heads without a choice are fitted without two folds
ENOUGH_ROWS = 500  # fewer are never taken for a first look

Scores = dict[tuple[int, int], np.ndarray]  # (head, repeat) -> (n_settings, k, k)
Asked = dict[int, np.ndarray]  # head -> (repeats, k, n_settings) bool: for which outer folds


def choose_settings(
    data: FoldedData,
    comparison: Comparison,
    found: list[Fitted],
    known: dict[tuple[int, int], KnownMoments],
    run: RunCalls,
    advance: Advance,
) -> None:
    """Set `chosen` and `fold_chosen` of every head that has several settings, and `fewer`."""
    k, repeats = data.n_folds, len(data.folds)
    scores: Scores = {}

    def try_out(asked: Asked, at_most: int | None) -> None:
        calls = list(_pair_calls(data, comparison, found, known, asked, at_most))
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
        if is_tried(data, one.candidate)
    }
    first_look = len(data.train) * (k - 2) // k // FIRST_RUNG
    slow = {number: asked[number] for number in asked if found[number].candidate.kind.halves}
    if first_look >= ENOUGH_ROWS and slow:
        try_out(slow, first_look)
        for number in slow:
            asked[number] = _survivors(scores, number, repeats, k)
            if asked[number].sum(axis=2).max() == 1:  # the first look decided
                _choose(comparison, found[number], number, scores, repeats, k)
                del asked[number]
            else:
                for repeat in range(repeats):
                    del scores[number, repeat]
    try_out(asked, None)
    for number in asked:
        _choose(comparison, found[number], number, scores, repeats, k)
        found[number].fewer = _fewer(comparison, found[number], number, scores, repeats, k)


def is_tried(data: FoldedData, one: Candidate) -> bool:
    """Return whether a head is fitted without two folds.

    Without a choice to make it is so that one knows what more rows bring. With many rows that is
    little beside the interval; and the user's own estimators may want all there are.
    """
    has_choice = len(one.settings) > 1
    is_large = one.kind.remembers or len(data.train) > FEW_ROWS
    return has_choice or not (one.is_own or one.name == heads.FLOOR or is_large)


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
    data: FoldedData,
    comparison: Comparison,
    found: list[Fitted],
    known: dict[tuple[int, int], KnownMoments],
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
                job = job_of(
                    comparison, one, settings, pair, known.get((one.features, repeat)), at_most
                )
                yield Call(
                    (number, repeat, settings, pair),
                    fold_work.try_settings,
                    (data.views[one.features], data.y, folds, job),
                )


def _choose(
    comparison: Comparison, one: Fitted, number: int, scores: Scores, repeats: int, k: int
) -> None:
    for repeat in range(repeats):
        for fold in range(k):
            # scores of models that left out `fold`, on the other folds
            others = np.delete(scores[number, repeat][:, fold], fold, axis=1)
            one.fold_chosen[repeat, fold] = pick(others, comparison.prefer)
    by_fold = [_mean_over(scores[number, repeat], axis=1) for repeat in range(repeats)]
    one.chosen = pick(np.concatenate(by_fold, axis=1), comparison.prefer)


def _fewer(
    comparison: Comparison, one: Fitted, number: int, scores: Scores, repeats: int, k: int
) -> float:
    """Return the mean score of models that miss two folds, each on one that had no say in its
    setting."""
    if comparison.calibrates and comparison.metric in metrics.NEEDS_PROBABILITIES:
        return math.nan  # these models' outputs are not calibrated
    found = [
        np.delete(scores[number, repeat][one.fold_chosen[repeat, fold], :, fold], fold)
        for repeat in range(repeats)
        for fold in range(k)
    ]
    return metrics.better(comparison.metric) * float(_mean(np.array(found)).mean())


def pick(scores: np.ndarray, prefer: str) -> int:
    """Return the setting with the best mean over columns, of equals the first, the simplest.

    Parameters
    ----------
    scores : (n_settings, m), more is better; NaN where a setting was not tried.
    prefer : "simple" for the first within one standard error of the best; else the best.
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
    with process.ignored(category=RuntimeWarning):  # nothing but NaN is NaN
        return np.asarray(np.nanmean(scores, axis=axis))
