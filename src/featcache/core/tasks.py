"""What heads can learn: one `Task` for each, which answers all that is asked of it elsewhere.

Feature files, cards, leaderboards and heads keep the name of their task, and `TASKS[name]` is the
task. Nothing outside this file compares names: code asks for the fact it needs, or, where it
handles the arrays themselves, for the kind of the targets. A task of a kind that is there already
is one entry here; heads, metrics and model files of that kind serve it as they are. What needs a
library, as a metric or a layer, is named here and made by the room that has the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

PROBABILITIES, SCORES, VALUES = "probabilities", "scores", "values"  # what a head's outputs are
SOFTMAX, SIGMOID, LINEAR = "softmax", "sigmoid", "linear"  # Keras activations
_THRESHOLD = {PROBABILITIES: 0.5, SCORES: 0.0}


class TargetKind(Enum):
    """How what is learnt is kept in an array; what heads and metrics choose their formulas by."""

    CLASS = "class"  # (n,) int, the class of each row; -1 is unknown
    LABELS = "labels"  # (n, n_labels) of 0 and 1, any number of labels a row; -1 is unknown
    NUMBERS = "numbers"  # (n, n_targets) float; NaN is unknown
    BOXES = "boxes"  # `core.boxes.Boxes`; an array has (n,) int, how many, and -1 is unknown


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that differs between tasks."""

    name: str  # in files, in the CLI and in Python
    kind: TargetKind  # of what is learnt
    column: str  # of a manifest, that it is read from
    target_types: tuple[str, ...]  # of plain arrays, as scikit-learn's `type_of_target` names them

    noun: str  # one of its outputs
    nouns: str  # several of them
    answer: str  # all that a model says of one image

    output: str  # of a head that can give it: PROBABILITIES or VALUES
    activation: str  # of such a head's last layer; the loss in training is the one that suits it
    said: Callable[[np.ndarray, str], np.ndarray]
    """(outputs (n, k), what they are) -> what they say: columns (n,), labels (n, k), or values."""
    close_calls: Callable[[np.ndarray, str, float], np.ndarray]
    """(outputs, what they are, tolerance) -> (n,) bool: what is said hangs on less than that."""

    metrics: tuple[str, ...]  # in the order in which they are shown
    default_metric: str  # what heads are selected by
    shown_metrics: tuple[str, ...]  # on a leaderboard: the first that is not the one optimised
    epoch_metric: str  # what the epoch of a fine-tuning is chosen by
    scores_of_each: tuple[str, ...]  # of each class, label or target by itself
    weakest_by: str  # the one of them that says which does worst

    is_stratified: bool  # held-out parts, folds and samples have the same share of each class
    has_mistakes: bool  # an answer is right or wrong; otherwise it is more or less far off
    has_confusion: bool  # one answer is taken for another
    is_calibrated: bool  # outputs can be mapped to calibrated probabilities
    is_one_class: bool = False  # heads learn from one class alone; the other only judges them

    def threshold(self, output: str) -> float:
        """Return from which output on a label is said to be there."""
        return _THRESHOLD[output]


def _largest(outputs: np.ndarray, output: str) -> np.ndarray:
    return np.asarray(outputs.argmax(axis=1))


def _largest_is_close(outputs: np.ndarray, output: str, tolerance: float) -> np.ndarray:
    top = np.sort(outputs, axis=1)
    return np.asarray(top[:, -1] - top[:, -2] < tolerance)


def _those_above(outputs: np.ndarray, output: str) -> np.ndarray:
    return (outputs >= _THRESHOLD[output]).astype(np.int64)


def _threshold_is_close(outputs: np.ndarray, output: str, tolerance: float) -> np.ndarray:
    return np.asarray((np.abs(outputs - _THRESHOLD[output]) < tolerance).any(axis=1))


def _as_they_are(outputs: np.ndarray, output: str) -> np.ndarray:
    return outputs


def _never_close(outputs: np.ndarray, output: str, tolerance: float) -> np.ndarray:
    return np.zeros(len(outputs), bool)  # values say nothing but themselves


