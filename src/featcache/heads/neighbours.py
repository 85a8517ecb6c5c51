"""Nearest neighbours: the training rows themselves are the head.

One matrix product finds the neighbours of a block of rows, here and in the Keras layers, and every
number of neighbours and every weighting follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import neighbors
from sklearn.pipeline import make_pipeline

from featcache.core.checks import check_choice, whole_number
from featcache.core.errors import SpecError
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads import preprocessing
from featcache.heads.base import Head, SklearnHead
from featcache.heads.neighbour_search import COSINE, EUCLIDEAN, NeighbourSearch
from featcache.heads.preprocessing import L2, STANDARDISE, dense_layer

if TYPE_CHECKING:
    from typing_extensions import Self

    from featcache.heads.training_rows import TrainingRows

UNIFORM, SOFTMAX = "uniform", "softmax"
TEMPERATURE = 0.07  # of the weights exp(cosine / temperature)


class Neighbours(SklearnHead):
    """Vote, or mean target, of the k most similar training rows. Gives probabilities or values.

    The probability of a class or label is its part of the votes. With class_weight "balanced" a
    vote counts the more the rarer its class is.

    Parameters
    ----------
    k : number of neighbours; all rows where there are fewer.
    metric : cosine, or euclidean distance.
    weights : uniform; or softmax: a neighbour of cosine s weighs exp(s / 0.07), for the metric
        cosine (Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
        discrimination"; the k-NN evaluation of DINO, Caron et al. 2021).
    preprocessing : none, standardise, l2, pca, or several joined by +.
    task : classification, multi-label or regression.
    class_weight : None or "balanced"; no meaning for regression.
    seed : has no meaning here: nothing is drawn.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    has_gradients = False  # the rows that are remembered are no weights to train
    precision = np.float32
    parity_layer = "nearest"  # who the last neighbour is can hang on rounding; how near it is not

    search_: NeighbourSearch

    def __init__(
        self,
        k: int = 20,
        metric: str = COSINE,
        weights: str = SOFTMAX,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.k = k
        self.metric = metric
        self.weights = weights
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return many neighbours before few: the smoother first."""
        return tuple(
            {"k": k, "weights": weights, "preprocessing": kind}
            for kind in (STANDARDISE, L2)
            for k, weights in ((50, SOFTMAX), (10, UNIFORM), (10, SOFTMAX))
        )

    @property
    def output(self) -> str:
        return TASKS[self.task].output

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        """Share one search between the settings of the same preprocessing and metric."""
        X, y, _ = rows.arrays()
        heads = [cls(**params) for params in settings]
        most: dict[tuple[str, str], int] = {}
        for head in heads:
            head.check()
            kind = head.preprocessing, head.metric
            most[kind] = max(head.k + 1, most.get(kind, 0))
        searches: dict[tuple[str, str], NeighbourSearch] = {}
        for head in heads:
            kind = head.preprocessing, head.metric
            if kind not in searches:
                searches[kind] = NeighbourSearch.over(X, *kind, most[kind])
            yield head._take(searches[kind], y)

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        search = NeighbourSearch.over(X, self.preprocessing, self.metric, self.k + 1)
        return self._take(search, y)

    def check(self) -> None:
        super().check()
        check_choice("metric", self.metric, (COSINE, EUCLIDEAN))
        check_choice("weights", self.weights, (UNIFORM, SOFTMAX))
        if self.weights == SOFTMAX and self.metric != COSINE:
            raise SpecError(f"weights softmax is for the metric cosine; got {self.metric}.")
        whole_number("k", self.k, 1)

    def make_estimator(self, n_features: int) -> Any:
        options = {"n_neighbors": self.k, "metric": self.metric, "algorithm": "brute"}
        if self.target_kind is TargetKind.CLASS:
            return neighbors.KNeighborsClassifier(**options)
        return neighbors.KNeighborsRegressor(**options)  # the mean of a label is its part of votes

    def outputs(self, X: np.ndarray) -> np.ndarray:
        nearest, places = self._nearest(X)
        if self.weights == SOFTMAX:
            weights = np.exp((nearest - nearest[:, :1]).astype(np.float64) / TEMPERATURE)
        else:
            weights = np.ones(places.shape)
        table, n_outputs = self._table()
        total = np.zeros((len(places), table.shape[1]))
        for column in range(places.shape[1]):  # not all at once: k times the outputs is large
            total += weights[:, column, None] * table[places[:, column]]
        if table.shape[1] > n_outputs:
            return np.asarray(total[:, :n_outputs] / total[:, n_outputs:])
        return np.asarray(total / weights.sum(axis=1, keepdims=True))

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        """Return the similarities of the neighbours, (n, k), the nearest first."""
        return self._nearest(X)[0]

    def hangs_on_a_tie(self, X: np.ndarray, tolerance: float) -> np.ndarray:
        """Return (n,) bool: the last neighbour is nearer than the next by less than `tolerance`.

        Or the two best classes have as good as equal votes.
        """
        nearest, _ = self.search_.nearest(self._features(X))
        tied = np.zeros(len(nearest), bool)
        if nearest.shape[1] > self.k:
            tied |= nearest[:, self.k - 1] - nearest[:, self.k] < tolerance
        if self.target_kind is TargetKind.CLASS and len(self.classes_) > 1:
            best = np.sort(self.outputs(X), axis=1)
            tied |= best[:, -1] - best[:, -2] < 1e-6
        return tied

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        step, rows = self.pipeline_[0], self.search_.rows.astype(np.float64)
        z = preprocessing.to_keras(preprocessing.steps_of(step), features)
        if self.metric == EUCLIDEAN:
            # -|z - v|^2 = 2 z.v - |v|^2 - |z|^2
            cross = dense_layer("training_rows", 2 * rows.T, -(rows**2).sum(axis=1))(z)
            similarity = cross - layers.Dot(axes=1, name="squared_norm")([z, z])
        else:
            if not preprocessing.gives_unit_length(step):
                z = layers.UnitNormalization(name="direction")(z)
            similarity = dense_layer("training_rows", rows.T)(z)
        nearest, places = ops.top_k(similarity, min(self.k, len(rows)))
        nearest = layers.Identity(name=self.parity_layer)(nearest)

        table, n_outputs = self._table()
        lookup = layers.Embedding(*table.shape, name="targets", trainable=False)
        lookup.build(None)
        lookup.set_weights([table])
        targets = lookup(places)
        if self.weights == SOFTMAX:
            scaled = layers.Rescaling(1 / TEMPERATURE, name="sharpened")(nearest)
            weights, scale = layers.Softmax(name="weights")(scaled), 1.0
        else:  # counted in whole numbers, so that equal votes stay equal
            weights = layers.Rescaling(0.0, offset=1.0, name="weights")(nearest)
            scale = 1 / min(self.k, len(rows))
        total = layers.Dot(axes=1, name="votes")([weights, targets])
        if table.shape[1] > n_outputs:
            total, scale = total[:, :n_outputs] / total[:, n_outputs:], 1.0
        return layers.Rescaling(scale, name=self.output)(total)

    def restore(self, file: Path) -> Self:
        super().restore(file)
        estimator = self.pipeline_[-1]
        # these rows have the length that the metric asks for since they were saved
        self.search_ = NeighbourSearch(self.pipeline_[0], estimator._fit_X, self.metric, self.k + 1)
        return self

    def _nearest(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and places (n, k) of the neighbours, the nearest first."""
        nearest, places = self.search_.nearest(self._features(X))
        return nearest[:, : self.k], places[:, : self.k]

    def _take(self, search: NeighbourSearch, y: np.ndarray) -> Self:
        """Take a search over the training rows and their targets as the fitted state."""
        y = y if self.target_kind is TargetKind.CLASS else np.asarray(y, np.float64)
        estimator = self.make_estimator(search.rows.shape[1]).fit(search.rows, y)
        self.pipeline_ = make_pipeline(search.step, estimator)
        self.search_ = search
        return self.describe()

    def _table(self) -> tuple[np.ndarray, int]:
        """Return what each training row adds to the outputs, (n, n_outputs), and n_outputs.

        With class weights further columns hold what the sums are divided by.
        """
        y = self.pipeline_[-1]._y
        if self.target_kind is TargetKind.CLASS:
            votes = np.eye(len(self.classes_))[y]
            if self.class_weight is None:
                return votes, votes.shape[1]
            votes = votes / votes.sum(axis=0)
            return np.hstack([votes, votes.sum(axis=1, keepdims=True)]), len(self.classes_)
        y = y.reshape(len(y), -1)
        if self.target_kind is TargetKind.NUMBERS or self.class_weight is None:
            return y, y.shape[1]
        # a label that is always there, or never, has nothing to be divided by on one side
        there, absent = (part / np.maximum(part.sum(axis=0), 1) for part in (y, 1 - y))
        return np.hstack([there, there + absent]), y.shape[1]
