"""One suite that every head of the catalogue must pass."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featcache import heads, quiet
from featcache.errors import HeadError, SpecError

D = 17
SETTINGS = [(name, params) for name, head in heads.CATALOGUE.items() for params in head.grid]
QUICK = {"dense": {"learning_rate": 0.01, "dropout": 0.2, "epochs": 60}}


def data(n_classes, n=120, scale=1.0, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes, D)) * 1.2
    y = np.arange(n) % n_classes
    X = centres[y] + rng.standard_normal((n, D))
    return (X * scale + shift).astype(np.float32), y


def make(name, params=None):
    return heads.CATALOGUE[name](**(QUICK.get(name, {}) | (params or {})))


def keras_model(head):
    keras = quiet.keras()
    inputs = keras.Input((head.n_features_in_,))
    output = head.to_keras_layers(inputs)
    model = keras.Model(inputs, output)
    return keras.Model(inputs, [model.get_layer(head.parity_layer).output, output])


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize(("name", "params"), SETTINGS)
def test_keras_layers_give_what_the_head_gives(name, params, n_classes):
    X, y = data(n_classes, scale=3, shift=2)
    head = make(name, params)
    assert head.fit(X, y) is head
    X_new, _ = data(n_classes, seed=1, scale=3, shift=2)
    values, outputs = (np.asarray(part) for part in keras_model(head)(X_new))
    np.testing.assert_allclose(values, head.parity_values(X_new), rtol=1e-4, atol=1e-4)
    assert outputs.shape == (len(X_new), n_classes)
    np.testing.assert_array_equal(outputs.argmax(axis=1), head.predict(X_new))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_outputs(name, n_classes):
    X, y = data(n_classes)
    head = make(name).fit(X, y)
    outputs = head.outputs(X)
    assert outputs.shape == (len(X), n_classes)
    np.testing.assert_array_equal(head.predict(X), outputs.argmax(axis=1))
    assert np.mean(head.predict(X) == y) > 0.7
    if head.output == heads.PROBABILITIES:
        np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(head.predict_proba(X), outputs)
    else:
        assert not hasattr(head, "predict_proba")


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_saved_and_loaded_it_predicts_the_same(name, tmp_path):
    X, y = data(3)
    head = make(name).fit(X, y)
    file = heads.save(head, tmp_path, name)
    again = heads.load(name, tmp_path / file, {})
    np.testing.assert_allclose(again.outputs(X), head.outputs(X), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(again.classes_, head.classes_)


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_the_constructor_only_stores(name):
    head = make(name)
    assert clone(head).get_params() == head.get_params()
    assert not any(key.endswith("_") for key in vars(head))


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_the_same_seed_gives_the_same_head(name):
    X, y = data(3)
    first, second = make(name).fit(X, y), make(name).fit(X, y)
    np.testing.assert_array_equal(first.outputs(X), second.outputs(X))


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_fit_leaves_its_data_alone(name):
    X, y = data(3)
    before = X.copy()
    X.flags.writeable = False
    make(name).fit(X, y)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_constant_and_half_precision_features(name):
    X, y = data(3)
    X[:, 3] = 60_000.0
    X[:, 5] = 0.0
    head = make(name).fit(X.astype(np.float16), y)
    assert np.isfinite(head.outputs(X.astype(np.float16))).all()
    assert np.mean(head.predict(X) == y) > 0.7


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_it_travels_between_processes(name):
    X, y = data(3)
    head = make(name).fit(X, y)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.outputs(X), head.outputs(X))


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_rbf_scores_are_those_of_scikit_learn(n_classes):
    X, y = data(n_classes)
    head = make("rbf-svm", {"C": 3.0, "gamma": 0.5}).fit(X, y)
    scaled = StandardScaler().fit_transform(np.asarray(X, np.float64))
    reference = SVC(C=3.0, gamma=0.5 / D, break_ties=True).fit(scaled, y)
    scores = reference.decision_function(scaled)
    if n_classes == 2:
        np.testing.assert_allclose(np.sign(head.decision_function(X)[:, 1] - 0.5), np.sign(scores))
    else:
        np.testing.assert_allclose(head.decision_function(X), scores, atol=1e-10)
    np.testing.assert_array_equal(head.predict(X), reference.predict(scaled))


def test_dense_options_make_its_layers():
    X, y = data(3)
    head = make("dense", {"hidden": (8, 6), "dropout": 0.3, "batch_norm": True}).fit(X, y)
    kinds = [type(layer).__name__ for layer in head.model_.layers[1:]]
    block = ["Dense", "BatchNormalization", "ReLU", "Dropout"]
    assert kinds == ["Normalization", *block, *block, "Dense", "Softmax"]


def test_dense_stops_early_and_keeps_the_best():
    X, y = data(3)
    head = heads.CATALOGUE["dense"](learning_rate=0.05, epochs=500, patience=10).fit(X, y)
    assert head.n_epochs_ < 500


def test_dense_that_diverges_says_so():
    X, y = data(3)
    head = heads.CATALOGUE["dense"](learning_rate=1e38, hidden=(8,))
    with pytest.raises(HeadError, match="Lower the learning rate"):
        head.fit(X, y)


def test_bad_scaling_names_the_parameter():
    X, y = data(3)
    with pytest.raises(SpecError, match="scaling must be one of standardise, l2; got 'minmax'"):
        make("logreg", {"scaling": "minmax"}).fit(X, y)


def test_dense_needs_every_class():
    X, y = data(3)
    with pytest.raises(HeadError, match=r"classes 0 to n_classes - 1, two or more; got \[0, 2\]"):
        make("dense").fit(X[y != 1], y[y != 1])


def test_dense_on_one_sample_a_class():
    X, y = data(3, n=3)
    assert make("dense").fit(X, y).outputs(X).shape == (3, 3)


def test_a_file_of_another_head_is_refused(tmp_path):
    head = make("rbf-svm").fit(*data(3))
    file = tmp_path / heads.save(head, tmp_path, "rbf-svm")
    with pytest.raises(HeadError, match="does not hold a LogisticRegression"):
        heads.load("logreg", file, {})


def test_a_head_from_a_stranger_runs_nothing(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("this must not run",)

    file = tmp_path / "logreg.skops"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(HeadError, match=r"logreg\.skops"):
        heads.load("logreg", file, {})
    assert "must not run" not in capsys.readouterr().out


def test_foreign_types_in_a_skops_file_are_named(tmp_path):
    from skops import io

    file = tmp_path / "logreg.skops"
    io.dump({"function": make}, file)
    with pytest.raises(HeadError, match=r"test_heads\.make"):
        heads.load("logreg", file, {})


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_missing_and_damaged_files(name, tmp_path):
    head = make(name).fit(*data(3))
    file = tmp_path / heads.save(head, tmp_path, name)
    file.write_bytes(file.read_bytes()[:500])
    assert not zipfile.is_zipfile(file)
    with pytest.raises(HeadError, match=file.name):
        heads.load(name, file, {})
    file.unlink()
    with pytest.raises(HeadError, match="does not exist"):
        heads.load(name, file, {})