_CLASSIFICATION = Task(
    name="classification",
    kind=TargetKind.CLASS,
    column="label",
    target_types=("binary", "multiclass"),
    noun="class",
    nouns="classes",
    answer="class",
    output=PROBABILITIES,
    activation=SOFTMAX,
    said=_largest,
    close_calls=_largest_is_close,
    metrics=(
        *("accuracy", "balanced-accuracy", "macro-f1", "log-loss", "roc-auc"),
        *("average-precision", "recall-at-fpr-5", "ece"),
    ),
    default_metric="accuracy",
    shown_metrics=("balanced-accuracy", "accuracy"),
    epoch_metric="accuracy",
    scores_of_each=("precision", "recall", "f1", "support"),
    weakest_by="recall",
    is_stratified=True,
    has_mistakes=True,
    has_confusion=True,
    is_calibrated=True,
)
_ANOMALY = Task(
    name="anomaly",
    kind=TargetKind.CLASS,
    column="label",
    target_types=(),  # two classes are taken for classification, where nobody says so
    noun="class",
    nouns="classes",
    answer="class",
    output=SCORES,
    activation=LINEAR,
    said=_largest,
    close_calls=_largest_is_close,
    metrics=("roc-auc", "average-precision", "recall-at-fpr-5"),
    default_metric="roc-auc",
    shown_metrics=("average-precision", "roc-auc"),
    epoch_metric="roc-auc",
    scores_of_each=("precision", "recall", "f1", "support"),
    weakest_by="recall",
    is_stratified=True,
    has_mistakes=True,
    has_confusion=True,
    is_calibrated=False,
    is_one_class=True,
)
_MULTI_LABEL = Task(
    name="multi-label",
    kind=TargetKind.LABELS,
    column="labels",
    target_types=("multilabel-indicator",),
    noun="label",
    nouns="labels",
    answer="labels",
    output=PROBABILITIES,
    activation=SIGMOID,
    said=_those_above,
    close_calls=_threshold_is_close,
    metrics=("map", "micro-f1", "macro-f1"),
    default_metric="map",
    shown_metrics=("micro-f1", "map"),
    # a number of one image each, so that a comparison has few ties of several images
    epoch_metric="micro-f1",
    scores_of_each=("precision", "recall", "f1", "average_precision", "support"),
    weakest_by="recall",
    is_stratified=False,
    has_mistakes=True,
    has_confusion=False,
    is_calibrated=False,
)
_REGRESSION = Task(
    name="regression",
    kind=TargetKind.NUMBERS,
    column="target",
    target_types=("continuous", "continuous-multioutput", "multiclass-multioutput"),
    noun="target",
    nouns="targets",
    answer="values",
    output=VALUES,
    activation=LINEAR,
    said=_as_they_are,
    close_calls=_never_close,
    metrics=("mae", "rmse", "r2"),
    default_metric="rmse",
    shown_metrics=("r2", "rmse"),
    epoch_metric="rmse",
    scores_of_each=("mae", "rmse", "r2", "bias"),
    weakest_by="r2",
    is_stratified=False,
    has_mistakes=False,
    has_confusion=False,
    is_calibrated=False,
)
_DETECTION = Task(
    name="detection",
    kind=TargetKind.BOXES,
    column="boxes",
    target_types=(),  # no plain array is boxes
    noun="class",
    nouns="classes",
    answer="boxes",
    output=PROBABILITIES,
    activation=SIGMOID,
    said=_as_they_are,
    close_calls=_never_close,
    metrics=("map50", "map", "ap50"),
    default_metric="map50",
    shown_metrics=("map", "map50"),
    epoch_metric="map50",
    scores_of_each=("ap50", "ap", "boxes"),
    weakest_by="ap50",
    is_stratified=False,
    has_mistakes=False,
    has_confusion=False,
    is_calibrated=False,
)

_EVERY = (_CLASSIFICATION, _MULTI_LABEL, _REGRESSION, _DETECTION, _ANOMALY)
TASKS = {task.name: task for task in _EVERY}
ONE_CLASS = tuple(name for name, task in TASKS.items() if task.is_one_class)
DEFAULT_TASK = _CLASSIFICATION.name  # where nothing says which


def names_of(*kinds: TargetKind) -> tuple[str, ...]:
    """Return the names of the tasks whose targets are of one of these kinds, and all are learnt."""
    several = (task for task in TASKS.values() if not task.is_one_class)
    return tuple(task.name for task in several if task.kind in kinds)


def first_of(kind: TargetKind) -> Task:
    """Return the plain task of a kind of targets: where only the kind is known, it is meant."""
    return TASKS[names_of(kind)[0]]
