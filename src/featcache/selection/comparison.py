"""What is asked of a comparison of heads, and what becomes known of each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache import heads
from featcache.heads.moments import MomentsHead
from featcache.selection.candidates import Candidate
from featcache.selection.fold_work import FitJob, KnownMoments


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
    fewer: float = math.nan  # mean score of models that miss two folds, where that is known
    output: str = ""
    file: str = ""
    fit_s: float = 0.0
    messages: list[str] = field(default_factory=list)
    head: heads.Head | None = None  # of the user's own: a file of foreign types is not loaded

    def shipped_from(self, folder: Path) -> heads.Head:
        """Return the head that ships, without calibration, from its file in a folder."""
        if self.head is not None:
            return self.head
        return self.candidate.kind(**self.candidate.settings[self.chosen]).restore(
            folder / self.file
        )


@dataclass(frozen=True)
class Comparison:
    """What is asked of the comparison."""

    task: str
    metric: str
    n_outputs: int
    prefer: str  # of `preference.PREFERENCES`
    seed: int
    candidates: tuple[Candidate, ...]
    calibrates: bool
    moments_travel: bool  # moments reach the workers without being copied for each call
    map_shapes: tuple[tuple[int, int, int] | None, ...] = ()  # of each set of features; see FitJob


def job_of(
    comparison: Comparison,
    one: Fitted,
    settings: tuple[int, ...],
    without: tuple[int, ...],
    known: KnownMoments | None,
    at_most: int | None = None,
) -> FitJob:
    known = known if uses_moments(one.candidate) else None
    return FitJob(
        candidate=one.candidate,
        settings=settings,
        without=without,
        task=comparison.task,
        metric=comparison.metric,
        n_outputs=comparison.n_outputs,
        at_most=at_most,
        known=known,
        seed=comparison.seed,
        map_shape=comparison.map_shapes[one.features] if comparison.map_shapes else None,
    )


def uses_moments(candidate: Candidate) -> bool:
    """Return whether the head is solved from moments."""
    return issubclass(candidate.kind, MomentsHead)


def params_of(one: Fitted, setting: int) -> dict[str, Any]:
    """Return a setting as plain JSON types, without a user's own estimator."""
    return as_json(one.candidate.settings[setting])


def asked_of(candidates: Iterable[Candidate]) -> dict[str, Any]:
    """Return the settings of each head as plain JSON types; None of a user's own estimator."""
    return {
        one.name: None if one.is_own else [as_json(params) for params in one.settings]
        for one in candidates
    }


def as_json(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as plain JSON types, without a user's own estimator."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in params.items()
        if key != "estimator"
    }
