"""What every head offers, and what the scikit-learn ones share.

A head of classification has one output per class, also for two classes, so that the largest is the
predicted class for every head and for the Keras layers made from it. A head of several labels has
one output per label, one of regression one per target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline, make_pipeline

from featcache.core import arrays
from featcache.core.checks import bad, check_choice, whole_number
from featcache.core.errors import HeadError
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted
from featcache.heads import preprocessing
from featcache.heads.preprocessing import dense_layer
from featcache.heads.training_rows import TrainingRows

if TYPE_CHECKING:
    from typing_extensions import Self


_TARGETS = {  # what `y` must be, its dimensions, and the kinds of its dtype
    TargetKind.CLASS: ("be class indices (n_samples,), 0 or more", 1, "iu"),
    TargetKind.LABELS: ("be 0 and 1 in (n_samples, n_labels)", 2, arrays.NUMBERS),
    TargetKind.NUMBERS: ("be numbers in (n_samples, n_targets)", 2, arrays.NUMBERS),
}


class Head(BaseEstimator, ABC):  # type: ignore[misc]
    """A model of features, (n, d) float, for one task.

    `y` is as the task's `TargetKind` says: class indices (n,), (n, n_labels) of 0 and 1, or
    (n, n_targets) float. A head says which kinds it can learn, and with that every task of these
    kinds. Every head has the parameters `task`, `class_weight` (None or "balanced"; no meaning for
    numbers) and `seed`.
    """

    tasks: ClassVar[tuple[str, ...]]  # the names of those it can learn
    suffix: ClassVar[str]  # of its file
    passes: ClassVar[bool] = False  # it can learn from blocks of rows, see `fit_in_passes`
    halves: ClassVar[bool] = False  # its settings are first tried on a part of the rows
    remembers: ClassVar[bool] = False  # a fit is of many parts of each row, and so costs much
    stitches: ClassVar[bool] = True  # it can become Keras layers
    has_gradients: ClassVar[bool] = True  # those layers can be trained
    logits_layer: ClassVar[str] = ""  # the one of them that gives `logits`, where that is no output

    task: str
    class_weight: str | None
    seed: int
    classes_: np.ndarray  # where classes are learnt: the class of each output
    n_features_in_: int

    @classmethod
    @abstractmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return the settings that a comparison tries, the simplest first."""

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        """Yield a fitted head for each setting; a head that can, shares work between them."""
        X, y, groups = rows.arrays()
        for params in settings:
            yield cls(**params).fit(X, y, groups)

    @classmethod
    def fit_in_passes(
        cls,
        asked: Sequence[tuple[Head, TrainingRows]],
        threads: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Fit unfitted heads of this kind, each to its rows, in passes over blocks of the matrix.

        For rows that do not fit into memory, in heads with `passes`.

        Parameters
        ----------
        asked : heads, with rows of one matrix.
        threads : that look at blocks at the same time; they do not change the numbers.
        tell : takes a sentence on what is under way.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def output(self) -> str:
        """PROBABILITIES, SCORES or VALUES, and the name of its last Keras layer."""

    @property
    def target_kind(self) -> TargetKind:
        """How what it learns is kept in an array."""
        return TASKS[self.task].kind

    @property
    def parity_layer(self) -> str:
        """Name of the Keras layer whose values depend continuously on the features."""
        return self.output

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Fit to features (n, d) and what is to be learnt.

        `groups` (n,) int says which rows are views of one image: a head that holds rows back to
        judge itself never parts them.

        Raises
        ------
        SpecError
            When a parameter is wrong.
        HeadError
            When `X` or `y` is not what this head learns from.
        """
        self.check()
        X = arrays.features(X)
        if groups is not None:
            groups = np.array(arrays.entries("groups", groups, len(X), "rows"))
        return self._fit(X, self._checked_targets(y, len(X)), groups)

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        """Fit to what `fit` checked."""

    @abstractmethod
    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_outputs) probabilities, scores or values, as `output` says."""

    @abstractmethod
    def to_keras_layers(self, features: Any) -> Any:
        """Continue a Keras tensor of features (n, d) with stock layers that give `outputs`."""

    @abstractmethod
    def save(self, file: Path) -> None:
        """Write the fitted state."""

    @abstractmethod
    def restore(self, file: Path) -> Self:
        """Read what `save` wrote into this head."""

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        """Return what the Keras layer named `parity_layer` must give."""
        return self.outputs(X)

    def logits(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes): what a softmax makes probabilities of, or else scores."""
        return self.outputs(X)

    def parity_scale(self, values: np.ndarray) -> np.ndarray:
        """Return (1,), or (k,) of each column, what differences of `parity_values` count by."""
        return np.array([max(1.0, float(np.abs(values).max()))])

    def hangs_on_a_tie(self, X: np.ndarray, tolerance: float) -> np.ndarray:
        """Return (n,) bool: what these rows are said to be hangs on less than `tolerance`."""
        return TASKS[self.task].close_calls(self.outputs(X), self.output, tolerance)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return class indices (n,), labels (n, n_labels) of 0 and 1, or values (n, n_targets)."""
        what = TASKS[self.task].said(self.outputs(X), self.output)
        return np.asarray(self.classes_[what]) if self.target_kind is TargetKind.CLASS else what

    def check(self) -> None:
        """Raise SpecError where a parameter is wrong; here those that all heads share."""
        check_choice("task", self.task, self.tasks)
        check_choice("class_weight", self.class_weight, (None, "balanced"))
        whole_number("seed", self.seed, 0, 2**32 - 1)

    def _features(self, X: Any) -> np.ndarray:
        """Return features as this fitted head takes them; raise HeadError where they are none."""
        if not hasattr(self, "n_features_in_"):
            raise HeadError(f"This {type(self).__name__} is not fitted; call fit(X, y) first.")
        return arrays.features(X, self.n_features_in_)

    def _checked_targets(self, y: Any, n: int) -> np.ndarray:
        """Return what is to be learnt of `n` rows; raise HeadError where it is not of this kind."""
        must, n_dimensions, kinds = _TARGETS[self.target_kind]
        found = arrays.array("y", y, must)
        if found.ndim != n_dimensions or found.dtype.kind not in kinds or not found.size:
            raise bad("y", must, found, kind=HeadError)
        if len(found) != n:
            raise HeadError(
                f"X has {counted(n, 'row')} and y has {len(found)}; they must have the same number."
            )
        if self.target_kind is TargetKind.NUMBERS:
            arrays.check_usable("y", found)
        elif self.target_kind is TargetKind.LABELS and not np.isin(found, (0, 1)).all():
            raise bad("y", must, np.unique(found), kind=HeadError)
        elif self.target_kind is TargetKind.CLASS:
            least, most = found.min(), found.max()
            if least < 0:
                raise bad("y", must, least, kind=HeadError)
            if least == most and not TASKS[self.task].is_one_class:
                raise HeadError(f"A head needs two classes or more; y has only class {least}.")
        return found


def load_trusted(file: Path, trusted: tuple[str, ...] = (), advice: str = "") -> Any:
    """Return what skops wrote into a file.

    Raises
    ------
    HeadError
        When it names types that are neither scikit-learn's nor `trusted`; nothing is loaded.
    """
    from skops import io

    untrusted = [name for name in io.get_untrusted_types(file=file) if name not in trusted]
    if untrusted:
        raise HeadError(
            f"Head file '{file}' names types that are not scikit-learn's "
            f"({', '.join(untrusted[:3])}); it is not loaded.{advice}"
        )
    return io.load(file, trusted=list(trusted))


class SklearnHead(Head):
    """A scikit-learn estimator behind preprocessed features.

    Its constructor stores at least `preprocessing`: none, standardise (each feature to mean 0,
    variance 1), l2 (each row to length 1), pca (the first principal components), or several of
    them in the order in which they apply, as "l2+standardise".
    """

    suffix = ".skops"
    precision: ClassVar[type] = np.float64  # in which the estimator computes
    trusted_types: ClassVar[tuple[str, ...]] = ()  # beside those that skops trusts by itself
    preprocessing: str
    pipeline_: Pipeline

    @abstractmethod
    def make_estimator(self, n_features: int) -> Any:
        """Return the unfitted scikit-learn estimator."""

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        # never half precision: scaling in it overflows
        X = np.asarray(X, self.precision)
        step = preprocessing.make(self.preprocessing, *X.shape)
        self.pipeline_ = make_pipeline(step, self.make_estimator(X.shape[1])).fit(X, y)
        return self.describe()

    def check(self) -> None:
        super().check()
        preprocessing.check(self.preprocessing)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_outputs) scores; for two classes scikit-learn's score and its negative."""
        X = self._features(X)
        if not hasattr(self.pipeline_, "decision_function"):
            raise HeadError(f"A {type(self).__name__} has no scores; call outputs(X).")
        scores = np.asarray(self.pipeline_.decision_function(X))
        if self.target_kind is TargetKind.LABELS:
            return scores.reshape(len(scores), -1)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.decision_function(X)

    def _features(self, X: Any) -> np.ndarray:
        return np.asarray(super()._features(X), self.precision)

    def save(self, file: Path) -> None:
        from skops import io

        io.dump(self.pipeline_, file)

    def restore(self, file: Path) -> Self:
        pipeline = load_trusted(file, self.trusted_types)
        kind = type(self.make_estimator(1))
        if not isinstance(pipeline, Pipeline) or not isinstance(pipeline[-1], kind):
            raise HeadError(f"Head file '{file}' does not hold a {kind.__name__}.")
        if len(pipeline) != 2 or not preprocessing.is_known(pipeline[0]):
            raise HeadError(
                f"Head file '{file}' holds preprocessing that is none of "
                f"{', '.join(preprocessing.STEPS)}. Run `featcache fit-heads` again."
            )
        self.pipeline_ = pipeline
        return self.describe()

    def describe(self) -> Self:
        """Take what every head says of itself from the fitted pipeline."""
        if self.target_kind is TargetKind.CLASS:
            self.classes_ = np.asarray(self.pipeline_[-1].classes_)
        first = self.pipeline_[0] if self.pipeline_[0] != "passthrough" else self.pipeline_[-1]
        self.n_features_in_ = first.n_features_in_
        return self

    def linear_layer(self, features: Any, name: str, weights: np.ndarray, bias: np.ndarray) -> Any:
        """Continue a Keras tensor with the preprocessing and then `weights` (k, p), `bias` (k,)."""
        before, affine = preprocessing.parted(self.pipeline_[0])
        features = preprocessing.to_keras(before, features)
        return dense_layer(name, *preprocessing.folded(affine, weights, bias))(features)
