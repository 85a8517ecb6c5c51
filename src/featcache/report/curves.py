"""The curves of the page: how far probabilities can be relied on, and what more labels bring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featcache.core.tasks import PROBABILITIES
from featcache.report import charts
from featcache.report.material import Material
from featcache.report.rendering import Values
from featcache.scoring import metrics
from featcache.scoring.leaderboard import Leaderboard, number

SURE = 0.03  # a difference from what is right that is worth a word


def reliability(material: Material) -> Values | None:
    """Return the reliability diagram, where the selected head gives probabilities."""
    best, unseen = material.best, material.unseen
    if not material.task.is_calibrated or not material.has_probabilities:
        return None
    curves, eces = [], []
    raw, calibrated = unseen.outputs[best.name], unseen.calibrated.get(best.name)
    for name, p in (("uncalibrated", raw), ("calibrated", calibrated)):
        if p is None or (name != "calibrated" and best.output != PROBABILITIES):
            continue
        curves.append((name, metrics.reliability(unseen.y, p)))
        eces.append(
            (
                name,
                number(metrics.score_one("ece", material.board.task, unseen.y, p, PROBABILITIES)),
            )
        )
    sure = mean(material.outputs[: material.n_train].max(axis=1))
    right = mean(material.is_right[: material.n_train])
    verdict = "well calibrated"
    if abs(sure - right) > SURE:
        verdict = "overconfident" if sure > right else "underconfident"
    bins = curves[-1][1]
    return {
        "name": f"{best.name}, calibrated," if calibrated is not None else best.name,
        "figure": charts.reliability(curves),
        "eces": eces,
        "verdict": verdict,
        "sure": f"{sure:.2f}",
        "right": f"{right:.2f}",
        "bins": [
            (
                *(f"{one['low']:.2f} to {one['high']:.2f}", f"{one['n']:,}"),
                *(f"{one['confidence']:.2f}", f"{one['accuracy']:.2f}"),
            )
            for one in bins
        ],
    }


def learning(board: Leaderboard) -> Values | None:
    """Return the learning curve, where there is one."""
    curve = board.learning_curve
    if not curve or not curve.get("n_train"):
        return None
    scores = [
        [math.nan if score is None else float(score) for score in one] for one in curve["scores"]
    ]
    metric = str(curve.get("metric", board.metric))
    return {
        "figure": charts.learning_curve(list(curve["n_train"]), scores, metric),
        "verdict": str(curve.get("verdict", "")),
        "points": [
            [f"{n:,}", number(mean(one))] for n, one in zip(curve["n_train"], scores, strict=True)
        ],
    }


def mean(values: Any) -> float:
    """Return the mean of what is defined."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan
