"""What worker processes do: fit some settings to some folds, and judge them on others.

Every function takes the mapped features, what is to be learnt and the folds as plain arrays first,
so that any joblib backend can hand them over in its own way.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcache import heads
from featcache.core import disk, float32
from featcache.core.errors import HeadError, one_line
from featcache.core.tasks import TASKS, TargetKind
from featcache.heads.anomaly import AnomalyHead
from featcache.heads.anomaly.base import GOOD
from featcache.heads.moments import SHARED, moments
from featcache.heads.open_set import logits_of, scores_for
from featcache.heads.outputs import outputs_of
from featcache.heads.training_rows import Moments, TrainingRows, total
from featcache.scoring import metrics
from featcache.scoring.strangers import Trial
from featcache.selection.candidates import Candidate

KnownMoments = dict[tuple[str, int], Moments]  # (kind of preprocessing, fold) -> moments


@dataclass(frozen=True)
class Fits:
    """Heads that are fitted already."""

    heads: dict[int, heads.Head]  # by the number of the setting
    seconds: float
    messages: list[str]


@dataclass(frozen=True)
class FitJob:
    """One fit: which head, and which folds are kept from it."""

    candidate: Candidate
    settings: tuple[int, ...]  # numbers of the settings to fit
    without: tuple[int, ...]  # folds that are not learnt from
    task: str
    metric: str
    n_outputs: int
    at_most: int | None = None  # rows learnt from, a stratified part; None is all
    known: KnownMoments | None = None
    seed: int = 0
    fitted: Fits | None = None  # where it was fitted before, in passes that fits share
    map_shape: tuple[int, int, int] | None = None  # of features that are maps, flattened


def fold_moments(
    views: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    fold: int,
    kind: str,
    task: str,
    n_outputs: int,
    shift: np.ndarray,
) -> Moments:
    """Return the moments of one fold's rows."""
    return moments(
        TrainingRows(views, y, np.flatnonzero(folds == fold)), task, kind, n_outputs, shift
    )


def try_settings(views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob) -> np.ndarray:
    """Fit settings without two folds; return their scores on each, (n_settings, 2)."""
    scores = np.full((len(job.settings), len(job.without)), np.nan)
    fitted = list(_fit(views, y, folds, job))
    for column, fold in enumerate(job.without):
        rows = np.flatnonzero(folds == fold)
        found = outputs_of(fitted, views, rows, job.n_outputs)
        for row, (head, outputs) in enumerate(zip(fitted, found, strict=True)):
            metric = job.metric
            if metric in metrics.NEEDS_PROBABILITIES and head.output == heads.SCORES:
                # it is calibrated later, whatever is chosen
                metric = TASKS[job.task].default_metric
            sign = metrics.better(metric)
            scores[row, column] = sign * metrics.score_one(
                metric, job.task, y[rows], outputs, head.output
            )
    return scores


def predict_fold(
    views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob
) -> tuple[np.ndarray, str, list[str]]:
    """Fit one setting without one fold; return its outputs on that fold's rows, their kind, and
    what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (head,) = _fit(views, y, folds, job, quiet=False)
    (outputs,) = outputs_of([head], views, np.flatnonzero(folds == job.without[0]), job.n_outputs)
    return outputs.astype(_kept_as(job.task, y)), head.output, messages_of(caught)


def predict_pair(
    views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob
) -> tuple[np.ndarray, np.ndarray]:
    """Fit what two outer folds chose, without both; return outputs on the first and the second.

    The outputs on the first are by the choice of the second, and the other way around.
    """
    first, second = job.without
    # each on its own: a path would start the second from the first, which the other fold chose
    fitted = {
        setting: _fit(views, y, folds, replace(job, settings=(setting,)))
        for setting in set(job.settings)
    }
    of_first, of_second = (fitted[setting] for setting in job.settings)
    (on_second,) = outputs_of(of_first, views, np.flatnonzero(folds == second), job.n_outputs)
    (on_first,) = outputs_of(of_second, views, np.flatnonzero(folds == first), job.n_outputs)
    return on_first.astype(np.float32), on_second.astype(np.float32)


def hidden(fold: Any) -> Any:
    """Return what stands for a fold, or each of an array, of rows that are not to be learnt."""
    return -2 - fold


def judge_strangers(views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob) -> Trial:
    """Fit without one fold and without the classes of hidden rows, see `hidden`; return how strange
    each score finds the fold's rows, of known classes and of hidden ones."""
    (head,) = _fit(views, y, folds, job)
    (fold,) = job.without
    learnt = rows_of(views, y, folds, job).chosen
    rows = np.flatnonzero((folds == fold) | (folds == hidden(fold)))
    X, judged = (np.asarray(views[some, 0], np.float32) for some in (learnt, rows))
    logits, said = logits_of(head, X), logits_of(head, judged)
    scores = [
        kind().fit(X, y[learnt], logits).scores(judged, said) for kind in scores_for(head).values()
    ]
    return Trial(
        rows=rows,
        is_stranger=folds[rows] == hidden(fold),
        is_right=head.predict(judged) == y[rows],
        scores=np.stack(scores).astype(np.float32),
    )


