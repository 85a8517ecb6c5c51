"""Which score tells images of unknown classes best, and from when on an image is unknown.

Each class, or group of classes where there are many, is left out of training in turn, in the folds
of the comparison: the other classes' images of the fold are known, its own are strangers. What
ships is fitted to all classes; its threshold is set by held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from featcache import heads
from featcache.core.checks import check_number
from featcache.core.errors import HeadError, SourceError, SpecError
from featcache.core.keys import digest_file
from featcache.core.progress import Advance
from featcache.core.tasks import TASKS, TargetKind
from featcache.heads import calibration
from featcache.heads.anomaly import Threshold
from featcache.heads.open_set import UNKNOWN, OpenSet, bare, logits_of, scores_for
from featcache.scoring import metrics
from featcache.scoring.leaderboard import OPEN_SET_FILE
from featcache.scoring.strangers import Telling, Trial, telling
from featcache.selection import fold_work
from featcache.selection.comparison import Comparison, job_of
from featcache.selection.dataset import Dataset
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls
from featcache.selection.ranking import Judged

KEEP_KNOWN = 0.95
LEAST_CLASSES = 3  # a head that does not learn one of them still has two
ONE_BY_ONE, MOST_GROUPS = 12, 10  # classes up to which each is a group, and groups of more
MOST_ROWS = 20_000  # that are learnt from while choosing, and by the score that ships
LEVEL = 0.005  # AUROC; scores that differ by less are equally good


def check(dataset: Dataset, unknown: bool, keep_known: float) -> None:
    """Raise where strangers are asked for and cannot be had, or a share and no strangers."""
    check_number("keep_known", keep_known, "be above 0 and below 1", lambda x: 0 < x < 1)
    if not unknown:
        if keep_known != KEEP_KNOWN:
            raise SpecError("keep_known is a share of images not called unknown; say --unknown.")
        return
    about = dataset.annotations
    task = TASKS[about.task]
    if task.kind is not TargetKind.CLASS or task.is_one_class:
        raise SpecError(f"unknown is for classification; the task here is {about.task}.")
    if UNKNOWN in about.class_names:
        raise SourceError(
            f"A class is called '{UNKNOWN}', as are images of no known class (--unknown). Give it "
            f"another name, or leave its images out."
        )


def n_calls(data: FoldedData, class_names: tuple[str, ...], seed: int) -> int:
    """Return how many fits `judge` makes."""
    return len(groups_of(data, class_names, seed)) * data.n_folds


def groups_of(data: FoldedData, class_names: tuple[str, ...], seed: int) -> list[np.ndarray]:
    """Return the classes (m,) that are left out together, of each group.

    Raises
    ------
    HeadError
        When there are too few classes with training images.
    """
    present = np.unique(data.y[data.train])
    if len(present) < LEAST_CLASSES:
        named = ", ".join(f"'{class_names[one]}'" for one in present.tolist())
        raise HeadError(
            f"--unknown leaves each class out in turn, which takes {LEAST_CLASSES} classes or more "
            f"with training images; there are {len(present)}: {named}."
        )
    n_groups = len(present) if len(present) <= ONE_BY_ONE else MOST_GROUPS
    if n_groups < len(present):  # names in a row may be alike
        present = np.random.default_rng(seed).permutation(present)
    return [np.sort(present[first::n_groups]) for first in range(n_groups)]


def compare(
    data: FoldedData,
    comparison: Comparison,
    class_names: tuple[str, ...],
    judged: list[Judged],
    keep_known: float,
    folder: Path,
    run: RunCalls,
    advance: Advance,
) -> dict[str, Any]:
    """Choose the score of the first head that can be stitched, and save it fitted to all classes.

    Returns
    -------
    What a leaderboard keeps, as plain types: whose score it is, all that `put_together` takes, how
    well each score does, and the held-out metrics with unknown for a mistake, of the selected head.

    Raises
    ------
    HeadError
        When no head can be stitched, or no image is held out.
    """
    able = [one for one in judged if one.fitted.candidate.kind.stitches]
    able = [one for one in able if one.result.head != heads.FLOOR]
    if not able:
        raise HeadError(
            f"None of the heads compared ({', '.join(one.result.name for one in judged)}) becomes "
            f"Keras layers that say unknown. Compare others too, as --heads quick."
        )
    if not len(data.test):
        raise HeadError(
            "No image is held out, so nothing says which score is a stranger's. Put some into the "
            "test part, or give no split."
        )
    taken, groups = able[0], groups_of(data, class_names, comparison.seed)
    trials: dict[int, list[Trial]] = {number: [] for number in range(len(groups))}
    done = {}
    for place, trial in run(_calls(data, comparison, taken, groups)):
        done[place] = trial
        advance(1)
    for number, fold in sorted(done):
        trials[number].append(done[number, fold])
    head = _fitted(taken, folder)
    kinds = scores_for(bare(head))
    found = {
        name: telling(trials, number, data.units, keep_known) for number, name in enumerate(kinds)
    }
    name = best(found)
    views, learnt = data.views[taken.fitted.features], data.train
    if len(learnt) > MOST_ROWS:
        learnt = learnt[fold_work.some(data.y[learnt], MOST_ROWS, comparison.task, comparison.seed)]
    X, held_out = (np.asarray(views[rows, 0], np.float32) for rows in (learnt, data.test))
    score = kinds[name]().fit(X, data.y[learnt], logits_of(bare(head), X))
    known = score.scores(held_out, logits_of(bare(head), held_out))
    threshold = Threshold.of(known, 1 - keep_known)
    ships = OpenSet(head, score, threshold, float(np.median(known)), len(class_names))
    ships.save_score(folder / OPEN_SET_FILE)
    test = None
    if taken.result.test is not None:
        outputs = ships.outputs(held_out)
        test = metrics.score(comparison.task, data.y[data.test], outputs, ships.output)
    return {
        "head": taken.result.name,
        **ships.about(name),
        "keep_known": keep_known,
        "file": OPEN_SET_FILE,
        "file_digest": digest_file(folder / OPEN_SET_FILE),
        "test": test,
        "groups": [[class_names[label] for label in group.tolist()] for group in groups],
        "scores": {name: asdict(one) | {"each": list(one.each)} for name, one in found.items()},
    }


def _calls(
    data: FoldedData, comparison: Comparison, taken: Judged, groups: list[np.ndarray]
) -> Iterator[Call]:
    one = taken.fitted
    for number, left_out in enumerate(groups):
        folds = data.folds[0].copy()
        away = np.isin(data.y, left_out) & (folds >= 0)
        folds[away] = fold_work.hidden(folds[away])
        for fold in range(data.n_folds):
            job = job_of(comparison, one, (one.chosen,), (fold,), None, MOST_ROWS)
            about = (data.views[one.features], data.y, folds, job)
            yield Call((number, fold), fold_work.judge_strangers, about)


def _fitted(taken: Judged, folder: Path) -> heads.Head:
    head, described = taken.fitted.shipped_from(folder), taken.result.calibration
    return head if described is None else heads.Calibrated(head, calibration.from_dict(described))


def best(found: dict[str, Telling]) -> str:
    """Return the score of the largest AUROC; of those that are level with it, the first."""
    most = max(one.auroc for one in found.values())
    return next(name for name, one in found.items() if one.auroc > most - LEVEL)
