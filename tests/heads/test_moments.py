"""Heads that are solved from moments give what scikit-learn's own solvers give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featcache.heads import CATALOGUE, TrainingRows
from featcache.heads.moments import SHARED, moments, targets_of
from featcache.heads.training_rows import total

STEPS = {"standardise": StandardScaler(), "l2": Normalizer(), "none": "passthrough"}
# more rows than features, fewer, and few: then the problem is solved in the span of the rows
SHAPES = [(200, 17), (200, 300), (60, 300)]


def data(n, d, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n_classes, d))[y] + 2 * rng.standard_normal((n, d)) + 3
    return X.astype(np.float32), y, rng.standard_normal((9, d)) + 3


@pytest.mark.parametrize("preprocessing", STEPS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_lda_is_that_of_scikit_learn(shape, n_classes, preprocessing):
    X, y, X_new = data(*shape, n_classes)
    head = CATALOGUE["lda"](shrinkage=0.2, preprocessing=preprocessing).fit(X, y)
    reference = make_pipeline(
        STEPS[preprocessing], LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)
    ).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(head.outputs(X_new), reference.predict_proba(X_new), atol=1e-10)
    np.testing.assert_allclose(
        head.pipeline_.predict_proba(X_new), reference.predict_proba(X_new), atol=1e-10
    )
    np.testing.assert_allclose(head.pipeline_[-1].means_, reference[-1].means_, atol=1e-8)


@pytest.mark.parametrize("preprocessing", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_that_of_scikit_learn(shape, preprocessing):
    X, y, X_new = data(*shape, 3)
    rng = np.random.default_rng(1)
    targets = {
        "classification": (y, 2 * np.eye(3)[y] - 1),
        "multi-label": (np.eye(3, dtype=int)[y], 2 * np.eye(3)[y] - 1),
        "regression": (values := X[:, :2] + rng.standard_normal((len(y), 2)), values),
    }
    for task, (learnt, expected) in targets.items():
        head = CATALOGUE["ridge"](alpha=0.3, preprocessing=preprocessing, task=task)
        head.fit(X, learnt)
        penalty = head.pipeline_[-1].alpha
        reference = make_pipeline(STEPS[preprocessing], linear_model.Ridge(alpha=penalty))
        reference.fit(X.astype(np.float64), expected)
        np.testing.assert_allclose(head.outputs(X_new), reference.predict(X_new), atol=1e-8)


def test_the_penalty_of_ridge_is_relative():
    X, y, _ = data(200, 17, 3)
    penalty = CATALOGUE["ridge"](alpha=0.3).fit(X, y).pipeline_[-1].alpha
    assert penalty == pytest.approx(0.3 * 200)  # standardised features have variance 1
    assert CATALOGUE["ridge"](alpha=0.3).fit(X * 7, y).pipeline_[-1].alpha == pytest.approx(penalty)


@pytest.mark.parametrize("preprocessing", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_names_the_class_of_scikit_learn(shape, preprocessing):
    X, y, X_new = data(*shape, 4)
    X = X.astype(np.float64)
    reference = make_pipeline(STEPS[preprocessing], NearestCentroid()).fit(X, y)
    head = CATALOGUE["centroid"](preprocessing=preprocessing).fit(X, y)
    np.testing.assert_array_equal(head.predict(X_new), reference.predict(X_new))


def test_balanced_ridge_weighs_rows():
    X, y, X_new = data(200, 17, 2)
    kept = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:10]]
    X, y = X[kept].astype(np.float64), y[kept]
    head = CATALOGUE["ridge"](preprocessing="none", class_weight="balanced").fit(X, y)
    weights = len(y) / (2 * np.bincount(y)[y])
    reference = linear_model.Ridge(alpha=head.pipeline_[-1].alpha)
    reference.fit(X, 2 * np.eye(2)[y] - 1, sample_weight=weights)
    np.testing.assert_allclose(head.outputs(X_new), reference.predict(X_new), atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_moments_of_parts_add_up_to_those_of_the_whole(seed, n_parts):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((40, 2, 5)) + 50, rng.integers(0, 3, 40)
    part_of = rng.integers(0, n_parts, 40)
    for kind in SHARED:
        whole = moments(
            TrainingRows(X, y, np.arange(40)), "classification", kind, 3, np.full(5, 50.0)
        )
        parts = [
            moments(
                TrainingRows(X, y, np.flatnonzero(part_of == part)),
                *("classification", kind, 3, np.full(5, 50.0)),
            )
            for part in range(n_parts)
        ]
        for name in ("n", "x", "t", "xx", "xt"):
            np.testing.assert_allclose(
                getattr(total(parts), name), getattr(whole, name), rtol=1e-9, atol=1e-9
            )


def test_known_moments_take_the_place_of_rows():
    X, y, X_new = data(120, 17, 3)
    shift = X.mean(axis=0, dtype=np.float64)
    every = TrainingRows.of(X, y)
    known = {kind: moments(every, "classification", kind, 3, shift) for kind in SHARED}
    # no row may be looked at: they are not even there
    blind = TrainingRows(np.full((120, 1, 17), np.nan), y, np.arange(120), known)
    for name in ("centroid", "lda", "ridge"):
        kind = CATALOGUE[name]
        settings = kind.grid("classification")
        for seen, unseen in zip(
            kind.path(settings, every), kind.path(settings, blind), strict=True
        ):
            np.testing.assert_allclose(unseen.outputs(X_new), seen.outputs(X_new), atol=1e-9)


@pytest.mark.parametrize("preprocessing", STEPS)
@pytest.mark.parametrize("d", [17, 30, 300])
def test_one_row_a_class_leaves_only_rounding_within_classes(d, preprocessing, monkeypatch):
    """Solving for that would take minutes with 1,000 classes, and say nothing."""
    X, y, _ = data(40, d, 40)
    monkeypatch.setattr(linalg, "lstsq", None)
    head = CATALOGUE["lda"](shrinkage=0.1, preprocessing=preprocessing).fit(X, y)
    np.testing.assert_array_equal(head.predict(X), y)


def test_targets_are_a_column_a_class():
    np.testing.assert_array_equal(
        targets_of(np.array([2, 0]), "classification", 3), [[0, 0, 1], [1, 0, 0]]
    )
