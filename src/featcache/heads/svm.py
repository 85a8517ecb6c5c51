"""The SVM with an RBF kernel.

libsvm decides between pairs of classes; scikit-learn turns the pairs into one score per class: the
number of pairs won, plus a confidence term below one third that breaks ties. Both steps are
rebuilt here from stock layers and `keras.ops`. With few rows libsvm is given all kernel values;
with many scikit-learn-intelex solves, where it is installed. Either is several times as fast as
scikit-learn's SVC, and what it learnt is kept in one.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import svm
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline

from featcache.core.checks import check_number
from featcache.core.tasks import DEFAULT_TASK, SCORES, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads import preprocessing
from featcache.heads.base import SklearnHead
from featcache.heads.preprocessing import L2, PRINCIPAL, STANDARDISE, dense_layer
from featcache.heads.training_rows import BLOCK

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK_BYTES = 64 << 20  # of kernel values at a time
_KERNEL_ROWS = 8192  # up to so many rows all kernel values are kept while solving: 0.8 GB


class RbfSVM(SklearnHead):
    """SVM with the kernel exp(-gamma |x - x'|^2). Gives scores.

    Parameters
    ----------
    C : inverse strength of the penalty.
    gamma : width of the kernel in units of 1 / (n_features * their variance), after preprocessing.
    preprocessing : none, standardise, l2, pca, or several joined by +.
    class_weight : None or "balanced".
    seed : has no meaning here: nothing is drawn.
    """

    tasks = names_of(TargetKind.CLASS)
    output = SCORES
    halves = True
    has_gradients = False  # votes are steps
    precision = np.float32  # the solver's is scikit-learn's float64, or intelex's
    # Votes jump where a pair's decision crosses zero, so parity is judged before them.
    parity_layer = "pair_decisions"

    def __init__(
        self,
        C: float = 10.0,
        gamma: float = 0.3,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.C = C
        self.gamma = gamma
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return wide kernels before narrow ones."""
        return (
            {"C": 10.0, "gamma": 0.1, "preprocessing": STANDARDISE},
            {"C": 10.0, "gamma": 0.3, "preprocessing": STANDARDISE},
            {"C": 10.0, "gamma": 0.3, "preprocessing": L2},
            {"C": 10.0, "gamma": 1.0, "preprocessing": PRINCIPAL},
        )

    def check(self) -> None:
        super().check()
        for name in ("C", "gamma"):
            check_number(
                name, getattr(self, name), "be a number above 0", lambda x: 0 < x < math.inf
            )

    def make_estimator(self, n_features: int) -> Any:
        # The votes and their tie-break are ours, below, so that both sides compute the same.
        return svm.SVC(
            C=self.C,
            gamma=self.gamma / n_features,
            class_weight=self.class_weight,
            decision_function_shape="ovo",
            cache_size=500,
        )

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        X = np.asarray(X, self.precision)
        step = preprocessing.make(self.preprocessing, *X.shape)
        z = X if step == "passthrough" else step.fit_transform(X)
        variance = float(z.var(dtype=np.float64)) or 1.0
        estimator = self.make_estimator(z.shape[1] * variance)
        solver = _with_kernel_values if len(z) <= _KERNEL_ROWS else _intelex
        fitted = solver(estimator, z, y)
        if fitted is None:
            estimator.fit(z, y)
        else:
            _take(estimator, fitted, z, y)
        self.pipeline_ = make_pipeline(step, estimator)
        return self.describe()

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        """Return the decision of each pair of classes, (n, n_pairs); above zero the first wins."""
        X = self._features(X)
        step, svc = self.pipeline_
        vectors = svc.support_vectors_.astype(np.float32)
        coefficients = svc.dual_coef_.T
        gamma, norms = svc._gamma, np.einsum("ij,ij->i", vectors, vectors)
        ends = np.cumsum(svc.n_support_)
        starts = ends - svc.n_support_
        size = max(1, _BLOCK_BYTES // (8 * len(vectors)))
        pairs = self._pairs()
        decisions = np.empty((len(X), len(pairs)))
        for start in range(0, len(X), size):
            some = slice(start, start + size)
            z = X[some] if step == "passthrough" else step.transform(X[some])
            exponent = 2 * (z @ vectors.T) - norms
            exponent -= np.einsum("ij,ij->i", z, z)[:, None]
            exponent *= gamma
            # thousands of coefficients of both signs nearly cancel: add them up in float64
            kernel = np.exp(exponent, out=exponent).astype(np.float64)
            if len(pairs) == 1:
                # for two classes scikit-learn turns the sign around: above zero the second wins
                decisions[some] = -(kernel @ coefficients)
                continue
            # the vectors of a class against each other class, itself left out
            parts = [kernel[:, a:b] @ coefficients[a:b] for a, b in zip(starts, ends, strict=True)]
            for column, (i, j) in enumerate(pairs):
                decisions[some, column] = parts[i][:, j - 1] + parts[j][:, i]
        decisions += -svc.intercept_ if len(pairs) == 1 else svc.intercept_
        return decisions

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes): pairs won plus the tie-breaking confidence, as in SVC's "ovr"."""
        pairs = self.parity_values(X)
        first, second = self._sides()
        votes = (pairs >= 0) @ first + (pairs < 0) @ second
        confidence = pairs @ (first - second)
        return np.asarray(votes + confidence / (3 * (np.abs(confidence) + 1)))

    def hangs_on_a_tie(self, X: np.ndarray, tolerance: float) -> np.ndarray:
        # a pair's decision at zero flips a whole vote
        return np.asarray((np.abs(self.parity_values(X)) < tolerance).any(axis=1))

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        ops = keras.ops
        step, svc = self.pipeline_
        vectors = svc.support_vectors_
        z = preprocessing.to_keras(preprocessing.steps_of(step), features)
        # -gamma |z - v|^2 = 2 gamma z.v - gamma |v|^2 - gamma |z|^2
        gamma = svc._gamma
        cross = dense_layer(
            "support_vectors", 2 * gamma * vectors.T, -gamma * (vectors**2).sum(axis=1)
        )(z)
        squared_norm = keras.layers.Dot(axes=1, name="squared_norm")([z, z])
        kernel = ops.exp(cross - gamma * squared_norm)
        # coefficients of both signs nearly cancel, so what all kernel values share is left out
        weights, bias = self._pair_weights()
        shared = _typical_kernel(vectors, gamma)
        pairs = dense_layer(self.parity_layer, weights, bias + shared * weights.sum(axis=0))(
            kernel - shared
        )

        first, second = self._sides()
        won = ops.cast(ops.greater_equal(pairs, 0.0), "float32")
        votes = dense_layer("votes", first - second, second.sum(axis=0))(won)
        confidence = dense_layer("confidence", first - second)(pairs)
        bounded = confidence / (3.0 * (ops.absolute(confidence) + 1.0))
        return keras.layers.Add(name=self.output)([votes, bounded])

    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.classes_)), 2))

    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n_pairs, n_classes) 0/1 matrices that mark each pair's first and second class."""
        pairs = np.array(self._pairs())
        one_hot = np.eye(len(self.classes_))
        return one_hot[pairs[:, 0]], one_hot[pairs[:, 1]]

    def _pair_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel (n_sv, n_pairs) and bias: from kernel values to pair decisions."""
        svc, pairs = self.pipeline_[-1], self._pairs()
        if len(pairs) == 1:
            return -svc.dual_coef_.T, -svc.intercept_
        owner = np.repeat(np.arange(len(self.classes_)), svc.n_support_)
        weights = np.zeros((len(owner), len(pairs)))
        for column, (i, j) in enumerate(pairs):
            # libsvm keeps a vector's coefficient against class c in row c, its own class left out
            weights[owner == i, column] = svc.dual_coef_[j - 1, owner == i]
            weights[owner == j, column] = svc.dual_coef_[i, owner == j]
        return weights, svc.intercept_


def _typical_kernel(vectors: np.ndarray, gamma: float) -> float:
    """Return the mean kernel value between a few of the support vectors."""
    some = vectors[:: max(1, len(vectors) // 200)]
    return float(rbf_kernel(some, gamma=gamma).mean())


def _with_kernel_values(estimator: Any, z: np.ndarray, y: np.ndarray) -> Any:
    """Return an SVC that was fitted to kernel values: one matrix product for all pairs of classes.

    libsvm by itself computes them pair by pair and value by value, which is most of its time.
    """
    kernel = np.empty((len(z), len(z)))
    products = z @ z.T
    norms = products.diagonal().copy()
    for start in range(0, len(z), BLOCK):
        some = slice(start, start + BLOCK)
        exponent = 2 * products[some] - norms
        exponent -= norms[some, None]
        exponent *= estimator.gamma
        kernel[some] = np.exp(exponent, out=exponent)
    np.fill_diagonal(kernel, 1.0)
    return svm.SVC(**(estimator.get_params() | {"kernel": "precomputed"})).fit(kernel, y)


def _intelex(estimator: Any, z: np.ndarray, y: np.ndarray) -> Any:
    """Return scikit-learn-intelex's SVC, fitted, or None where there is none."""
    try:
        from sklearnex.svm import SVC
    except ImportError:
        return None
    # one thread, so that the result is the same whatever else runs on the machine
    return SVC(**estimator.get_params(), n_jobs=1).fit(z, y)


