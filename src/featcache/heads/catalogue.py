"""The catalogue of heads, and saving them without pickle.

A head is the model trained on features. It has scikit-learn's manners: the constructor only
stores, `fit(X, y)` returns self, learned state ends in `_`. Preprocessing is inside the head, so
that it is fitted inside each fold. Heads see arrays, never images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.core.errors import HeadError, SpecError, one_line
from featcache.core.tasks import DEFAULT_TASK, TASKS
from featcache.heads.anomaly import Gaussian, NeighbourDistance, OneClassSVM, PatchMemory
from featcache.heads.base import Head
from featcache.heads.baseline import Dummy
from featcache.heads.calibrated import Calibrated
from featcache.heads.calibration import from_dict
from featcache.heads.custom import Own
from featcache.heads.dense import Dense
from featcache.heads.discriminant import LDA, Centroid
from featcache.heads.forest import RandomForest
from featcache.heads.linear import LinearSVM, LogisticRegression
from featcache.heads.neighbours import Neighbours
from featcache.heads.ridge import Ridge
from featcache.heads.svm import RbfSVM

FLOOR = "dummy"  # the head that looks at no feature
# from simple to flexible: of heads that do equally well, the first is preferred
CATALOGUE: dict[str, type[Head]] = {
    FLOOR: Dummy,
    "centroid": Centroid,
    "ridge": Ridge,
    "lda": LDA,
    "logreg": LogisticRegression,
    "linear-svm": LinearSVM,
    "knn": Neighbours,
    "dense": Dense,
    "rbf-svm": RbfSVM,
    "random-forest": RandomForest,
}
# of tasks of one class; where nothing judges them the first is taken
ONE_CLASS_CATALOGUE: dict[str, type[Head]] = {
    "patch-knn": PatchMemory,
    "gaussian": Gaussian,
    "knn": NeighbourDistance,
    "one-class-svm": OneClassSVM,
}


def catalogue_of(task: str) -> dict[str, type[Head]]:
    """Return the heads of a task by name; some of them may not be able to do it."""
    return ONE_CLASS_CATALOGUE if TASKS[task].is_one_class else CATALOGUE


def check_names(names: list[str], task: str = DEFAULT_TASK) -> None:
    """Raise SpecError where a name is not in the catalogue of a task."""
    known = catalogue_of(task)
    for name in names:
        if name not in known:
            of = f" for {task}" if known is not CATALOGUE else ""
            raise SpecError(f"There is no head '{name}'{of}; choose from {', '.join(known)}.")


def save(head: Head, folder: Path, name: str) -> str:
    """Write a fitted head into `folder` and return its file's name."""
    file = folder / f"{name}{head.suffix}"
    head.save(file)
    return file.name


def load(
    name: str, file: Path, params: dict[str, Any], calibration: dict[str, Any] | None = None
) -> Head:
    """Return a fitted head; nothing in the file is run.

    A name that is not in the catalogue is an estimator of the user's own.

    Parameters
    ----------
    calibration : what a calibration map's `to_dict` gave; the head then gives its probabilities.

    Raises
    ------
    HeadError
        When the file is missing, damaged, or names types that are not scikit-learn's.
    """
    if not file.is_file():
        raise HeadError(f"Head file '{file}' does not exist. Run `featcache fit-heads` again.")
    try:
        kinds = catalogue_of(params.get("task", DEFAULT_TASK))
        head = kinds.get(name, Own)(**params).restore(file)
    except HeadError:
        raise
    # skops, Keras and zipfile each raise kinds of their own for a file they cannot read
    except Exception as error:
        reason = one_line(error, 200)
        raise HeadError(
            f"Head file '{file}' cannot be loaded: {reason}. Run `featcache fit-heads` again."
        ) from error
    return head if calibration is None else Calibrated(head, from_dict(calibration))
