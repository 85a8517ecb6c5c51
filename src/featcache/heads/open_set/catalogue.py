"""Scores of strangers by name, and heads put together with one that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import SCORES
from featcache.heads.anomaly.threshold import Threshold
from featcache.heads.base import Head
from featcache.heads.open_set.base import StrangerScore
from featcache.heads.open_set.distances import Mahalanobis, Neighbours
from featcache.heads.open_set.outputs import Energy, MaxLogit
from featcache.heads.open_set.rejecting import OpenSet
from featcache.heads.open_set.vim import ViM

# from simple to elaborate: of scores that do equally well, the first is taken
STRANGER_SCORES: dict[str, type[StrangerScore]] = {
    "max-logit": MaxLogit,
    "energy": Energy,
    "knn": Neighbours,
    "mahalanobis": Mahalanobis,
    "vim": ViM,
}


def scores_for(head: Head) -> dict[str, type[StrangerScore]]:
    """Return the scores that a head, without calibration, can have: some take its logits."""
    has_logits = head.output == SCORES or bool(head.logits_layer)
    return {
        name: kind for name, kind in STRANGER_SCORES.items() if has_logits or not kind.needs_logits
    }


def put_together(head: Head, file: Path, about: dict[str, Any], unknown: int) -> OpenSet:
    """Return a head that says unknown.

    Parameters
    ----------
    head : fitted, calibrated or not.
    file : what `OpenSet.save_score` wrote.
    about : score, threshold and typical, as `OpenSet.about` gave them.
    unknown : number of the class of strangers.

    Raises
    ------
    HeadError
        When the file is missing or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as saved:
            score = STRANGER_SCORES[about["score"]]().take(dict(saved))
    # zipfile and NumPy raise kinds of their own for what they cannot read
    except Exception as error:
        raise HeadError(
            f"'{file}' is missing or damaged. Run `featcache fit-heads --unknown` again."
        ) from error
    return OpenSet(head, score, Threshold(**about["threshold"]), about["typical"], unknown)
