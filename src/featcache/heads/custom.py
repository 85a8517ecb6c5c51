"""A scikit-learn estimator of the user's own as a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor

from featcache.core.errors import HeadError, SpecError, StitchError, one_line
from featcache.core.tasks import (
    DEFAULT_TASK,
    PROBABILITIES,
    SCORES,
    VALUES,
    TargetKind,
    names_of,
)
from featcache.heads.base import Head, load_trusted

if TYPE_CHECKING:
    from typing_extensions import Self


class Own(Head):
    """An estimator as it is: compared like the others, but not searched and not stitched.

    Parameters
    ----------
    estimator : unfitted scikit-learn classifier or regressor, or a pipeline that ends in one.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    suffix = ".skops"
    stitches = False

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return ({},)

    def __init__(
        self,
        estimator: Any = None,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.estimator = estimator
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @property
    def output(self) -> str:
        if self.target_kind is TargetKind.NUMBERS:
            return VALUES
        return PROBABILITIES if hasattr(self.estimator, "predict_proba") else SCORES

    def check(self) -> None:
        super().check()
        suits = is_regressor if self.target_kind is TargetKind.NUMBERS else is_classifier
        if not suits(self.estimator):
            kind = "regressor" if self.target_kind is TargetKind.NUMBERS else "classifier"
            raise SpecError(
                f"{type(self.estimator).__name__} is no {kind}, which a {self.task} task needs."
            )

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        self.estimator_ = clone(self.estimator)
        with self._named_errors():
            self.estimator_.fit(np.asarray(X, np.float64), y[:, 0] if self._is_one(y) else y)
        self.n_features_in_ = X.shape[1]
        if self.target_kind is TargetKind.CLASS:
            self.classes_ = np.asarray(self.estimator_.classes_)
        return self

    def _is_one(self, y: np.ndarray) -> bool:
        """Whether these are values of a single target, which many regressors want flat."""
        return self.target_kind is TargetKind.NUMBERS and y.shape[1] == 1

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say whose error it is that a user's own estimator raises."""
        try:
            yield
        except Exception as error:
            reason = one_line(error, 300)
            raise HeadError(f"Your {type(self.estimator).__name__} failed: {reason}") from error

    def outputs(self, X: np.ndarray) -> np.ndarray:
        X = self._features(X)
        with self._named_errors():
            return self._outputs(X)

    def _outputs(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X, np.float64)
        if self.target_kind is TargetKind.NUMBERS:
            return np.asarray(self.estimator_.predict(X)).reshape(len(X), -1)
        if self.output == PROBABILITIES:
            found = self.estimator_.predict_proba(X)
            # of several labels some estimators give a list with (n, 2) for each
            if isinstance(found, list):
                # a label that all or none of the rows learnt from have is a single column
                return np.stack(
                    [
                        one[:, -1] if one.shape[1] > 1 else np.full(len(X), float(classes[0]))
                        for one, classes in zip(found, self.estimator_.classes_, strict=True)
                    ],
                    axis=1,
                )
            return np.asarray(found)
        if hasattr(self.estimator_, "decision_function"):
            scores = np.asarray(self.estimator_.decision_function(X))
            return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        said = np.asarray(self.estimator_.predict(X))
        if self.target_kind is TargetKind.LABELS:
            return np.asarray(2.0 * said - 1.0)
        return np.asarray(said[:, None] == self.classes_, np.float64)

    def to_keras_layers(self, features: Any) -> Any:
        raise StitchError(
            f"A {type(self.estimator).__name__} of your own cannot become Keras layers. Stitch a "
            f"head of the catalogue, for example logreg."
        )

    def save(self, file: Path) -> None:
        from skops import io

        io.dump(self.estimator_, file)

    def restore(self, file: Path) -> Self:
        advice = " Load it yourself with skops.io.load if you trust it."
        self.estimator_ = self.estimator = load_trusted(file, advice=advice)
        self.n_features_in_ = self.estimator_.n_features_in_
        if self.target_kind is TargetKind.CLASS:
            self.classes_ = np.asarray(self.estimator_.classes_)
        return self
