"""Logistic regression in passes over blocks gives what scikit-learn gives of all rows at once."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

from featcache.heads import CATALOGUE, TrainingRows, logistic_passes, shared_passes
from featcache.heads.fitted_steps import applied, fit_steps
from featcache.heads.linear import LogisticRegression
from featcache.heads.preprocessing import make, steps_of
from featcache.heads.shared_passes import Passes
from featcache.heads.together import minimised

KINDS = ["none", "standardise", "l2", "pca", "l2+standardise", "standardise+l2", "standardise+pca"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(shared_passes, "BLOCK", 61)  # which divides nothing here


class Exact(LogisticRegression):
    """The head in float64, with a tolerance to compare with."""

    precision = np.float64

    def make_estimator(self, n_features):
        made = super().make_estimator(n_features)
        (made if self.task == "classification" else made.estimator).set_params(tol=1e-7)
        return made


def data(n=400, d=7, n_classes=4, task="classification", views=1):
    rng = np.random.default_rng(0)
    y = np.sort(rng.integers(0, n_classes, n))  # by class, as files of folders are
    X = 2 * rng.standard_normal((n_classes, d))[y] + 3 * rng.standard_normal((n, d)) + 4
    X = (X[:, None] + 0.3 * rng.standard_normal((n, views, d))).astype(np.float32)
    if task == "multi-label":
        y = (rng.random((n, n_classes)) < 0.1 + 0.6 * np.eye(n_classes)[y]).astype(np.int64)
    return X, y


def in_passes(heads, sets, threads=2):
    """Return (head, rows) of all, fitted in passes that they share."""
    pairs = [(head, rows) for rows in sets for head in heads(rows)]
    logistic_passes.fit_in_passes(pairs, threads)
    return pairs


def alone(head, rows):
    """Return outputs of what scikit-learn learns of the same rows, all at once."""
    X, y, _ = rows.arrays()
    return type(head)(**head.get_params()).fit(X, y).outputs(rows.views[:, 0])


@pytest.mark.parametrize("task", ["classification", "multi-label"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_fits_that_share_passes_are_those_of_scikit_learn(task, class_weight):
    """Of every kind of preprocessing, several sets of rows and strengths of the penalty."""
    views, y = data(task=task)
    rng = np.random.default_rng(1)
    sets = [TrainingRows(views, y, np.sort(rng.permutation(400)[:n])) for n in (150, 200)]

    def heads(rows):
        shared = {"task": task, "class_weight": class_weight}
        settings = [(0.03, kind) for kind in KINDS] + [(1.0, "standardise"), (1.0, "l2")]
        return [Exact(*one, **shared) for one in settings]

    for head, rows in in_passes(heads, sets):
        np.testing.assert_allclose(
            head.outputs(views[:, 0]), alone(head, rows), atol=5e-5, err_msg=head.preprocessing
        )


def test_in_float32_it_is_scikit_learn_within_its_tolerance():
    views, y = data()
    sets = [TrainingRows((views + 100).astype(np.float16), y, np.arange(400))]
    heads = [LogisticRegression(1.0, kind) for kind in ("standardise", "l2", "standardise+pca")]
    for head, rows in in_passes(lambda rows: heads, sets):
        assert head.pipeline_[-1].coef_.dtype == np.float32
        np.testing.assert_allclose(
            head.outputs(rows.views[:, 0]), alone(head, rows), atol=5e-3, err_msg=str(head)
        )


def test_two_classes_have_one_column():
    views, y = data(n_classes=2)
    ((head, rows),) = in_passes(lambda rows: [Exact(0.1)], [TrainingRows(views, y, np.arange(400))])
    assert head.pipeline_[-1].coef_.shape == (1, 7)
    np.testing.assert_allclose(head.outputs(views[:, 0]), alone(head, rows), atol=5e-5)


def test_every_view_is_a_row():
    views, y = data(views=3)
    sets = [TrainingRows(views, y, np.arange(0, 400, 2))]
    ((head, rows),) = in_passes(lambda rows: [Exact(0.1, "l2")], sets)
    np.testing.assert_allclose(head.outputs(views[:, 0]), alone(head, rows), atol=5e-5)


def test_classes_and_labels_that_some_rows_do_not_have(tmp_path):
    views, y = data()
    few = TrainingRows(views, y, np.flatnonzero(y != 1))
    every = TrainingRows(views, y, np.arange(400))
    (first, _), (second, _) = in_passes(lambda rows: [Exact(0.1)], [few, every])
    assert first.classes_.tolist() == [0, 2, 3]
    assert second.classes_.tolist() == [0, 1, 2, 3]
    views, y = data(task="multi-label")
    y[:, 1], y[:, 2] = 1, 0
    rows = TrainingRows(views, y, np.arange(400))
    ((head, _),) = in_passes(lambda rows: [Exact(0.1, task="multi-label")], [rows])
    np.testing.assert_allclose(head.outputs(views[:, 0]), alone(head, rows), atol=5e-5)
    head.save(tmp_path / "head.skops")  # with what answers for those labels
    restored = Exact(0.1, task="multi-label").restore(tmp_path / "head.skops")
    np.testing.assert_array_equal(restored.outputs(views[:, 0]), head.outputs(views[:, 0]))
    y[:] = 1
    ((head, _),) = in_passes(lambda rows: [Exact(0.1, task="multi-label")], [rows])
    assert (head.outputs(views[:, 0]) > 0.999).all()


def test_threads_and_those_that_share_do_not_change_what_is_learnt(monkeypatch):
    views, y = data()
    sets = [TrainingRows(views, y, np.arange(start, 400, 2)) for start in (0, 1)]

    def heads(rows):
        return [LogisticRegression(C) for C in (0.01, 1.0)]

    first = in_passes(heads, sets, threads=1)
    again = in_passes(heads, sets, threads=3)
    monkeypatch.setattr(logistic_passes, "AT_ONCE_BYTES", 1)  # one after the other
    one_by_one = in_passes(heads, sets)
    for (one, _), (other, _), (single, _) in zip(first, again, one_by_one, strict=True):
        np.testing.assert_array_equal(one.outputs(views[:, 0]), other.outputs(views[:, 0]))
        np.testing.assert_allclose(one.outputs(views[:, 0]), single.outputs(views[:, 0]), atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"] + ["pca+standardise"])
def test_preprocessing_is_what_scikit_learn_makes_of_all_rows(kind):
    views, y = data()
    sets = [TrainingRows(views, y, np.arange(start, 400, 2)) for start in (0, 1)]
    steps = fit_steps(Passes(sets, 2, np.float64), [(0, kind), (1, kind)])
    for number, rows in enumerate(sets):
        X = rows.arrays()[0]
        expected = make(kind, *X.shape).fit_transform(X.astype(np.float64))
        found = applied(steps_of(steps[number, kind]), X.astype(np.float64))
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("task", ["classification", "multi-label"])
def test_gradients_are_those_of_the_objective(task):
    """The minimum alone would not tell: there the slopes by the biases are 0."""
    views, y = data(task=task)
    rows = TrainingRows(views, y, np.arange(0, 400, 2))
    passes = Passes([rows], 1, np.float64)
    heads = [Exact(0.3, kind, task=task, class_weight="balanced") for kind in KINDS]
    steps = fit_steps(passes, [(0, kind) for kind in KINDS])
    fits = [logistic_passes._fit(head, 0, rows, steps, {}) for head in heads]
    values = logistic_passes.Evaluation(passes, fits, lambda text: None).values
    rng = np.random.default_rng(0)
    points = {place: rng.standard_normal(fit.size) for place, fit in enumerate(fits)}
    ways = {place: rng.standard_normal(fit.size) for place, fit in enumerate(fits)}
    here, step = values(points), 1e-5
    ahead, behind = (
        values({place: x + sign * step * ways[place] for place, x in points.items()})
        for sign in (1, -1)
    )
    for place, way in ways.items():
        slope = (ahead[place][0] - behind[place][0]) / (2 * step)
        np.testing.assert_allclose(here[place][1] @ way, slope, rtol=1e-6, err_msg=KINDS[place])


def test_a_pass_serves_all_that_are_under_way():
    goals, asked = {4: np.ones(3), 7: np.array([5.0])}, []

    def evaluate(points):
        asked.append(sorted(points))
        return {
            number: (((x - goals[number]) ** 2).sum(), 2 * (x - goals[number]), False)
            for number, x in points.items()
        }

    found = minimised({4: np.zeros(3), 7: np.zeros(1)}, evaluate, 100)
    for number, goal in goals.items():
        np.testing.assert_allclose(found[number].x, goal, atol=1e-6)
    assert asked[0] == [4, 7]
    assert len(asked) < 12


def test_what_goes_wrong_in_a_pass_ends_all():
    n_before = threading.active_count()

    def evaluate(points):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        minimised({0: np.zeros(3), 1: np.zeros(1)}, evaluate, 100)
    assert threading.active_count() == n_before


def test_memory_is_for_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_passes, "BLOCK", 1024)
    n, d = 50_000, 64
    rng = np.random.default_rng(0)
    np.save(tmp_path / "views.npy", rng.standard_normal((n, 1, d), np.float32))
    views = np.asarray(np.load(tmp_path / "views.npy", mmap_mode="r"))
    y = rng.integers(0, 3, n)
    sets = [TrainingRows(views, y, np.flatnonzero(np.arange(n) % 3 != fold)) for fold in range(3)]
    tracemalloc.start()
    try:
        in_passes(lambda rows: [LogisticRegression(0.01), LogisticRegression(1.0, "l2")], sets)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n * d * 4 / 2  # rows of one set in float32 would be 0.67


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    views, y = data()

    def make_estimator(self, n_features):
        return CATALOGUE["logreg"].make_estimator(self, n_features).set_params(max_iter=2)

    head = type("Hasty", (LogisticRegression,), {"make_estimator": make_estimator})(1.0)
    with pytest.warns(UserWarning, match="failed to converge after 2 iterations"):
        logistic_passes.fit_in_passes([(head, TrainingRows(views, y, np.arange(400)))], 1)
