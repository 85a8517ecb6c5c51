"""One suite that every head of the catalogue must pass."""

from __future__ import annotations

import functools
import pickle
import re
import zipfile

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

from featcache import heads
from featcache.core.errors import HeadError, SpecError, StitchError
from featcache.core.tensorflow import import_keras
from featcache.heads import preprocessing
from featcache.heads.training_rows import TrainingRows

D = 17
CLASSIFICATION, MULTI_LABEL, REGRESSION = "classification", "multi-label", "regression"
KINDS = [(name, task) for name, head in heads.CATALOGUE.items() for task in head.tasks]
STITCHED = [(name, task) for name, task in KINDS if heads.CATALOGUE[name].stitches]
SETTINGS = [
    (name, task, params) for name, task in STITCHED for params in heads.CATALOGUE[name].grid(task)
]
PREPROCESSED = [
    (name, task)
    for name, task in STITCHED
    if "preprocessing" in heads.CATALOGUE[name](task=task).get_params()
]
CHAINS = ("pca", "standardise+pca", "l2+standardise", "standardise+l2", "pca+l2")
QUICK = {
    "dense": {"learning_rate": 0.01, "dropout": 0.2, "epochs": 15},
    "random-forest": {"n_estimators": 20},
}
# class weights have no meaning for these, or no effect
UNWEIGHTED = {
    ("dummy", CLASSIFICATION),
    ("dummy", MULTI_LABEL),
    ("centroid", CLASSIFICATION),
    ("ridge", MULTI_LABEL),
}


