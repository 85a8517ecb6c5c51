"""What is the RBF SVM's own: scikit-learn's scores, whoever solved the problem."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from test_heads import D, data

from featcache.heads import svm
from featcache.heads.svm import RbfSVM


@pytest.fixture
def plain(monkeypatch):
    """An environment without scikit-learn-intelex."""
    monkeypatch.setitem(sys.modules, "sklearnex.svm", None)  # importing it raises ImportError


@pytest.fixture
def many_rows(monkeypatch):
    """As if there were too many rows to keep all kernel values."""
    monkeypatch.setattr(svm, "_KERNEL_ROWS", 0)


def noisy(n_classes, n=300):
    X, y = data(n_outputs=n_classes, n=n)
    return X + np.random.default_rng(7).standard_normal(X.shape).astype(np.float32), y


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_scores_are_those_of_scikit_learn(n_classes):
    X, y = data(n_outputs=n_classes)
    head = RbfSVM(C=3.0, gamma=0.5).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    gamma = 0.5 / (D * scaled.var(dtype=np.float64))
    reference = SVC(C=3.0, gamma=gamma, break_ties=True).fit(scaled, y)
    scores = reference.decision_function(scaled)
    if n_classes == 2:
        np.testing.assert_allclose(np.sign(head.outputs(X)[:, 1] - 0.5), np.sign(scores))
    else:
        np.testing.assert_allclose(head.outputs(X), scores, atol=5e-4)  # the solver stops at 1e-3
    np.testing.assert_array_equal(head.predict(X), reference.predict(scaled))


@pytest.mark.parametrize("preprocessing", ["none", "standardise", "l2", "pca"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_blocks_of_single_precision_give_the_estimators_decisions(
    n_classes, preprocessing, monkeypatch
):
    monkeypatch.setattr(svm, "_BLOCK_BYTES", 40_000)  # several blocks
    X, y = noisy(n_classes)
    head = RbfSVM(preprocessing=preprocessing).fit(X, y)
    expected = head.pipeline_.decision_function(X)
    expected = -expected[:, None] if n_classes == 2 else expected
    scale = np.abs(expected).max()
    np.testing.assert_allclose(head.parity_values(X), expected, atol=1e-4 * scale)


OWN_PROCESS = "FEATCACHE_TEST_INTELEX"
in_own_process = pytest.mark.skipif(
    OWN_PROCESS not in os.environ, reason="runs in a process of its own, see below"
)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sklearnex") is None, reason="scikit-learn-intelex is not installed")
@pytest.mark.skipif(OWN_PROCESS in os.environ, reason="this is the process of its own")
def test_intelex_in_a_process_of_its_own():
    """Where OpenVINO has brought its TBB into the process, intelex cannot be imported."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
            "-k",
            "intelex_gives or intelex_solves",
        ],
        env={**os.environ, OWN_PROCESS: "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "5 passed" in done.stdout.splitlines()[-1]


@in_own_process
@pytest.mark.usefixtures("many_rows")
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_intelex_gives_what_scikit_learn_gives(n_classes, class_weight, request):
    X, y = noisy(n_classes)
    X, y = X[40:], np.where(y[40:] == 1, 5, y[40:])  # a gap in the numbers of the classes
    kept = np.flatnonzero((y != 0) | (np.arange(len(y)) % 4 == 0))
    X, y = X[kept], y[kept]
    fast = RbfSVM(class_weight=class_weight).fit(X, y)
    request.getfixturevalue("plain")
    slow = RbfSVM(class_weight=class_weight).fit(X, y)
    # both stop where no pair of rows violates the optimum by more than 1e-3
    np.testing.assert_allclose(fast.parity_values(X), slow.parity_values(X), atol=5e-3)
    np.testing.assert_array_equal(fast.predict(X), slow.predict(X))
    np.testing.assert_array_equal(fast.classes_, slow.classes_)

    ours, theirs = fast.pipeline_[-1], slow.pipeline_[-1]
    assert type(ours) is SVC
    assert vars(ours).keys() == vars(theirs).keys()
    for key, value in vars(theirs).items():
        got = vars(ours)[key]
        assert type(got) is type(value), key
        assert getattr(got, "dtype", None) == getattr(value, "dtype", None), key
    np.testing.assert_allclose(ours.class_weight_, theirs.class_weight_)
    z = fast.pipeline_[0].transform(X)
    np.testing.assert_array_equal(ours.predict(z), theirs.predict(z))


@in_own_process
@pytest.mark.usefixtures("many_rows")
def test_intelex_solves_where_it_is_installed(monkeypatch):
    sizes = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, X, y: sizes.append(len(X)) or fit(self, X, y))
    RbfSVM().fit(*noisy(3))
    assert sizes == [6]  # two rows a class, for the attributes


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_kernel_values_give_what_scikit_learn_gives(n_classes, class_weight, monkeypatch, request):
    X, y = noisy(n_classes)
    y = np.where(y == 1, 5, y)  # a gap in the numbers of the classes
    fast = RbfSVM(class_weight=class_weight).fit(X, y)
    request.getfixturevalue("many_rows")
    slow = RbfSVM(class_weight=class_weight).fit(X, y)
    np.testing.assert_allclose(fast.parity_values(X), slow.parity_values(X), atol=5e-3)
    np.testing.assert_array_equal(fast.predict(X), slow.predict(X))
    ours, theirs = fast.pipeline_[-1], slow.pipeline_[-1]
    assert vars(ours).keys() == vars(theirs).keys()
    np.testing.assert_allclose(ours.class_weight_, theirs.class_weight_)
    z = fast.pipeline_[0].transform(X)
    np.testing.assert_array_equal(ours.predict(z), theirs.predict(z))


@pytest.mark.usefixtures("plain", "many_rows")
def test_without_intelex_scikit_learn_solves(monkeypatch):
    sizes = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, X, y: sizes.append(len(X)) or fit(self, X, y))
    RbfSVM().fit(*noisy(3))
    assert sizes == [300]


def test_it_is_silent(caplog, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RbfSVM().fit(*noisy(3)).predict(noisy(3)[0])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_the_first_use_in_a_process_is_silent():
    code = (
        "import numpy as np\n"
        "from featcache.heads.svm import RbfSVM\n"
        "X = np.random.default_rng(0).standard_normal((60, 5)).astype('float32')\n"
        "RbfSVM().fit(X, np.arange(60) % 3).predict(X)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_gamma_counts_in_units_of_the_variance():
    X, y = noisy(3)
    first = RbfSVM(preprocessing="none").fit(X, y)
    second = RbfSVM(preprocessing="none").fit(8 * X, y)
    np.testing.assert_allclose(first.outputs(X), second.outputs(8 * X), atol=1e-3)
