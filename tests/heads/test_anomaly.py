"""Heads that learn from good images alone: what all do, and each against its source."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM as Reference

from featcache import heads
from featcache.core.errors import HeadError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly import Gaussian, NeighbourDistance, OneClassSVM, PatchMemory, Threshold
from featcache.heads.anomaly.coreset import k_centres
from featcache.heads.catalogue import ONE_CLASS_CATALOGUE

N_GOOD, N_OTHERS = 30, 10


def maps(seed=0):
    """(40, 5, 6, 8): thirty good ones, and ten with one place that is another."""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((N_GOOD + N_OTHERS, 5, 6, 8)) + np.arange(8)).astype(np.float32)
    X[N_GOOD:, 2, 3] = 10 * X[N_GOOD:, 2, 3, ::-1]
    return X, np.r_[np.zeros(N_GOOD, int), np.ones(N_OTHERS, int)]


def vectors(seed=0):
    """(40, 8): ten of them farther from the middle than a good one ever is."""
    X, y = maps(seed)
    X = X.mean(axis=(1, 2)) * 4
    X[N_GOOD:] += 4 * (-1) ** np.arange(8)
    return X, y


GIVEN = [
    pytest.param(name, given, id=f"{name}-{given.__name__}")
    for name, kind in ONE_CLASS_CATALOGUE.items()
    for given in (maps, vectors)
    if given is maps or not kind.needs_maps
]


@pytest.mark.parametrize(("name", "given"), GIVEN)
class TestEach:
    """What every one of them does, of maps and of vectors."""

    def fitted(self, name, given):
        X, y = given()
        return ONE_CLASS_CATALOGUE[name]().fit(X[:N_GOOD], y[:N_GOOD]), X, y

    def test_it_learns_from_good_rows_alone(self, name, given):
        head, X, y = self.fitted(name, given)
        rows = slice(N_GOOD - 20, N_GOOD + 8)
        beside = ONE_CLASS_CATALOGUE[name]().fit(X[rows], y[rows])
        alone = ONE_CLASS_CATALOGUE[name]().fit(X[rows][y[rows] == 0], y[rows][y[rows] == 0])
        np.testing.assert_array_equal(beside.scores(X), alone.scores(X))
        assert head.scores(X).shape == (len(X),)

    def test_others_score_higher_and_are_told_by_the_threshold(self, name, given):
        X, y = given()
        head = (
            ONE_CLASS_CATALOGUE[name](false_alarms=0.2)
            .fit(X[:20], y[:20])
            .set_threshold(X[20:N_GOOD])
        )
        scores = head.scores(X)
        if given is vectors or ONE_CLASS_CATALOGUE[name] in (
            PatchMemory,
            Gaussian,
        ):  # means hide one place
            assert scores[N_GOOD:].min() > scores[20:N_GOOD].max()
            assert head.predict(X[N_GOOD:]).tolist() == [1] * N_OTHERS
        assert head.predict(X[20:N_GOOD]).sum() == head.threshold_.n_above - 1
        above = scores - head.threshold
        np.testing.assert_array_equal(head.outputs(X), np.stack([-above, above], axis=1))

    def test_it_is_read_as_it_was_written_and_flattened_rows_are_maps(self, name, given, tmp_path):
        head, X, _ = self.fitted(name, given)
        head.set_threshold(X[:5])
        again = heads.load(name, tmp_path / heads.save(head, tmp_path, name), head.get_params())
        assert again.threshold_ == head.threshold_
        np.testing.assert_array_equal(again.outputs(X.reshape(len(X), -1)), head.outputs(X))

    def test_stock_layers_give_the_same(self, name, given):
        keras = import_keras()
        head, X, _ = self.fitted(name, given)
        head.set_threshold(X[:5])
        features = keras.Input(X.shape[1:])
        outputs = head.to_keras_layers(features)
        found = keras.Model(features, outputs)(X)
        if head.has_heat_maps:
            found, places = found
            scale = np.abs(head.heat_maps(X)).max()
            np.testing.assert_allclose(places[..., 0] / scale, head.heat_maps(X) / scale, atol=1e-4)
        scale = np.abs(head.outputs(X)).max()
        np.testing.assert_allclose(found / scale, head.outputs(X) / scale, atol=1e-3)

    def test_of_odd_input_one_line_says_what_it_is(self, name, given):
        head, X, y = self.fitted(name, given)
        with pytest.raises(HeadError, match="There is no good image to learn from"):
            ONE_CLASS_CATALOGUE[name]().fit(X, np.ones_like(y))
        with pytest.raises(HeadError, match="must have the"):
            head.scores(X[..., :-1])
        for rate in (0, 1, np.nan, "5 %"):
            with pytest.raises(SpecError, match="false_alarms must be above 0 and below 1"):
                ONE_CLASS_CATALOGUE[name](false_alarms=rate).fit(X, y)


@pytest.mark.parametrize("shape", [(700, 12), (300, 200)])  # as they are, and projected
def test_centres_are_those_of_one_after_the_other(shape, monkeypatch):
    from featcache.heads.anomaly import coreset

    monkeypatch.setattr(coreset, "_CANDIDATES", 40)  # so that several rounds are needed
    points = np.random.default_rng(1).standard_normal(shape, np.float32)
    found = k_centres(points, 90, seed=3)
    z = coreset._projected(points, np.random.default_rng(3)) if shape[1] > 128 else points
    rng = np.random.default_rng(3)
    if shape[1] > 128:
        coreset._projected(points, rng)  # draws first
    chosen = [int(rng.integers(len(points)))]
    nearest = ((z - z[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < 90:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((z - z[chosen[-1]]) ** 2).sum(axis=1))
    assert found.tolist() == chosen
    assert len(set(k_centres(np.repeat(points[:20], 3, axis=0), 60, 0))) == 60  # copies as well


def test_the_whole_memory_is_scikit_learns_nearest_neighbour():
    X, y = maps()
    head = PatchMemory(coreset=1, neighbourhood=1, worst=1e-9).fit(X[:20], y[:20])
    patches = X / np.linalg.norm(X, axis=-1, keepdims=True)
    search = NearestNeighbors(n_neighbors=1).fit(patches[:20].reshape(-1, 8))
    distance, _ = search.kneighbors(patches.reshape(-1, 8))
    expected = (distance**2).reshape(len(X), 5, 6)
    np.testing.assert_allclose(head.heat_maps(X), expected, atol=1e-5)
    np.testing.assert_allclose(head.scores(X), expected.max(axis=(1, 2)), atol=1e-5)


def test_a_patch_is_the_mean_of_those_around_it_as_keras_pools():
    X, y = maps()
    head = PatchMemory(coreset=1, preprocessing="none").fit(X[:3], y[:3])
    pool = import_keras().layers.AveragePooling2D(3, strides=1, padding="same")
    np.testing.assert_allclose(head.memory_, np.asarray(pool(X[:3])).reshape(-1, 8), atol=1e-5)


def test_of_vectors_the_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance():
    X, y = vectors()
    head = Gaussian().fit(X[:N_GOOD], y[:N_GOOD])
    known = LedoitWolf().fit(X[:N_GOOD].astype(np.float64))
    np.testing.assert_allclose(head.scores(X) * 8, known.mahalanobis(X), rtol=1e-3)


def test_of_maps_each_place_has_its_own_distribution():
    X, y = maps()
    head = Gaussian(channels=3).fit(X[:N_GOOD], y[:N_GOOD])
    here = X[:, 2, 3][:, head.picked_].astype(np.float64)
    covariance = np.cov(here[:N_GOOD].T)
    covariance = 0.99 * covariance + 0.01 * np.trace(covariance) / 3 * np.eye(3)
    centred = here - here[:N_GOOD].mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred) / 3
    np.testing.assert_allclose(head.heat_maps(X)[:, 2, 3], expected, rtol=1e-3)


def test_the_kth_neighbour_is_scikit_learns():
    X, y = vectors()
    head = NeighbourDistance(k=3).fit(X[:N_GOOD], y[:N_GOOD])
    search = NearestNeighbors(n_neighbors=3, metric="cosine").fit(X[:N_GOOD])
    np.testing.assert_allclose(head.scores(X), search.kneighbors(X)[0][:, -1], atol=1e-5)


def test_the_svm_orders_images_as_scikit_learns():
    X, y = vectors()
    head = OneClassSVM(nu=0.3).fit(X[:N_GOOD], y[:N_GOOD])
    z = (X - X[:N_GOOD].mean(axis=0)) / X[:N_GOOD].std(axis=0)
    known = Reference(nu=0.3).fit(z[:N_GOOD]).decision_function(z)
    slope, offset = np.polyfit(known, head.scores(X), 1)
    assert slope < 0
    np.testing.assert_allclose(head.scores(X), slope * known + offset, atol=1e-4)


def test_vectors_have_no_places_and_no_patches():
    X, y = vectors()
    with pytest.raises(HeadError, match=r"A PatchMemory learns from maps, .* --pooling none"):
        PatchMemory().fit(X, y)
    assert not Gaussian().fit(X, y).has_heat_maps
    with pytest.raises(HeadError, match="says how odd an image is, and not where"):
        Gaussian().fit(X, y).heat_maps(X)
    with pytest.raises(SpecError, match="neighbourhood must be an odd number"):
        PatchMemory(neighbourhood=2).fit(*maps())


@pytest.mark.parametrize(("n", "asked"), [(19, 0.05), (50, 0.05), (200, 0.01), (30, 0.3)])
def test_a_threshold_keeps_its_promise_and_its_interval(n, asked):
    rng = np.random.default_rng(0)
    rates, inside = [], []
    for _ in range(2000):
        made = Threshold.of(rng.random(n), asked)
        rates.append(1 - made.value)  # of uniform scores, exactly
        low, high = made.interval
        inside.append(low <= rates[-1] <= high)
    assert made.promised <= asked
    assert np.mean(rates) == pytest.approx(made.promised, abs=4 * np.std(rates) / np.sqrt(2000))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_too_few_good_images_promise_less_and_say_so():
    made = Threshold.of(np.array([3.0, 1.0, 2.0]), 0.05)
    assert (made.value, made.promised) == (pytest.approx(3.0, rel=1e-3), 0.25)
    assert "(5.0% was asked for, which takes 19 held-out good images)" in str(made)
    assert "asked" not in str(Threshold.of(np.arange(19.0), 0.05))