def _take(estimator: Any, fitted: Any, z: np.ndarray, y: np.ndarray) -> None:
    """Move what `fitted` learnt into scikit-learn's unfitted `estimator`, as it would keep it."""
    # two rows of each class give every attribute that this version of scikit-learn has
    rows = np.concatenate([np.flatnonzero(y == value)[:2] for value in fitted.classes_])
    estimator.fit(z[rows], y[rows])
    # libsvm's own signs: for two classes the public attributes are turned around
    sign = -1 if len(fitted.classes_) == 2 else 1
    # and it reads arrays row by row
    estimator.support_ = np.asarray(fitted.support_, np.int32)
    estimator.support_vectors_ = np.asarray(z[fitted.support_], np.float64)
    estimator._n_support = np.asarray(fitted.n_support_, np.int32)
    estimator.dual_coef_ = np.array(fitted.dual_coef_, np.float64, order="C")
    estimator._dual_coef_ = sign * estimator.dual_coef_
    estimator.intercept_ = np.array(fitted.intercept_, np.float64)
    estimator._intercept_ = sign * estimator.intercept_
    estimator.class_weight_ = np.array(fitted.class_weight_, np.float64)
    estimator.shape_fit_ = z.shape
    estimator.n_iter_ = estimator._num_iter = np.asarray(fitted.n_iter_, np.int32)
    estimator.fit_status_ = int(fitted.fit_status_)