def fit_finally(
    views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob
) -> tuple[str, bytes, float, str, list[str], heads.Head | None]:
    """Fit to the whole training part; return a file's name and content, seconds, the kind of
    outputs, what was warned of, and a head of the user's own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        (head,) = _fit(views, y, folds, job, quiet=False)
        seconds = time.perf_counter() - started
        if isinstance(head, AnomalyHead):
            head.set_threshold(_good_held_out(views, y, folds))
    # as bytes, since a worker of a cluster may see another disk
    with disk.scratch() as folder:
        name = heads.save(head, folder, job.candidate.name)
        content = (folder / name).read_bytes()
    own = head if job.candidate.is_own else None
    messages = messages_of(caught)
    if job.fitted is not None:
        seconds, messages = job.fitted.seconds, job.fitted.messages
    return name, content, seconds, head.output, messages, own


def _good_held_out(views: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the features (m, d) of held-out good images: nothing was learnt from them."""
    rows = np.flatnonzero((folds < 0) & (y == GOOD))
    if not len(rows):
        raise HeadError(
            "No good image is held out, so nothing says which score is an anomaly's. Put some into "
            "the test part, or give no split."
        )
    return np.asarray(views[rows, 0])


def _kept_as(task: str, y: np.ndarray) -> type:
    """Return the type of outputs to score: float32, as a model gives, where that can hold them."""
    numbers = TASKS[task].kind is TargetKind.NUMBERS
    return np.float64 if numbers and float32.is_too_coarse(y).any() else np.float32


def messages_of(caught: list[warnings.WarningMessage]) -> list[str]:
    """Return what was warned of, each once, as a line."""
    found = [one_line(warning.message, 200) for warning in caught]
    return list(dict.fromkeys(found))


def _fit(
    views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob, quiet: bool = True
) -> list[heads.Head]:
    if job.fitted is not None:
        return [job.fitted.heads[number] for number in job.settings]
    rows = rows_of(views, y, folds, job)
    settings = [job.candidate.settings[number] for number in job.settings]
    with warnings.catch_warnings():
        if quiet:
            # a setting that does not converge is a worse candidate; the chosen one is looked at
            warnings.simplefilter("ignore")
        return list(job.candidate.kind.path(settings, rows))


def rows_of(views: np.ndarray, y: np.ndarray, folds: np.ndarray, job: FitJob) -> TrainingRows:
    """Return the rows that a fit may look at."""
    chosen = np.flatnonzero((folds >= 0) & ~np.isin(folds, job.without))
    known = None
    if job.known is not None:
        parts = [fold for fold in range(int(folds.max()) + 1) if fold not in job.without]
        known = {
            kind: total([job.known[kind, fold] for fold in parts])
            for kind in SHARED
            if (kind, 0) in job.known
        }
    rows = TrainingRows(views, y, chosen, known, job.map_shape)
    if job.at_most is not None and len(rows) > job.at_most:
        rows = rows.take(some(y[chosen], job.at_most, job.task, job.seed))
    return rows


def some(y: np.ndarray, n: int, task: str, seed: int) -> np.ndarray:
    """Return about `n` places of `y` in order, each class with its share, at least one of each."""
    rng = np.random.default_rng(seed)
    if not TASKS[task].is_stratified:
        return np.sort(rng.permutation(len(y))[:n])
    share = n / len(y)
    picked = []
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        picked.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(picked))