def data(task=CLASSIFICATION, n_outputs=3, n=120, scale=1.0, shift=0.0, seed=0, d=D):
    """Return features (n, d) around centres, and what is to be learnt of them."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    n_centres = n_outputs if task == CLASSIFICATION else 4
    centres = fixed.standard_normal((n_centres, d)) * 1.2
    member = np.arange(n) % n_centres
    X = centres[member] + rng.standard_normal((n, d))
    linear = X @ fixed.standard_normal((d, n_outputs)) / np.sqrt(d)
    y = {
        CLASSIFICATION: member,
        MULTI_LABEL: (linear > 0).astype(np.int64),
        REGRESSION: 10 + 3 * linear,
    }[task]
    return (X * scale + shift).astype(np.float32), y


def make(name, task=CLASSIFICATION, params=None, **more):
    return heads.CATALOGUE[name](**(QUICK.get(name, {}) | (params or {}) | {"task": task} | more))


@functools.cache
def fitted(name, task):
    """A head fitted on `data(task)`, for tests that leave it as it is."""
    return make(name, task).fit(*data(task))


def keras_model(head):
    keras = import_keras()
    inputs = keras.Input((head.n_features_in_,))
    output = head.to_keras_layers(inputs)
    model = keras.Model(inputs, output)
    return keras.Model(inputs, [model.get_layer(head.parity_layer).output, output])


def predicted(head, outputs):
    """Return what the outputs of the Keras layers mean."""
    if head.task == CLASSIFICATION:
        return head.classes_[outputs.argmax(axis=1)]
    if head.task == MULTI_LABEL:
        return (outputs >= (0.5 if head.output == heads.PROBABILITIES else 0)).astype(int)
    return outputs


def check_layers(head, X, tmp_path=None):
    """The Keras layers give what the head gives; where there is a folder, from a file as well."""
    models = [keras_model(head)]
    if tmp_path is not None:
        file = tmp_path / "layers.keras"
        models[0].save(file)
        with zipfile.ZipFile(file) as parts:
            assert b"featcache" not in parts.read("config.json")
        models.append(import_keras().models.load_model(file))
    for one in models:
        values, outputs = (np.asarray(part) for part in one(X, training=False))
        np.testing.assert_allclose(values, head.parity_values(X), rtol=1e-4, atol=1e-4)
        assert outputs.shape == head.outputs(X).shape
        if head.task == REGRESSION:
            np.testing.assert_allclose(outputs, head.predict(X), rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(predicted(head, outputs), head.predict(X))


def same(first, second, X, X_of_second=None, **tolerance):
    others = X if X_of_second is None else X_of_second
    np.testing.assert_allclose(first.outputs(X), second.outputs(others), **tolerance)
    np.testing.assert_array_equal(first.predict(X).shape, second.predict(others).shape)


@pytest.mark.parametrize(("name", "task", "params"), SETTINGS)
def test_keras_layers_give_what_the_head_gives(name, task, params, tmp_path):
    X, y = data(task, scale=3, shift=2)
    head = make(name, task, params)
    assert head.fit(X, y) is head
    # files of every kind of layer are loaded in test_parity, and here of one setting each
    is_first = params == heads.CATALOGUE[name].grid(task)[0]
    check_layers(head, data(task, seed=1, scale=3, shift=2)[0], tmp_path if is_first else None)


@pytest.mark.parametrize("n_outputs", [1, 2, 7])
@pytest.mark.parametrize(("name", "task"), KINDS)
def test_few_and_many_outputs_with_balanced_classes(name, task, n_outputs):
    if task == CLASSIFICATION and n_outputs == 1:
        pytest.skip("one class is nothing to learn")
    X, y = data(task, n_outputs)
    some = slice(7 * n_outputs + 20)
    head = make(name, task, class_weight="balanced").fit(X[some], y[some])
    assert head.outputs(X).shape == (len(X), n_outputs)
    if head.stitches:
        check_layers(head, X)


@pytest.mark.parametrize("steps", CHAINS)
@pytest.mark.parametrize(("name", "task"), PREPROCESSED)
def test_preprocessing_is_what_scikit_learn_makes_of_its_steps(name, task, steps, monkeypatch):
    monkeypatch.setattr(preprocessing, "N_COMPONENTS", 6)
    X, y = data(task, scale=3, shift=2)
    X_new, _ = data(task, seed=1, scale=3, shift=2)
    head = make(name, task, preprocessing=steps).fit(X, y)
    kinds = {"standardise": StandardScaler, "l2": Normalizer, "pca": lambda: PCA(6)}
    before = make_pipeline(*(kinds[step]() for step in steps.split("+"))).fit(X)
    by_itself = make(name, task, preprocessing="none").fit(before.transform(X), y)
    same(head, by_itself, X_new, before.transform(X_new), rtol=2e-3, atol=2e-3)


def test_affine_steps_that_follow_each_other_are_one_layer():
    X, y = data()

    def layers(name, steps):
        head = make(name, preprocessing=steps).fit(X, y)
        inputs = import_keras().Input((D,))
        model = import_keras().Model(inputs, head.to_keras_layers(inputs))
        return [type(layer).__name__ for layer in model.layers[1:]]

    assert layers("linear-svm", "standardise+pca") == ["Dense"]
    assert layers("linear-svm", "l2+standardise+pca") == ["UnitNormalization", "Dense"]
    assert layers("linear-svm", "standardise+pca+l2") == ["Dense", "UnitNormalization", "Dense"]
    assert layers("linear-svm", "standardise+l2")[:2] == ["Normalization", "UnitNormalization"]
    assert layers("knn", "pca+l2")[:2] == ["Dense", "UnitNormalization"]


def test_a_step_may_come_twice():
    X, y = data()
    head = make("lda", preprocessing="standardise+l2+standardise+l2").fit(X, y)
    check_layers(head, X)


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_outputs(name, task):
    X, y = data(task, 4, n=200)
    head = make(name, task).fit(X, y)
    outputs = head.outputs(X)
    assert outputs.shape == (len(X), 4)
    expected = {
        CLASSIFICATION: {"probabilities", "scores"},
        MULTI_LABEL: {"probabilities", "scores"},
    }
    assert head.output in expected.get(task, {"values"})
    np.testing.assert_array_equal(head.predict(X), predicted(head, outputs))
    if head.output == heads.PROBABILITIES:
        assert outputs.min() >= 0
        assert outputs.max() <= 1 + 1e-6
        if task == CLASSIFICATION:
            np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
    if name == "dummy":
        assert np.ptp(outputs, axis=0).max() == 0
    elif task == REGRESSION:
        assert np.mean((head.predict(X) - y) ** 2) < 0.6 * np.mean((y.mean(axis=0) - y) ** 2)
    else:
        assert np.mean(head.predict(X) == y) > 0.7


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_saved_and_loaded_it_predicts_the_same(name, task, tmp_path):
    X, head = data(task)[0], fitted(name, task)
    file = heads.save(head, tmp_path, name)
    again = heads.load(name, tmp_path / file, {"task": task})
    same(again, head, X, rtol=1e-6, atol=1e-7)
    assert again.n_features_in_ == D
    if task == CLASSIFICATION:
        np.testing.assert_array_equal(again.classes_, head.classes_)


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_the_constructor_only_stores_and_the_grid_is_small(name, task):
    grid = heads.CATALOGUE[name].grid(task)
    assert 1 <= len(grid) <= 8
    for params in grid:
        head = make(name, task, params)
        head.check()
        assert clone(head).get_params() == head.get_params()
        assert {"task", "class_weight", "seed"} <= set(head.get_params())
        assert not any(key.endswith("_") for key in vars(head))


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_a_fit_can_be_repeated_and_carried_off_and_leaves_its_data_alone(name, task):
    X, y = data(task)
    before = X.copy(), y.copy()
    X.flags.writeable = y.flags.writeable = False
    head = make(name, task, seed=3).fit(X, y)
    for other in (make(name, task, seed=3).fit(X, y), pickle.loads(pickle.dumps(head))):
        np.testing.assert_array_equal(other.outputs(X), head.outputs(X))
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_constant_and_half_precision_features(name, task):
    X, y = data(task)
    X[:, 3] = 60_000.0
    X[:, 5] = 0.0
    head = make(name, task).fit(X.astype(np.float16), y)
    assert np.isfinite(head.outputs(X.astype(np.float16))).all()
    if (
        task == CLASSIFICATION
        and name != "dummy"
        and head.get_params().get("preprocessing") != "none"
    ):
        assert np.mean(head.predict(X) == y) > 0.7


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_more_features_than_samples(name, task):
    X, y = data(task, n=30, d=50)
    head = make(name, task).fit(X, y)
    assert head.n_features_in_ == 50
    if heads.CATALOGUE[name].stitches:
        check_layers(head, X)


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_it_travels_between_processes(name, task):
    X, head = data(task)[0], fitted(name, task)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.outputs(X), head.outputs(X))


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_a_class_that_is_missing_in_training(name, tmp_path):
    X, y = data(n_outputs=4)
    there = y != 1
    head = make(name).fit(X[there], y[there])
    np.testing.assert_array_equal(head.classes_, [0, 2, 3])
    assert head.outputs(X).shape == (len(X), 3)
    assert 1 not in head.predict(X)
    again = heads.load(name, tmp_path / heads.save(head, tmp_path, name), {})
    np.testing.assert_array_equal(again.predict(X), head.predict(X))
    if name != "dummy":
        assert np.mean(head.predict(X[there]) == y[there]) > 0.7


@pytest.mark.parametrize(("name", "task"), [kind for kind in KINDS if kind[1] == MULTI_LABEL])
def test_a_label_that_is_always_there_and_one_that_never_is(name, task, tmp_path):
    X, y = data(task)
    y[:, 0], y[:, 1] = 1, 0
    for weight in (None, "balanced"):
        head = make(name, task, class_weight=weight).fit(X, y)
        assert np.isfinite(head.outputs(X)).all()
        np.testing.assert_array_equal(head.predict(X)[:, :2], y[:, :2])
        saved = tmp_path / heads.save(head, tmp_path, name)
        again = heads.load(name, saved, head.get_params())
        np.testing.assert_array_equal(again.outputs(X), head.outputs(X))
        if head.stitches:
            check_layers(head, X)


@pytest.mark.parametrize(
    ("name", "task"), [kind for kind in KINDS if kind[1] != REGRESSION and kind not in UNWEIGHTED]
)
def test_balanced_classes_help_the_rare_one(name, task):
    X, y = data(task, 2, n=240)
    X = X + 2.5 * np.random.default_rng(5).standard_normal(X.shape).astype(np.float32)
    rare = y if task == CLASSIFICATION else y[:, 0]
    kept = np.flatnonzero((rare == 0) | (np.arange(len(y)) < 60))
    X_kept, y_kept = X[kept], y[kept]
    plain, balanced = (
        make(name, task, class_weight=weight).fit(X_kept, y_kept) for weight in (None, "balanced")
    )
    column = 1 if task == CLASSIFICATION else 0
    difference = balanced.outputs(X)[:, column] - plain.outputs(X)[:, column]
    assert np.abs(difference).max() > 1e-3
    if name != "random-forest":  # the votes of full-grown trees move, but to no side
        assert difference.mean() > 0


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_a_path_gives_the_heads_that_single_fits_give(name, task):
    X, y = data(task)
    grid = heads.CATALOGUE[name].grid(task)
    settings = [QUICK.get(name, {}) | params | {"task": task, "seed": 1} for params in grid]
    X_new, _ = data(task, seed=1, n=50)
    fitted = list(heads.CATALOGUE[name].path(settings, TrainingRows.of(X, y)))
    atol = 2e-2 if name == "logreg" else 1e-5  # of its solver, which starts elsewhere
    assert [type(head) for head in fitted] == [heads.CATALOGUE[name]] * len(settings)
    for head, params in zip(fitted, settings, strict=True):
        assert params.items() <= head.get_params().items()
        alone = heads.CATALOGUE[name](**params).fit(X, y)
        same(head, alone, X_new, rtol=1e-5, atol=atol)


def test_bad_parameters_are_named():
    X, y = data()
    for name, wrong in (("logreg", "minmax"), ("knn", "l2+minmax"), ("ridge", "none+l2")):
        expected = rf"preprocessing must be one of none, standardise, .*; got '{re.escape(wrong)}'"
        with pytest.raises(SpecError, match=expected):
            make(name, preprocessing=wrong).fit(X, y)
    with pytest.raises(SpecError, match="task must be one of classification; got 'regression'"):
        make("rbf-svm", REGRESSION).fit(X, y)
    with pytest.raises(SpecError, match="class_weight must be one of None, balanced; got 'heavy'"):
        make("dense", class_weight="heavy").fit(X, y)


def test_a_head_that_cannot_be_stitched_says_which_can():
    head = make("random-forest").fit(*data())
    with pytest.raises(StitchError, match="stitch another head: logreg"):
        head.to_keras_layers(import_keras().Input((D,)))


def test_trees_that_lead_nowhere_are_refused(tmp_path):
    head = make("random-forest").fit(*data())
    tree = head.pipeline_[-1].estimators_[3].tree_
    for part, wrong in ((tree.children_left, 10_000), (tree.children_right, 0), (tree.feature, D)):
        right = part[0]
        part[0] = wrong
        file = tmp_path / heads.save(head, tmp_path, "random-forest")
        with pytest.raises(HeadError, match="holds trees that are damaged"):
            heads.load("random-forest", file, {})
        part[0] = right


def test_a_file_of_another_head_is_refused(tmp_path):
    head = make("rbf-svm").fit(*data())
    file = tmp_path / heads.save(head, tmp_path, "rbf-svm")
    for name in ("logreg", "knn", "random-forest"):
        with pytest.raises(HeadError, match="does not hold a"):
            heads.load(name, file, {})


def test_a_file_with_other_preprocessing_is_refused(tmp_path):
    head = make("logreg").fit(*data())
    scaler = MinMaxScaler().fit(data()[0])
    head.pipeline_ = make_pipeline(scaler, head.pipeline_[-1])
    file = tmp_path / heads.save(head, tmp_path, "logreg")
    with pytest.raises(HeadError, match="preprocessing that is none of standardise, l2, pca"):
        heads.load("logreg", file, {})


def test_chained_preprocessing_is_saved_and_loaded(tmp_path):
    X, y = data()
    for name in ("ridge", "knn", "rbf-svm"):
        params = {"preprocessing": "l2+standardise+pca"}
        head = make(name, params=params).fit(X, y)
        again = heads.load(name, tmp_path / heads.save(head, tmp_path, name), params)
        same(again, head, X, rtol=1e-6, atol=1e-7)
        assert again.n_features_in_ == D


def test_a_head_from_a_stranger_runs_nothing(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("this must not run",)

    file = tmp_path / "logreg.skops"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(HeadError, match=r"logreg\.skops"):
        heads.load("logreg", file, {})
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["logreg", "random-forest"])
def test_foreign_types_in_a_skops_file_are_named(name, tmp_path):
    from skops import io

    file = tmp_path / f"{name}.skops"
    io.dump({"function": make}, file)
    with pytest.raises(HeadError, match=r"test_heads\.make"):
        heads.load(name, file, {})


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_missing_and_damaged_files(name, tmp_path):
    head = make(name).fit(*data())
    file = tmp_path / heads.save(head, tmp_path, name)
    file.write_bytes(file.read_bytes()[:500])
    assert not zipfile.is_zipfile(file)
    with pytest.raises(HeadError, match=file.name):
        heads.load(name, file, {})
    file.unlink()
    with pytest.raises(HeadError, match="does not exist"):
        heads.load(name, file, {})
