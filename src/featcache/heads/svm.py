"""The RBF support vector machine, and how it becomes Keras layers exactly.

scikit-learn decides between each pair of classes and turns the pairs into one score a class: the
number of pairs won, plus a confidence term below one third that breaks ties. Both steps are
rebuilt here from stock layers and `keras.ops`.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from sklearn import svm

from featcache import quiet
from featcache.heads.contract import SCORES, SklearnHead, dense_layer


class RbfSVM(SklearnHead):
    """SVM with the kernel exp(-gamma |x - x'|^2), on standardised features. Gives scores.

    Parameters
    ----------
    C : inverse strength of the penalty.
    gamma : width of the kernel in units of 1 / n_features.
    """

    output = SCORES
    # Votes jump where a pair's decision crosses zero, so parity is judged before them.
    parity_layer = "pair_decisions"
    scaling = "standardise"
    grid = ({"C": 3.0, "gamma": 0.3}, {"C": 10.0, "gamma": 0.1}, {"C": 10.0, "gamma": 0.3})

    def __init__(self, C: float = 10.0, gamma: float = 0.3, seed: int = 0):
        self.C = C
        self.gamma = gamma
        self.seed = seed

    def make_classifier(self, n_features: int) -> Any:
        # The votes and their tie-break are ours, below, so that both sides compute the same.
        return svm.SVC(
            C=self.C, gamma=self.gamma / n_features, decision_function_shape="ovo", cache_size=500
        )

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        """Return the decision of each pair of classes, (n, n_pairs); above zero the first wins."""
        decisions = self.pipeline_.decision_function(np.asarray(X, np.float64))
        # for two classes scikit-learn turns the sign around: above zero the second wins
        return -decisions[:, None] if decisions.ndim == 1 else np.asarray(decisions)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes): pairs won plus the tie-breaking confidence, as in SVC's "ovr"."""
        pairs = self.parity_values(X)
        first, second = self._pairs()
        votes = (pairs >= 0) @ first + (pairs < 0) @ second
        confidence = pairs @ (first - second)
        return np.asarray(votes + confidence / (3 * (np.abs(confidence) + 1)))

    def to_keras_layers(self, features: Any) -> Any:
        keras = quiet.keras()
        ops = keras.ops
        scaler, svc = self.pipeline_
        vectors = svc.support_vectors_
        z = keras.layers.Normalization(
            mean=scaler.mean_, variance=scaler.scale_**2, name="standardised"
        )(features)
        # -gamma |z - v|^2 = 2 gamma z.v - gamma |v|^2 - gamma |z|^2
        gamma = svc._gamma
        cross = dense_layer(
            "support_vectors", 2 * gamma * vectors.T, -gamma * (vectors**2).sum(axis=1)
        )(z)
        squared_norm = keras.layers.Dot(axes=1, name="squared_norm")([z, z])
        kernel = ops.exp(cross - gamma * squared_norm)
        pairs = dense_layer(self.parity_layer, *self._pair_weights())(kernel)

        first, second = self._pairs()
        won = ops.cast(ops.greater_equal(pairs, 0.0), "float32")
        votes = dense_layer("votes", first - second, second.sum(axis=0))(won)
        confidence = dense_layer("confidence", first - second)(pairs)
        bounded = confidence / (3.0 * (ops.absolute(confidence) + 1.0))
        return keras.layers.Add(name=self.output)([votes, bounded])

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n_pairs, n_classes) 0/1 matrices that mark each pair's first and second class."""
        pairs = np.array(list(combinations(range(len(self.classes_)), 2)))
        one_hot = np.eye(len(self.classes_))
        return one_hot[pairs[:, 0]], one_hot[pairs[:, 1]]

    def _pair_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel (n_sv, n_pairs) and bias: from kernel values to pair decisions."""
        svc = self.pipeline_[1]
        if len(self.classes_) == 2:
            return -svc.dual_coef_.T, -svc.intercept_
        pairs = list(combinations(range(len(self.classes_)), 2))
        owner = np.repeat(np.arange(len(self.classes_)), svc.n_support_)
        weights = np.zeros((len(owner), len(pairs)))
        for column, (i, j) in enumerate(pairs):
            # libsvm keeps a vector's coefficient against class c in row c, its own class left out
            weights[owner == i, column] = svc.dual_coef_[j - 1, owner == i]
            weights[owner == j, column] = svc.dual_coef_[i, owner == j]
        return weights, svc.intercept_
