"""Linear heads: multinomial logistic regression and a one-vs-rest linear SVM."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import linear_model, svm

from featcache import quiet
from featcache.heads.contract import PROBABILITIES, SCORES, SklearnHead


class LogisticRegression(SklearnHead):
    """Multinomial logistic regression with an L2 penalty, on scaled features.

    Parameters
    ----------
    C : inverse strength of the penalty.
    scaling : standardise, or l2 for rows of length 1.
    """

    output = PROBABILITIES
    parity_layer = PROBABILITIES
    grid = (
        {"C": 0.003},
        {"C": 0.03},
        {"C": 10.0, "scaling": "l2"},
        {"C": 100.0, "scaling": "l2"},
    )

    def __init__(self, C: float = 0.01, scaling: str = "standardise", seed: int = 0):
        self.C = C
        self.scaling = scaling
        self.seed = seed

    def make_classifier(self, n_features: int) -> Any:
        return linear_model.LogisticRegression(C=self.C, max_iter=2000)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, n_classes)."""
        return np.asarray(self.pipeline_.predict_proba(np.asarray(X, np.float64)))

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X)

    def to_keras_layers(self, features: Any) -> Any:
        model = self.pipeline_[1]
        weights, bias = model.coef_, model.intercept_
        if len(self.classes_) == 2:
            # sigmoid(s) is the softmax of (0, s)
            weights, bias = (np.concatenate([0 * part, part]) for part in (weights, bias))
        logits = self.scaled_linear(features, "logits", weights, bias)
        return quiet.keras().layers.Softmax(name=self.output)(logits)


class LinearSVM(SklearnHead):
    """One-vs-rest linear SVM with squared hinge loss, on scaled features. Gives scores.

    Parameters
    ----------
    C : inverse strength of the penalty.
    scaling : standardise, or l2 for rows of length 1.
    seed : of the order in which the solver visits the samples.
    """

    output = SCORES
    parity_layer = SCORES
    grid = ({"C": 1e-4}, {"C": 1e-3}, {"C": 1.0, "scaling": "l2"})

    def __init__(self, C: float = 1e-4, scaling: str = "standardise", seed: int = 0):
        self.C = C
        self.scaling = scaling
        self.seed = seed

    def make_classifier(self, n_features: int) -> Any:
        return svm.LinearSVC(C=self.C, max_iter=10_000, random_state=self.seed)

    def to_keras_layers(self, features: Any) -> Any:
        model = self.pipeline_[1]
        weights, bias = model.coef_, model.intercept_
        if len(self.classes_) == 2:
            weights, bias = (np.concatenate([-part, part]) for part in (weights, bias))
        return self.scaled_linear(features, self.output, weights, bias)
