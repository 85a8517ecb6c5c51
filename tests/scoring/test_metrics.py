from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from featcache.core.errors import SpecError
from featcache.core.tasks import TASKS, TargetKind
from featcache.scoring import metrics
from featcache.scoring.confusion import per_target

# tasks whose outputs are a row an image; boxes are scored by tests/detection
OF_ROWS = [name for name, task in TASKS.items() if task.kind is not TargetKind.BOXES]


def classification(n=203, n_classes=4, seed=0, decimals=2):
    """Probabilities that know something, with ties; the last class is rare."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.integers(0, 3 * n_classes - 2, n) // 3, n_classes - 1)
    logits = rng.standard_normal((n, n_classes)) + 1.2 * np.eye(n_classes)[y]
    p = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), decimals) + 1e-3
    return y, p / p.sum(axis=1, keepdims=True)


def recall(positive, scores):
    """The largest recall of scikit-learn's ROC curve at 5 % false alarms."""
    false, true, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    return true[false <= 0.05].max()


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_classification_is_scikit_learns(n_classes):
    y, p = classification(n_classes=n_classes)
    said = p.argmax(axis=1)
    found = metrics.score("classification", y, p, "probabilities")
    assert tuple(found) == TASKS["classification"].metrics
    aucs = [sk.roc_auc_score(y == column, p[:, column]) for column in range(n_classes)]
    expected = {
        "accuracy": sk.accuracy_score(y, said),
        "balanced-accuracy": sk.balanced_accuracy_score(y, said),
        "macro-f1": sk.f1_score(y, said, average="macro", zero_division=0),
        "log-loss": sk.log_loss(y, p),
        "roc-auc": np.mean(aucs),
        "average-precision": np.mean(
            [sk.average_precision_score(y == column, p[:, column]) for column in range(n_classes)]
        ),
        "recall-at-fpr-5": np.mean(
            [recall(y == column, p[:, column]) for column in range(n_classes)]
        ),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    if n_classes > 2:
        assert found["roc-auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))


def test_classes_that_are_missing():
    y = np.array([0, 0, 2, 2, 2])
    outputs = np.eye(5)[[0, 2, 2, 2, 3]]  # 1 and 4 are nowhere, 3 only in the predictions
    found = metrics.score("classification", y, outputs, "scores")
    # recall of 0 and 2: 1/2 and 2/3; F1 of 0, 2 and 3: 2 / 3, 4 / 6 and 0
    assert found["balanced-accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["macro-f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    # AUC of 0: of 6 pairs 3 won and 3 tied; of 2: 2 won and 3 tied
    assert found["roc-auc"] == pytest.approx((4.5 / 6 + 3.5 / 6) / 2)


def test_scores_have_no_log_loss_and_no_ece_but_the_rest():
    y, p = classification()
    as_probabilities = metrics.score("classification", y, p, "probabilities")
    found = metrics.score("classification", y, np.log(p), "scores")
    for name in TASKS["classification"].metrics:
        if name in metrics.NEEDS_PROBABILITIES:
            assert math.isnan(found[name])
            assert not math.isnan(as_probabilities[name])
        elif name != "roc-auc":  # which hangs on the order of rows, kept by the logarithm as well
            assert found[name] == as_probabilities[name]
    assert found["roc-auc"] == pytest.approx(as_probabilities["roc-auc"])


def test_log_loss_of_a_certain_error_is_finite_and_the_same_in_float32():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    expected = -math.log(np.finfo(float).eps) / 2
    for outputs in (p, p.astype(np.float32)):
        found = metrics.score_one(
            "log-loss", "classification", np.array([0, 0]), outputs, "probabilities"
        )
        assert found == pytest.approx(expected)


def test_reliability_and_ece_by_hand():
    # of two bins: (0.5, 1] has tops 0.6, 0.7, 0.8, 0.8, half of them right; (0, 0.5] 0.5, wrong
    p = np.array(
        [[0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]
    )
    y = np.array([0, 1, 1, 2, 0])
    low, high = metrics.reliability(y, p, n_bins=2)
    assert low == {"low": 0.0, "high": 0.5, "n": 1, "confidence": 0.5, "accuracy": 0.0}
    assert high == {
        "low": 0.5,
        "high": 1.0,
        "n": 4,
        "confidence": pytest.approx(2.9 / 4),
        "accuracy": 0.5,
    }
    # of 15 bins each top has its own: gaps 0.4, 0.7, 0.5 and, of the two of 0.8, 0.3
    found = metrics.score_one("ece", "classification", y, p, "probabilities")
    assert found == pytest.approx((0.4 + 0.7 + 0.5 + 2 * 0.3) / 5)


def test_reliability_leaves_out_empty_bins_and_counts_every_row():
    y, p = classification()
    bins = metrics.reliability(y, p)
    assert sum(one["n"] for one in bins) == len(y)
    assert len(bins) < 15
    for one in bins:
        assert one["n"] > 0
        assert one["low"] < one["confidence"] <= one["high"]
    ends = metrics.reliability(np.array([0, 0]), np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert [one["n"] for one in ends] == [1, 1]


def multi_label(n=101, n_labels=4):
    rng = np.random.default_rng(1)
    y = (rng.random((n, n_labels)) < [0.5, 0.3, 0.1, 0.8]).astype(np.int64)
    p = np.round(np.clip(0.4 * y + 0.6 * rng.random((n, n_labels)), 0, 1), 1)
    return y, p


def test_multi_label_is_scikit_learns():
    y, p = multi_label()
    found = metrics.score("multi-label", y, p, "probabilities")
    said = p >= 0.5
    assert (p == 0.5).any()
    assert list(found) == ["map", "micro-f1", "macro-f1"]
    assert found["map"] == pytest.approx(sk.average_precision_score(y, p, average="macro"))
    for average in ("micro", "macro"):
        expected = sk.f1_score(y, said, average=average, zero_division=0)
        assert found[f"{average}-f1"] == pytest.approx(expected)
    assert metrics.score("multi-label", y, p - 0.5, "scores") == pytest.approx(found)


def test_labels_that_all_or_no_rows_have():
    y, p = multi_label()
    expected = sk.average_precision_score(y[:, 2:], p[:, 2:])
    y[:, 0], y[:, 1] = 0, 1
    found = metrics.score("multi-label", y, p, "probabilities")
    assert found["map"] == pytest.approx(expected)
    one_sided = metrics.score("multi-label", np.zeros((4, 2), int), np.zeros((4, 2)), "scores")
    assert math.isnan(one_sided.pop("map"))
    assert one_sided == {"micro-f1": 0.0, "macro-f1": 0.0}
    nobody, zeros = np.zeros((4, 2), int), np.zeros((4, 2))
    nothing = metrics.score("multi-label", nobody, zeros, "probabilities")
    for average in ("micro", "macro"):
        expected = sk.f1_score(nobody, nobody, average=average, zero_division=0)
        assert nothing[f"{average}-f1"] == expected


def test_regression_is_scikit_learns():
    rng = np.random.default_rng(2)
    y = rng.standard_normal((53, 3)) * [1, 10, 0.1] + 4
    outputs = y + rng.standard_normal((53, 3))
    found = metrics.score("regression", y, outputs, "values")
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(y, outputs),
            "rmse": sk.root_mean_squared_error(y, outputs),
            "r2": sk.r2_score(y, outputs),
        }
    )
    assert metrics.score_one("r2", "regression", y, y, "values") == 1
    assert math.isnan(metrics.score_one("r2", "regression", y[:1], y[:1], "values"))


@pytest.mark.parametrize("constant", [5.0, 0.1])  # the mean of 53 times 0.1 is another number
def test_a_constant_target_has_no_r2(constant):
    rng = np.random.default_rng(2)
    y = rng.standard_normal((53, 2))
    y[:, 1] = constant
    outputs = y + rng.standard_normal((53, 2))
    for said in (outputs, y):
        assert math.isnan(metrics.score_one("r2", "regression", y[:, 1:], said[:, 1:], "values"))
    both, one = (
        metrics.score_one("r2", "regression", y[:, :n], outputs[:, :n], "values") for n in (2, 1)
    )
    assert both == one  # it is left out of the mean
    assert math.isnan(per_target(y, outputs)[1]["r2"])


@pytest.mark.parametrize(
    ("task", "y", "outputs"),
    [
        ("classification", np.zeros(0, int), np.zeros((0, 3))),
        ("multi-label", np.zeros((0, 2), int), np.zeros((0, 2))),
        ("regression", np.zeros((0, 2)), np.zeros((0, 2))),
    ],
)
def test_no_rows_have_no_metric(task, y, outputs):
    found = metrics.score(task, y, outputs, "probabilities")
    assert len(found) == len(TASKS[task].metrics)
    assert all(map(math.isnan, found.values()))


def test_outputs_that_are_not_finite_have_no_ranking():
    y, p = classification()
    p[0, 0] = math.nan
    assert math.isnan(metrics.score("classification", y, p, "probabilities")["roc-auc"])


def test_one_class_alone_has_no_auc():
    found = metrics.score("classification", np.ones(5, int), np.eye(3)[[1] * 5], "probabilities")
    assert math.isnan(found["roc-auc"])
    assert found["accuracy"] == 1


def test_each_task_has_its_default_and_says_what_it_has():
    assert [metrics.check(None, task) for task in OF_ROWS] == [
        *("accuracy", "map", "rmse", "roc-auc"),
    ]
    assert metrics.check("macro-f1", "multi-label") == "macro-f1"
    with pytest.raises(SpecError) as caught:
        metrics.check("map", "classification")
    assert str(caught.value) == (
        "metric must be one of accuracy, balanced-accuracy, macro-f1, log-loss, roc-auc, "
        "average-precision, recall-at-fpr-5, ece for a classification task; got 'map'."
    )


@pytest.mark.parametrize("task", OF_ROWS)
def test_better_predictions_are_better_by_every_metric(task):
    if task == "regression":
        y = np.linspace(0, 1, 20)[:, None]
        good, bad = y + 0.01, y[::-1]
    elif task == "multi-label":
        y = (np.arange(60).reshape(20, 3) % 4 < 2).astype(int)
        good, bad = 0.1 + 0.8 * y, 0.9 - 0.8 * y
    else:
        y = np.arange(20) % 3
        good = 0.04 + 0.88 * np.eye(3)[y]
        bad = np.roll(good, 1, axis=1)
    for name in TASKS[task].metrics:
        of_good, of_bad = (
            metrics.better(name) * metrics.score_one(name, task, y, outputs, "probabilities")
            for outputs in (good, bad)
        )
        assert of_good > of_bad, name


def test_accuracy_is_quick():
    y, p = classification(4000, 10)
    started = time.perf_counter()
    for _ in range(20):
        metrics.score_one("accuracy", "classification", y, p, "probabilities")
    assert (time.perf_counter() - started) / 20 < 0.01
