"""What is the nearest-neighbour head's own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from test_heads import data, keras_model

from featcache.core.errors import SpecError
from featcache.heads import neighbour_search
from featcache.heads.neighbour_search import NeighbourSearch, largest
from featcache.heads.neighbours import Neighbours
from featcache.heads.training_rows import TrainingRows


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_uniform_votes_are_those_of_scikit_learn(metric):
    X, y = data()
    X_new, _ = data(seed=1)
    scaler = StandardScaler().fit(X)
    reference = KNeighborsClassifier(7, metric=metric).fit(scaler.transform(X), y)
    head = Neighbours(k=7, metric=metric, weights="uniform").fit(X, y)
    expected = reference.predict_proba(scaler.transform(X_new))
    np.testing.assert_allclose(head.outputs(X_new), expected, atol=1e-12)


def test_values_are_those_of_scikit_learn():
    X, y = data("regression")
    X_new, _ = data("regression", seed=1)
    head = Neighbours(k=5, weights="uniform", preprocessing="none", task="regression").fit(X, y)
    reference = KNeighborsRegressor(5, metric="cosine").fit(X, y)
    np.testing.assert_allclose(head.outputs(X_new), reference.predict(X_new), rtol=1e-6)


def test_softmax_weights_follow_their_formula():
    X, y = data()
    head = Neighbours(k=5, preprocessing="l2").fit(X, y)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = unit[0] @ unit.T
    nearest = np.argsort(-cosine)[:5]
    weights = np.exp(cosine[nearest] / 0.07)
    votes = np.bincount(y[nearest], weights, minlength=3) / weights.sum()
    np.testing.assert_allclose(head.outputs(X[:1])[0], votes, rtol=1e-4)


def test_more_neighbours_than_rows_are_all_rows():
    X, y = data(n=6)
    head = Neighbours(k=50, weights="uniform").fit(X, y)
    np.testing.assert_allclose(head.outputs(X), 1 / 3)
    _, outputs = keras_model(head)(X)
    np.testing.assert_allclose(outputs, 1 / 3, rtol=1e-6)


def test_balanced_votes_count_the_rarer_class_more():
    X = np.ones((4, 3), np.float32)
    head = Neighbours(k=4, weights="uniform", preprocessing="none", class_weight="balanced").fit(
        X, np.array([0, 0, 0, 1])
    )
    np.testing.assert_allclose(head.outputs(X[:1]), [[0.5, 0.5]])


def test_a_path_searches_once_for_each_preprocessing_and_metric(monkeypatch):
    searched = []
    search = NeighbourSearch._search
    monkeypatch.setattr(
        NeighbourSearch, "_search", lambda self, X: searched.append(len(X)) or search(self, X)
    )
    X, y = data()
    grid = Neighbours.grid("classification")
    for head in list(Neighbours.path(grid, TrainingRows.of(X, y))):
        head.outputs(X[:50].copy())
        head.predict(X[:50].copy())
    assert len(grid) == 6
    assert searched == [50, 50]


def test_rows_that_change_in_place_are_searched_again():
    X, y = data()
    head = Neighbours(k=1).fit(X, y)
    query = X[:3].copy()
    np.testing.assert_array_equal(head.predict(query), y[:3])
    query[:] = X[1:4]
    np.testing.assert_array_equal(head.predict(query), y[1:4])


def test_of_equally_near_rows_the_first_are_taken(monkeypatch):
    values = np.array([[1, 3, 2, 3, 3, 0], [5, 5, 5, 5, 5, 5], [6, 5, 4, 3, 2, 1]], np.float32)
    found, places = largest(values, 2)
    np.testing.assert_array_equal(places, [[1, 3], [0, 1], [0, 1]])
    np.testing.assert_array_equal(found, [[3, 3], [5, 5], [6, 5]])
    monkeypatch.setattr(neighbour_search, "_BLOCK_BYTES", 1)  # a row at a time
    X = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    y = np.tile(np.arange(4), 3)
    head = Neighbours(k=2, weights="uniform", preprocessing="none").fit(X, y)
    votes = np.tile([0.5, 0.5, 0, 0], (12, 1))
    np.testing.assert_array_equal(head.outputs(X), votes)
    np.testing.assert_array_equal(keras_model(head)(X)[1], votes)


def test_rows_whose_answer_hangs_on_rounding_are_known():
    X = np.array([[1, 0], [1, 1e-4], [0, 1], [0.1, 1], [0.5, 1]], np.float32)
    y = np.array([0, 1, 2, 2, 2])
    options = {"weights": "uniform", "preprocessing": "none"}
    query = np.array([[1, 0], [0, 1]], np.float32)
    one, two = (Neighbours(k=k, **options).fit(X, y) for k in (1, 2))
    np.testing.assert_array_equal(one.hangs_on_a_tie(query, 1e-5), [True, False])
    np.testing.assert_array_equal(two.hangs_on_a_tie(query, 1e-5), [True, False])  # 1 : 1
    everything = Neighbours(k=5, **options).fit(X, y)
    assert not everything.hangs_on_a_tie(query, 1e-5).any()


def test_the_rows_are_stored_once():
    X, y = data()
    head = Neighbours().fit(X, y)
    assert head.pipeline_[-1]._fit_X is head.search_.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be a whole number, 1 or more; got 0"),
        ({"metric": "manhattan"}, "metric must be one of cosine, euclidean; got 'manhattan'"),
        ({"weights": "distance"}, "weights must be one of uniform, softmax; got 'distance'"),
        ({"metric": "euclidean"}, "weights softmax is for the metric cosine; got euclidean"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(SpecError, match=message):
        Neighbours(**options).fit(*data())
