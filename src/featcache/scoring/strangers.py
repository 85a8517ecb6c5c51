"""How well a score tells images of unknown classes from known ones, with intervals.

Sources: Dhamija, Günther and Boult 2018, "Reducing network agnostophobia" (the curve whose area
OSCR is); Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating
characteristic curve".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from featcache.heads.anomaly import Threshold
from featcache.scoring import intervals
from featcache.scoring.jackknife import standard_error, without_groups

AUROC = "roc-auc"  # the metric whose scale intervals have; that of OSCR is the same


@dataclass(frozen=True)
class Trial:
    """One fold of images, judged by a head that learnt neither from it nor from some classes."""

    rows: np.ndarray  # (m,) int, of the images
    is_stranger: np.ndarray  # (m,) bool: of a class that was not learnt
    is_right: np.ndarray  # (m,) bool: the class that the head says is the image's
    scores: np.ndarray  # (n_scores, m) float, the larger the stranger


@dataclass(frozen=True)
class Telling:
    """How well one score does; areas with 95 % intervals."""

    auroc: float  # how often a stranger's score is above a known image's
    auroc_low: float
    auroc_high: float
    oscr: float  # the same of known images whose class is said rightly; others count as 0
    oscr_low: float
    oscr_high: float
    found: float  # share of strangers above a threshold that keeps the share of known asked for
    each: tuple[float, ...]  # AUROC of each group of classes


def telling(
    trials: Mapping[int, Sequence[Trial]], number: int, units: np.ndarray, keep_known: float
) -> Telling:
    """Return how well a score tells strangers.

    Scores of different trials, whose heads differ, are never compared; each stranger counts once.
    The standard error of an interval is that of drawing other images, or that of drawing other
    classes to be unknown, whichever is larger.

    Parameters
    ----------
    trials : of each group of classes that were not learnt together.
    number : of the score.
    units : (n,) int of all images; those of one number are drawn together.
    keep_known : share of known images that is not to be called unknown.
    """
    together = [one for some in trials.values() for one in some]
    judged = np.unique(np.concatenate([one.rows for one in together]))
    every = np.ones(len(units), bool)

    def of_images(rows: np.ndarray, area: int) -> float:
        kept = np.zeros(len(units), bool)
        kept[judged[rows]] = True
        return _areas(together, number, kept)[area]

    def of_groups(groups: Sequence[int], area: int) -> float:
        return _areas([one for group in groups for one in trials[group]], number, every)[area]

    found: list[tuple[float, float, float]] = []
    for area in (0, 1):
        value = of_groups(list(trials), area)
        without = [of_groups([one for one in trials if one != left], area) for left in trials]
        errors = (
            standard_error(without_groups(partial(of_images, area=area), units[judged])),
            standard_error(np.array(without)) if len(trials) > 2 else 0.0,
        )
        n_units = len(np.unique(units[judged]))
        found.append((value, *intervals.of_score(AUROC, value, max(errors), n_units)))
    each = tuple(of_groups([group], 0) for group in trials)
    return Telling(*found[0], *found[1], _found(together, number, keep_known), each)


def _found(trials: Sequence[Trial], number: int, keep_known: float) -> float:
    """Return the share of strangers above the threshold that their trial's known images set."""
    n_found = n_strangers = 0
    for one in trials:
        known, strange = (one.scores[number, some] for some in (~one.is_stranger, one.is_stranger))
        if len(known):
            threshold = Threshold.of(known, 1 - keep_known).value
            n_found += int((strange > threshold).sum())
            n_strangers += len(strange)
    return n_found / n_strangers if n_strangers else float("nan")


def _areas(trials: Sequence[Trial], number: int, kept: np.ndarray) -> tuple[float, float]:
    """Return AUROC and OSCR of the kept images (n,) bool, NaN where there are no strangers."""
    below = right = n_strangers = 0.0
    for one in trials:
        stays = kept[one.rows]
        known, strange = stays & ~one.is_stranger, stays & one.is_stranger
        n_known = int(known.sum())
        if not n_known or not strange.any():
            continue
        order = np.argsort(one.scores[number, known])
        scores = one.scores[number, known][order]
        n_right = np.concatenate([[0], np.cumsum(one.is_right[known][order])])
        asked = one.scores[number, strange]
        for side in ("left", "right"):  # of ties half count
            place = np.searchsorted(scores, asked, side)
            below += place.sum() / (2 * n_known)
            right += n_right[place].sum() / (2 * n_known)
        n_strangers += len(asked)
    if not n_strangers:
        return float("nan"), float("nan")
    return float(below / n_strangers), float(right / n_strangers)
