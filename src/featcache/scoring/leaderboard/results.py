"""What a comparison of heads found out, as plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.spec import ExtractionSpec


@dataclass(frozen=True)
class FeatureSet:
    """One matrix of features that heads were fitted on."""

    name: str  # of its backbone, as a rule
    content: str  # digest of all that a head could learn from
    n_features: int
    path: Path | None = None  # of the feature file; None for plain arrays
    spec: ExtractionSpec | None = None


@dataclass(frozen=True)
class Result:
    """How one head did on one set of features. Differences and p-values are against the first."""

    name: str  # the head, or FEATURES/HEAD where there are several sets of features
    head: str  # name in heads.CATALOGUE, or of an estimator of the user's own
    features: int  # index into the leaderboard's features
    params: dict[str, Any]  # the setting it was fitted with; all else is the head's default
    fold_params: tuple[dict[str, Any], ...]  # what each outer fold's own search chose
    output: str  # probabilities, scores or values
    scores: dict[str, tuple[float, ...]]  # metric -> score of each outer fold, NaN where undefined
    mean: float  # of the leaderboard's metric over the outer folds
    std: float  # standard deviation over them
    low: float  # 95 % interval of the mean
    high: float
    difference: float  # mean of the first minus this mean
    p_value: float  # of no difference, Holm-adjusted; NaN for the first
    is_level: bool  # it is not told from the first
    fit_s: float  # seconds to fit on the whole training part
    file: str  # in the folder of the leaderboard
    file_digest: str  # BLAKE2b-128 of it
    test: dict[str, float] | None = None  # scores of the held-out part; of the selected head alone
    test_low: float = math.nan  # 95 % interval of the leaderboard's metric
    test_high: float = math.nan
    calibration: dict[str, Any] | None = None  # map from outputs to probabilities, if asked for


@dataclass(frozen=True)
class OutOfFold:
    """What every head said of training images that it had not seen."""

    rows: np.ndarray  # (n,) int64: rows of the features
    y: np.ndarray  # (n,) class indices, or (n, k)
    folds: (
        np.ndarray
    )  # (n,) int64: the outer fold, of the first repeat, that each row was tested in
    outputs: dict[str, np.ndarray]  # name of a result -> (n, n_outputs), as its head gives them
    calibrated: dict[str, np.ndarray]  # the same through calibration that did not see the fold
    test_rows: np.ndarray  # (m,) int64
    test_outputs: np.ndarray  # (m, n_outputs) of the selected head
