"""Which of the compared heads is selected, and what its score owes to being selected.

The first of many has the best score partly because it had luck with these rows. How much is
estimated as Tsamardinos, Greasidou and Borboudakis 2018 do ("Bootstrapping the out-of-sample
predictions for efficient and accurate cross-validation"): select on rows drawn with replacement,
and score what was selected on the rows that were not drawn. No head is fitted for it. What is drawn
are the groups of units of the jackknife, each with its pseudo-value (Tukey 1958), so that it holds
for any metric and copies are drawn together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featcache.scoring import differences, intervals

BEST = "best"
LEVEL = "level"
SIMPLE = "simple"  # the simplest within one standard error of the best (Breiman et al. 1984)
PREFERENCES = (LEVEL, BEST, SIMPLE)
N_DRAWS = 200


@dataclass(frozen=True)
class Contest:
    """Scores of heads that may be selected, so that more is better."""

    scores: np.ndarray  # (n,) float64
    pseudo: np.ndarray  # (groups, n) float64, whose means are the scores
    ranks: np.ndarray  # (n,) int; of heads that do equally well the lowest is selected

    def drawn(self, groups: np.ndarray) -> Contest:
        """Return the contest on some groups of units."""
        pseudo = self.pseudo[groups]
        return Contest(pseudo.mean(axis=0), pseudo, self.ranks)

    @property
    def best(self) -> int:
        """The head with the best score; of equals the lowest rank."""
        equal = np.flatnonzero(self.scores == self.scores.max())
        return int(equal[self.ranks[equal].argmin()])

    def preferred(self, near: np.ndarray) -> int:
        """Return the head of lowest rank among those of a mask (n,)."""
        places = np.flatnonzero(near)
        return int(places[self.ranks[places].argmin()])


def contest(scores: np.ndarray, left_out: np.ndarray, ranks: np.ndarray) -> Contest:
    """Return a contest from scores and their replicates.

    Parameters
    ----------
    scores : (n,) float64, more is better.
    left_out : (groups, n) float64, what `jackknife.without_groups` gives for each, more is better.
    ranks : (n,) int.
    """
    left_out = left_out[~np.isnan(left_out).any(axis=1)]
    n_groups = len(left_out)
    if not n_groups:
        return Contest(scores, np.zeros((0, len(scores))), ranks)
    away = (n_groups - 1) * (left_out.mean(axis=0) - left_out)
    return Contest(scores, scores + away, ranks)


def within_one_error(heads: Contest, error: float) -> np.ndarray:
    """Return the mask (n,) of heads at most a standard error below the best; it is among them."""
    near: np.ndarray = heads.scores >= heads.scores[heads.best] - error
    return near


def luck(heads: Contest, selected: int, prefer: str, seed: int) -> float:
    """Return by how much the score of the selected head is too good because it was selected.

    NaN where there is nothing to select from, or too few groups to draw from.
    """
    n_groups, n = heads.pseudo.shape
    if n < 2 or n_groups < 2:
        return math.nan
    rng, found = np.random.default_rng(seed), []
    for _ in range(N_DRAWS):
        groups = rng.integers(0, n_groups, (n_groups,))
        others = np.setdiff1d(np.arange(n_groups), groups)
        if len(others):
            found.append(heads.pseudo[others, _selected(heads.drawn(groups), prefer)].mean())
    return float(heads.scores[selected] - np.mean(found)) if found else math.nan


def _selected(heads: Contest, prefer: str) -> int:
    """Return which head is selected by pseudo-values alone."""
    if prefer == BEST:
        return heads.best
    if prefer == SIMPLE:
        return heads.preferred(within_one_error(heads, float(_errors(heads.pseudo)[heads.best])))
    return heads.preferred(_level(heads))


def _level(heads: Contest) -> np.ndarray:
    """Return the mask (n,) of heads that are not told from the best."""
    from scipy import stats

    behind = heads.scores[heads.best] - heads.scores
    errors = _errors(heads.pseudo[:, [heads.best]] - heads.pseudo)
    errors *= math.sqrt(intervals.LEAST_OF_TRAINING)
    sure = np.divide(behind, errors, out=np.zeros_like(behind), where=errors > 0)
    others = np.arange(len(behind)) != heads.best
    p_values = differences.holm(2 * stats.t.sf(sure[others], len(heads.pseudo) - 1))
    level = np.ones(len(behind), bool)
    level[others] = np.array(p_values) >= differences.BEHIND
    return level


def _errors(pseudo: np.ndarray) -> np.ndarray:
    """Return the standard error (n,) of each column's mean."""
    return np.asarray(pseudo.std(axis=0, ddof=1) / math.sqrt(len(pseudo)))
