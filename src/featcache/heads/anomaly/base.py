"""What all heads share that learn from good images alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featcache.core.checks import check_number
from featcache.core.errors import HeadError
from featcache.core.tasks import ONE_CLASS, SCORES
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.threshold import Threshold
from featcache.heads.base import Head
from featcache.heads.preprocessing import dense_layer

if TYPE_CHECKING:
    from typing_extensions import Self

    from featcache.heads.training_rows import TrainingRows

GOOD, ANOMALY = 0, 1  # columns of the outputs, and what `y` says
# Keras layers; the heat map of a model is that of the places, at the size of its images
SCORE, PLACES, HEAT_MAP = "anomaly_score", "score_of_places", "heat_map"
BLOCK_BYTES = 64 << 20  # of what is computed at a time


class AnomalyHead(Head):
    """A head that learns what good images are like: rows whose `y` is 0; others teach it nothing.

    Its outputs are (threshold - score, score - threshold): the larger says good or anomaly. The
    score is the larger the farther an image is from the good ones. Features are vectors (n, d) or
    maps (n, height, width, channels), these also flattened once it is fitted. All share the
    parameters

    false_alarms : rate of good images that may be called anomalies, see `Threshold`.
    task, class_weight, seed : as every head; weights have no meaning here.
    """

    tasks = ONE_CLASS
    suffix = ".npz"
    remembers = True
    has_gradients = False  # nothing says what the weights should be trained to
    needs_maps: ClassVar[bool] = False
    parity_layer = SCORE

    false_alarms: float
    map_shape_: tuple[int, int, int] | None = None  # height, width, channels; None of vectors
    threshold_: Threshold | None = None

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return one setting: what would choose between several are anomalies, which are few."""
        return ({},)

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        """Fit to the good rows alone; the others are not even read."""
        X, y, groups = rows.take(np.flatnonzero(rows.y[rows.chosen] == GOOD)).arrays()
        if rows.map_shape is not None:
            X = X.reshape(-1, *rows.map_shape)
        for params in settings:
            yield cls(**params).fit(X, y, groups)

    @property
    def output(self) -> str:
        return SCORES

    def check(self) -> None:
        super().check()
        check_number("false_alarms", self.false_alarms, "be above 0 and below 1", _is_rate)

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Fit to vectors (n, d) or maps (n, height, width, channels); `y` is 0 for good ones.

        Raises
        ------
        SpecError
            When a parameter is wrong.
        HeadError
            When `X` or `y` is not what this head learns from, or there is no good image.
        """
        X = np.asarray(X)
        self.map_shape_ = X.shape[1:] if X.ndim == 4 else None
        if self.needs_maps and self.map_shape_ is None:
            raise HeadError(
                f"A {type(self).__name__} learns from maps, (n, height, width, channels), and "
                f"these are vectors. Extract with --pooling none."
            )
        return super().fit(X.reshape(len(X), -1) if X.ndim == 4 else X, y, groups)

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        good = X[y == GOOD]
        if not len(good):
            raise HeadError("There is no good image to learn from; y must be 0 for some rows.")
        self.n_features_in_ = X.shape[1]
        self.classes_ = np.array([GOOD, ANOMALY])
        self._learn(np.asarray(good, np.float32))
        return self

    def set_threshold(self, good: np.ndarray) -> Self:
        """Set the threshold by features (n, d) of good images that this head did not learn from."""
        self.threshold_ = Threshold.of(self.scores(good), self.false_alarms)
        return self

    @property
    def threshold(self) -> float:
        """The score above which an image is an anomaly; 0 before it is set."""
        return self.threshold_.value if self.threshold_ else 0.0

    def outputs(self, X: np.ndarray) -> np.ndarray:
        above = self.scores(X) - self.threshold
        return np.stack([-above, above], axis=1)

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        return self.scores(X)[:, None]

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return (n,) float32: how far each image is from the good ones."""
        return self._scores(self._rows(X))

    def heat_maps(self, X: np.ndarray) -> np.ndarray:
        """Return (n, height, width) float32: how far each place of a map is from good ones.

        Raises
        ------
        HeadError
            When this head has one score an image and no more.
        """
        raise HeadError(f"A {type(self).__name__} says how odd an image is, and not where.")

    @property
    def has_heat_maps(self) -> bool:
        """Whether it says where an anomaly is."""
        return type(self).heat_maps is not AnomalyHead.heat_maps and self.map_shape_ is not None

    def _rows(self, X: Any) -> np.ndarray:
        """Return features (n, d) float32, flattened where they are maps."""
        X = np.asarray(X)
        return np.asarray(self._features(X.reshape(len(X), -1)), np.float32)

    @property
    def _n_places(self) -> int:
        """Places of a map."""
        assert self.map_shape_ is not None
        return int(self.map_shape_[0] * self.map_shape_[1])

    def _mean_of_worst(self, places: np.ndarray, share: float) -> np.ndarray:
        """Return (n,) float32: the mean of the worst share of places (n, …), one at least."""
        flat = places.reshape(len(places), -1)
        n = self._n_worst(share)
        return np.asarray(np.partition(flat, -n, axis=1)[:, -n:].mean(axis=1), np.float32)

    def _n_worst(self, share: float) -> int:
        return max(1, math.ceil(share * self._n_places))

    def _heat_map_in_keras(self, places: Any, share: float) -> list[Any]:
        """Continue scores of places (n, height, width) with the outputs and the heat map."""
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        flat = layers.Flatten(name="place_scores")(places)
        worst, _ = ops.top_k(flat, self._n_worst(share))
        score = layers.Identity(name=SCORE)(ops.mean(worst, axis=-1, keepdims=True))
        heat = layers.Reshape((*places.shape[1:], 1), name=PLACES)(places)
        return [self._outputs_in_keras(score), heat]

    def _maps(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as maps (n, height, width, channels)."""
        assert self.map_shape_ is not None
        return rows.reshape(-1, *self.map_shape_)

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (n, d) as vectors: the mean of each map."""
        return rows if self.map_shape_ is None else self._maps(rows).mean(axis=(1, 2))

    def _vectors_in_keras(self, features: Any) -> Any:
        if self.map_shape_ is None:
            return features
        return import_keras().layers.GlobalAveragePooling2D(name="mean_of_map")(features)

    def _outputs_in_keras(self, score: Any) -> Any:
        """Continue the score (n, 1), the layer named `SCORE`, with the outputs."""
        kernel, bias = np.array([[-1.0, 1.0]]), np.array([self.threshold, -self.threshold])
        return dense_layer(self.output, kernel, bias)(score)

    def save(self, file: Path) -> None:
        state: dict[str, Any] = dict(self._state())
        if self.threshold_ is not None:
            one = self.threshold_
            state["threshold"] = np.array([one.value, one.asked, one.n_good, one.n_above])
        if self.map_shape_ is not None:
            state["map_shape"] = np.array(self.map_shape_)
        with file.open("wb") as out:
            np.savez(out, allow_pickle=False, n_features_in=self.n_features_in_, **state)

    def restore(self, file: Path) -> Self:
        with np.load(file, allow_pickle=False) as saved:
            state = dict(saved)
        self.n_features_in_ = int(state.pop("n_features_in"))
        self.classes_ = np.array([GOOD, ANOMALY])
        if "map_shape" in state:
            self.map_shape_ = tuple(state.pop("map_shape").tolist())
        if "threshold" in state:
            value, asked, n_good, n_above = state.pop("threshold").tolist()
            self.threshold_ = Threshold(value, asked, int(n_good), int(n_above))
        self._take(state)
        return self

    @abstractmethod
    def _learn(self, good: np.ndarray) -> None:
        """Learn from good rows (n, d) float32."""

    @abstractmethod
    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (n,) float32 scores of rows (n, d) float32."""

    @abstractmethod
    def _state(self) -> dict[str, np.ndarray]:
        """Return all that was learnt, as arrays."""

    @abstractmethod
    def _take(self, state: dict[str, np.ndarray]) -> None:
        """Take what `_state` gave; raise KeyError where something is missing."""


def _is_rate(value: float) -> bool:
    return 0 < value < 1
