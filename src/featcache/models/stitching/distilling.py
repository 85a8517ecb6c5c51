"""A dense head that learns what another head says, for heads that cannot become Keras layers.

It is another model: how far it agrees is measured on images that it did not learn from, and said.
Nothing is chosen on the held-out part.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featcache import heads, store
from featcache.core.errors import SpecError
from featcache.core.tasks import SCORES, TASKS, TargetKind
from featcache.data import splits
from featcache.heads.dense import Dense
from featcache.heads.outputs import outputs_of
from featcache.heads.training_rows import split_off
from featcache.scoring import leaderboard, metrics

_HELD_BACK = 0.2  # of the training images, to choose a student by
# A forest is surer of the rows it learnt from than of any others, and nothing else is at hand. Of
# mixtures of two of them it is about as unsure as of new images; see docs/decisions/distilling.md
_MIXED, _MOST_MIXED, _BETA = 10, 20_000, 0.5


@dataclass(frozen=True)
class StudentAgreement:
    """How far a student says what its teacher says of images that it did not learn from."""

    n_images: int
    part: str  # held-out; or held-back: a part of the training images, where nothing is held out
    same: float | None  # share of images with the same class or labels; None for targets
    mean_difference: float  # mean absolute difference of the outputs

    def __str__(self) -> str:
        same = "" if self.same is None else f"same answer for {self.same:.1%}, "
        return (
            f"{same}mean difference {self.mean_difference:.2g} on {self.n_images} {self.part} "
            f"images"
        )


@dataclass(frozen=True)
class Distilled:
    """A student with what is known of it."""

    head: Dense
    params: dict[str, Any]
    teacher: str
    teacher_params: dict[str, Any]
    teacher_calibration: dict[str, Any] | None
    agreement: StudentAgreement
    teacher_test: dict[str, float] | None  # every metric on the held-out part, if there is one
    test: dict[str, float] | None  # of the student

    def to_dict(self) -> dict[str, Any]:
        """Return what a card keeps, as plain JSON types."""
        return {
            "teacher": self.teacher,
            "params": self.teacher_params,
            "calibration": self.teacher_calibration,
            "agreement": asdict(self.agreement),
            "teacher_test": self.teacher_test,
        }


def distil(fitted: leaderboard.FittedHead, features: store.Features) -> Distilled:
    """Return a dense head that was fitted to a head's outputs on its training features.

    The setting of the dense head, linear or with a hidden layer, is the one that agrees best on
    training images that are held back; it is then fitted to all of them.

    Raises
    ------
    SpecError
        When the head can become Keras layers itself.
    """
    teacher, board = fitted.head, fitted.board
    if heads.catalogue_of(fitted.board.task).get(fitted.name, heads.Own).stitches:
        raise SpecError(
            f"The head {fitted.name} becomes Keras layers exactly, so there is nothing to distil. "
            f"Leave --distil out."
        )
    rows = board.out_of_fold()
    train, test = rows.rows, rows.test_rows
    groups = features.annotations.groups
    units = splits.units(
        features.digests[train], None if groups is None else tuple(groups[row] for row in train)
    )
    rng = np.random.default_rng(board.seed)
    kept, held = split_off(np.zeros(len(train), int), _HELD_BACK, rng, units)
    X = features.X
    found = []
    for setting in Dense.grid(board.task):
        params = setting | {"task": board.task, "class_weight": None, "seed": board.seed}
        student = _taught(teacher, params, X[train[kept]])
        found.append((_agreement(teacher, student, X[train[held]], "held-back"), params))
    # of equals the first, which is the simplest
    agreement, params = max(found, key=lambda one: (one[0].same or 0.0, -one[0].mean_difference))
    student = _taught(teacher, params, X[train])
    if len(test):
        agreement = _agreement(teacher, student, X[test], "held-out")
    n_outputs = len(board.class_names)
    return Distilled(
        head=student,
        params=params,
        teacher=fitted.name,
        teacher_params=fitted.result.params,
        teacher_calibration=fitted.result.calibration,
        agreement=agreement,
        teacher_test=_test(teacher, features, test, n_outputs),
        test=_test(student, features, test, n_outputs),
    )


def _taught(teacher: heads.Head, params: dict[str, Any], X: np.ndarray) -> Dense:
    """Return a dense head fitted to what a teacher says of features (n, d) and of mixtures."""
    rng = np.random.default_rng(params["seed"])
    X = np.asarray(X, np.float32)
    n = min(_MIXED * len(X), _MOST_MIXED)
    first, second = rng.integers(0, len(X), (2, n))
    share = rng.beta(_BETA, _BETA, (n, 1)).astype(np.float32)
    X = np.concatenate([X, share * X[first] + (1 - share) * X[second]])
    student = Dense(**params).fit(X, _targets(teacher, X))
    if teacher.target_kind is TargetKind.CLASS:
        student.classes_ = teacher.classes_
    return student


def _targets(teacher: heads.Head, X: np.ndarray) -> np.ndarray:
    """Return (n, n_outputs): a teacher's probabilities or values; of scores what they say."""
    outputs = teacher.outputs(X)
    if teacher.output != SCORES:
        return outputs
    what = TASKS[teacher.task].said(outputs, teacher.output)
    return np.eye(outputs.shape[1])[what] if teacher.target_kind is TargetKind.CLASS else what


def _agreement(teacher: heads.Head, student: Dense, X: np.ndarray, part: str) -> StudentAgreement:
    wanted, got = _targets(teacher, X), student.outputs(X)
    same, task = None, TASKS[teacher.task]
    if task.has_mistakes:
        what = [task.said(one, student.output) for one in (wanted, got)]
        same = float((what[0] == what[1]).reshape(len(X), -1).all(axis=1).mean())
    return StudentAgreement(len(X), part, same, float(np.abs(wanted - got).mean()))


def _test(
    head: heads.Head, features: store.Features, rows: np.ndarray, n_outputs: int
) -> dict[str, float] | None:
    """Return every metric of a head on the held-out part."""
    if not len(rows):
        return None
    (outputs,) = outputs_of([head], features.X[:, None], rows, n_outputs)
    return metrics.score(head.task, features.annotations.y[rows], outputs, head.output)
