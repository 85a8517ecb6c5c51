"""From out-of-fold predictions to a leaderboard: scores, tests, calibration, the held-out part."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache import heads
from featcache.core.keys import digest_file
from featcache.core.tasks import TASKS
from featcache.heads import calibration
from featcache.heads.outputs import outputs_of
from featcache.scoring import differences, intervals, jackknife, metrics
from featcache.scoring.leaderboard import OutOfFold, Result
from featcache.selection import preference
from featcache.selection.comparison import Comparison, Fitted, params_of
from featcache.selection.folds import FoldedData

LOSS = "log-loss"


@dataclass(frozen=True)
class Judged:
    """A result with the predictions that it was computed from."""

    result: Result
    fitted: Fitted
    scored: list[np.ndarray]  # of each repeat (n_train, n_outputs) out of fold, as it was scored
    outputs: np.ndarray  # the same of the first repeat, before calibration
    left_out: np.ndarray  # (groups,) what `jackknife.replicates` gives for its score


def judge(
    data: FoldedData,
    comparison: Comparison,
    found: list[Fitted],
    names: list[str],
    folder: Path,
    calibrate: str | None,
) -> tuple[list[Judged], float]:
    """Return one result per head, the selected first, without held-out scores; and its luck.

    Which head is selected is said in `preference`; the floor is not, while there is another.
    """
    judged = [
        _judge_one(data, comparison, one, name, folder, calibrate)
        for one, name in zip(found, names, strict=True)
    ]
    sign = metrics.better(comparison.metric)
    ranks = _ranks(data, comparison, judged)
    judged.sort(key=lambda one: -np.nan_to_num(sign * one.result.mean, nan=-np.inf))
    able = [one for one in judged if one.result.head != heads.FLOOR] or judged
    scored = [one for one in able if not math.isnan(one.result.mean)]
    if not scored:
        return _compared(data, comparison.metric, judged, able[0]), math.nan
    contest = preference.contest(
        np.array([sign * one.result.mean for one in scored]),
        np.stack([sign * one.left_out for one in scored], axis=1),
        np.array([ranks[one.result.name] for one in scored]),
    )
    best = selected = contest.best
    if comparison.prefer == preference.SIMPLE:
        first = scored[best].result
        error = first.std / np.sqrt(len(first.fold_params))
        selected = contest.preferred(preference.within_one_error(contest, error))
    compared = _compared(data, comparison.metric, judged, scored[best])
    if comparison.prefer == preference.LEVEL:
        level = {one.result.name for one in compared if one.result.is_level}
        selected = contest.preferred(np.array([one.result.name in level for one in scored]))
    if selected != best:
        compared = _compared(data, comparison.metric, judged, scored[selected])
    return compared, preference.luck(contest, selected, comparison.prefer, comparison.seed)


def _ranks(data: FoldedData, comparison: Comparison, judged: list[Judged]) -> dict[str, int]:
    """Return name -> how late a head is taken of several that do equally well.

    The simple before the flexible; but where probabilities are wanted, first those heads whose
    log-loss is not behind the best one, then others that give probabilities.
    """
    ranks = {one.result.name: place for place, one in enumerate(judged)}
    if comparison.prefer != preference.LEVEL:
        return ranks
    able = [
        one
        for one in judged
        if one.result.output != heads.SCORES and one.result.head != heads.FLOOR
    ]
    sound = {one.result.name for one in able}
    if able and LOSS in TASKS[comparison.task].metrics:
        y, units = data.y[data.train], data.units[data.train]
        by_loss = []
        for one in able:
            said = [(outputs, one.result.output) for outputs in one.scored]
            left_out = jackknife.replicates(LOSS, comparison.task, y, said, units)
            by_loss.append(replace(one, left_out=left_out))
        first = min(by_loss, key=lambda one: float(np.mean(one.result.scores[LOSS])))
        sound = {
            one.result.name for one in _compared(data, LOSS, by_loss, first) if one.result.is_level
        }
    for one in judged:
        name = one.result.name
        ranks[name] += len(judged) * ((name not in sound) + (one.result.output == heads.SCORES))
    return ranks


def _judge_one(
    data: FoldedData,
    comparison: Comparison,
    one: Fitted,
    name: str,
    folder: Path,
    calibrate: str | None,
) -> Judged:
    repeats, k = len(data.folds), data.n_folds
    outputs = [
        joined(data, repeat, {fold: one.outputs[repeat, fold] for fold in range(k)})
        for repeat in range(repeats)
    ]
    y = data.y[data.train]
    kind, described, through = one.output, None, outputs
    if calibrate is not None:
        calibrate = calibration.chosen(calibrate, len(y), one.output)
        shipped = joined(data, 0, one.shipped)
        described = calibration.fit(calibrate, shipped, y, one.output).to_dict()
        through = [_calibrated(data, one, repeat, calibrate) for repeat in range(repeats)]
        kind = heads.PROBABILITIES
    per_fold = [
        metrics.score(comparison.task, y[here], through[repeat][here], kind)
        for repeat in range(repeats)
        for here in (data.folds[repeat, data.train] == fold for fold in range(k))
    ]
    scores = {
        metric: tuple(float(fold[metric]) for fold in per_fold)
        for metric in TASKS[comparison.task].metrics
    }
    main = np.array(scores[comparison.metric])
    metric, task, units = comparison.metric, comparison.task, data.units[data.train]
    left_out = jackknife.replicates(metric, task, y, [(said, kind) for said in through], units)
    low, high = intervals.of_folds(metric, task, y, through[0], units, main, left_out, k, one.fewer)
    result = Result(
        name=name,
        head=one.candidate.name,
        features=one.features,
        params=params_of(one, one.chosen),
        fold_params=tuple(
            params_of(one, one.fold_chosen.get((repeat, fold), 0))
            for repeat in range(repeats)
            for fold in range(k)
        ),
        output=kind,
        scores=scores,
        mean=float(main.mean()),
        std=float(main.std(ddof=1)),
        low=low,
        high=high,
        difference=0.0,
        p_value=math.nan,
        is_level=True,
        fit_s=one.fit_s,
        file=one.file,
        file_digest=digest_file(folder / one.file),
        calibration=described,
    )
    return Judged(result, one, through, outputs[0], left_out)


def joined(data: FoldedData, repeat: int, of_folds: dict[int, np.ndarray]) -> np.ndarray:
    """Return the outputs of all training rows, in the order of `data.train`."""
    place = np.full(len(data.y), -1)
    place[data.train] = np.arange(len(data.train))
    joined = np.zeros((len(data.train), of_folds[0].shape[1]), of_folds[0].dtype)
    for fold, outputs in of_folds.items():
        joined[place[data.folds[repeat] == fold]] = outputs
    return joined


def _calibrated(data: FoldedData, one: Fitted, repeat: int, calibrate: str) -> np.ndarray:
    """Return probabilities of all training rows, by maps that saw nothing of a row's own fold.

    The map of a fold is fitted on what models without that fold and another say of the other,
    with the setting that the fold chose: scores of other settings may have another scale.
    """
    folds, maps = data.folds[repeat], {}
    for fold in range(data.n_folds):
        others = [other for other in range(data.n_folds) if other != fold]
        outputs = np.concatenate([one.inner[repeat, fold, other] for other in others])
        y = np.concatenate([data.y[folds == other] for other in others])
        fitted = calibration.fit(calibrate, outputs, y, one.output)
        # as they are kept, so that what is kept gives the very scores
        maps[fold] = fitted.transform(one.outputs[repeat, fold]).astype(np.float32)
    return joined(data, repeat, maps)


def _compared(data: FoldedData, metric: str, judged: list[Judged], first: Judged) -> list[Judged]:
    """Return the results, `first` before the others, each with its difference from the first."""
    others = [one for one in judged if one is not first]
    n_units = len(np.unique(data.units[data.train]))
    found = [
        differences.difference(
            np.subtract(first.result.scores[metric], one.result.scores[metric]),
            first.left_out,
            one.left_out,
            n_units,
            data.n_folds,
        )
        for one in others
    ]
    p_values = differences.holm([one.p_value for one in found])
    compared = [first]
    for one, p_value in zip(others, p_values, strict=True):
        result = replace(
            one.result,
            difference=first.result.mean - one.result.mean,
            p_value=p_value,
            is_level=not p_value < differences.BEHIND,
        )
        compared.append(replace(one, result=result))
    return compared


def score_held_out(
    data: FoldedData, comparison: Comparison, selected: Judged, folder: Path
) -> tuple[Judged, np.ndarray]:
    """Return the selected head's result with its held-out scores, and its outputs there.

    This is the one time that the held-out part is looked at.
    """
    one = selected.fitted
    head = one.shipped_from(folder)
    (outputs,) = outputs_of([head], data.views[one.features], data.test, comparison.n_outputs)
    result = selected.result
    through = outputs
    if result.calibration is not None:
        through = calibration.from_dict(result.calibration).transform(outputs)
    y = data.y[data.test]
    if not len(y):
        return selected, outputs
    scores = metrics.score(comparison.task, y, through, result.output)

    low, high = intervals.of_outputs(
        comparison.metric, comparison.task, y, through, result.output, data.units[data.test]
    )
    result = replace(result, test=scores, test_low=low, test_high=high)
    return replace(selected, result=result), through


def predictions(
    data: FoldedData, rows: np.ndarray, judged: list[Judged], test: np.ndarray
) -> OutOfFold:
    """Return what a report needs of the predictions; `rows` are those of the feature file."""
    return OutOfFold(
        rows=rows[data.train],
        y=data.y[data.train],
        folds=data.folds[0, data.train].astype(np.int64),
        outputs={one.result.name: one.outputs for one in judged},
        calibrated={
            one.result.name: one.scored[0] for one in judged if one.result.calibration is not None
        },
        test_rows=rows[data.test],
        test_outputs=test,
    )
