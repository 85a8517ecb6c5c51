"""Linear heads by scikit-learn's solvers: logistic regression and a linear SVM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special
from sklearn import linear_model, svm
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from featcache.core import process
from featcache.core.checks import check_number
from featcache.core.tasks import (
    DEFAULT_TASK,
    PROBABILITIES,
    SCORES,
    TargetKind,
    names_of,
)
from featcache.core.tensorflow import import_keras
from featcache.heads import logistic_passes
from featcache.heads.base import Head, SklearnHead
from featcache.heads.preprocessing import L2, STANDARDISE, make

if TYPE_CHECKING:
    from typing_extensions import Self

    from featcache.heads.training_rows import TrainingRows


class LinearHead(SklearnHead):
    """A linear classifier of scikit-learn; of several labels one classifier each."""

    # what answers for a label that all images have, or none
    trusted_types = ("sklearn.multiclass._ConstantPredictor",)
    C: float  # inverse strength of the penalty

    def check(self) -> None:
        super().check()
        check_number("C", self.C, "be a number above 0", lambda C: 0 < C < math.inf)

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        # a label that all or none of these rows have is answered with a constant
        with process.ignored("Label .* is present in all training examples"):
            return super()._fit(X, y, groups)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        if self.target_kind is TargetKind.CLASS:
            return super().decision_function(X)
        weights, bias = one_vs_rest(self.pipeline_[-1])
        X = self.pipeline_[:-1].transform(self._features(X))
        return np.asarray(X @ weights.T + bias, np.float64)


class LogisticRegression(LinearHead):
    """Multinomial logistic regression with an L2 penalty; one of two classes for each label.

    Parameters
    ----------
    C : inverse strength of the penalty.
    preprocessing : none, standardise, l2, pca, or several joined by +.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS)
    output = PROBABILITIES
    precision = np.float32  # half the time of float64, and the shipped weights are float32
    passes = True
    logits_layer = "logits"

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        standardised = tuple({"C": C, "preprocessing": STANDARDISE} for C in (1e-3, 1e-2, 1e-1))
        unit_length = tuple({"C": C, "preprocessing": L2} for C in (1.0, 10.0, 100.0))
        return standardised + unit_length

    def __init__(
        self,
        C: float = 0.01,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.C = C
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        """Preprocess once for each kind, and start each solver from the last solution."""
        X, y, _ = rows.arrays()
        prepared: dict[str, tuple[Any, np.ndarray, Any]] = {}
        for params in settings:
            head = cls(**params)
            head.check()
            if head.target_kind is not TargetKind.CLASS:
                yield head.fit(X, y)
                continue
            if head.preprocessing not in prepared:
                step = make(head.preprocessing, *X.shape)
                values = np.asarray(X, cls.precision)
                values = values if step == "passthrough" else step.fit_transform(values)
                estimator = head.make_estimator(X.shape[1]).set_params(warm_start=True)
                prepared[head.preprocessing] = step, values, estimator
            step, values, estimator = prepared[head.preprocessing]
            estimator.set_params(C=head.C).fit(values, y)
            fitted = head.make_estimator(X.shape[1])
            # the solver's arrays are updated in place when it starts from them again
            learnt = {
                name: np.copy(value) if isinstance(value, np.ndarray) else value
                for name, value in vars(estimator).items()
                if name.endswith("_")
            }
            vars(fitted).update(learnt)
            head.pipeline_ = make_pipeline(step, fitted)
            yield head.describe()

    @classmethod
    def fit_in_passes(
        cls,
        asked: Sequence[tuple[Head, TrainingRows]],
        threads: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        logistic_passes.fit_in_passes(asked, threads, tell)

    def make_estimator(self, n_features: int) -> Any:
        one = linear_model.LogisticRegression(
            C=self.C, max_iter=2000, class_weight=self.class_weight
        )
        return one if self.target_kind is TargetKind.CLASS else OneVsRestClassifier(one)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities (n, n_outputs)."""
        if self.target_kind is TargetKind.LABELS:
            return np.asarray(special.expit(self.decision_function(X)))
        return np.asarray(self.pipeline_.predict_proba(self._features(X)), np.float64)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X)

    def logits(self, X: np.ndarray) -> np.ndarray:
        scores = self.decision_function(X)
        return scores / 2 if len(self.classes_) == 2 else scores  # then it is their difference

    def to_keras_layers(self, features: Any) -> Any:
        layers = import_keras().layers
        if self.target_kind is TargetKind.LABELS:
            weights, bias = one_vs_rest(self.pipeline_[-1])
            logits = self.linear_layer(features, "logits", weights, bias)
            return layers.Activation("sigmoid", name=self.output)(logits)
        weights, bias = self.pipeline_[-1].coef_, self.pipeline_[-1].intercept_
        if len(self.classes_) == 2:
            # sigmoid(s) is the softmax of (0, s)
            weights, bias = (np.concatenate([0 * part, part]) for part in (weights, bias))
        logits = self.linear_layer(features, "logits", weights, bias)
        return layers.Softmax(name=self.output)(logits)


class LinearSVM(LinearHead):
    """One-vs-rest linear SVM with squared hinge loss. Gives scores.

    Parameters
    ----------
    C : inverse strength of the penalty.
    preprocessing : none, standardise, l2, pca, or several joined by +.
    seed : of the order in which the solver visits the samples.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS)
    output = SCORES

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return (
            {"C": 1e-5, "preprocessing": STANDARDISE},
            {"C": 1e-4, "preprocessing": STANDARDISE},
            {"C": 1e-3, "preprocessing": STANDARDISE},
            {"C": 1.0, "preprocessing": L2},
        )

    def __init__(
        self,
        C: float = 1e-4,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.C = C
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def make_estimator(self, n_features: int) -> Any:
        # the dual solver: with so strong a penalty it needs a dozen passes, the primal one far more
        one = svm.LinearSVC(
            C=self.C,
            dual=True,
            max_iter=10_000,
            class_weight=self.class_weight,
            random_state=self.seed,
        )
        return one if self.target_kind is TargetKind.CLASS else OneVsRestClassifier(one)

    def to_keras_layers(self, features: Any) -> Any:
        if self.target_kind is TargetKind.LABELS:
            weights, bias = one_vs_rest(self.pipeline_[-1])
            return self.linear_layer(features, self.output, weights, bias)
        weights, bias = self.pipeline_[-1].coef_, self.pipeline_[-1].intercept_
        if len(self.classes_) == 2:
            weights, bias = (np.concatenate([-part, part]) for part in (weights, bias))
        return self.linear_layer(features, self.output, weights, bias)


def one_vs_rest(model: OneVsRestClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (k, p) and bias (k,) of the linear models of k labels."""
    weights, bias = [], []
    for one in model.estimators_:
        if hasattr(one, "coef_"):
            weights.append(one.coef_[0])
            bias.append(one.intercept_[0])
        else:  # the label was always there, or never: scikit-learn then answers a constant
            weights.append(np.zeros(model.n_features_in_))
            bias.append(LARGE if one.y_[0] else -LARGE)
    return np.stack(weights), np.array(bias)


LARGE = 30.0  # a logit whose sigmoid is 0 or 1 in float32 within 1e-13
