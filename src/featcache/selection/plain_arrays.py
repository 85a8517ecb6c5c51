"""Plain arrays as a dataset; what is to be learnt is recognised as scikit-learn does."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featcache.core import arrays
from featcache.core.checks import bad, check_choice
from featcache.core.errors import HeadError
from featcache.core.labels import UNLABELLED, Annotations
from featcache.core.one_class import learnt_as, names_of
from featcache.core.tasks import TASKS, TargetKind, Task, first_of
from featcache.core.text import counted
from featcache.scoring.leaderboard import FeatureSet
from featcache.selection.dataset import Dataset

BLOCK = 4096
TARGETS = "be classes, 0 and 1 with a column per label, or numeric targets, for each row of X"


def of_arrays(
    X: Any,
    y: Any,
    task: str | None = None,
    groups: Sequence[Any] | None = None,
    good: str = "",
) -> Dataset:
    """Return plain arrays as a dataset; what is to be learnt is recognised as scikit-learn does.

    Parameters
    ----------
    X : (n, d) numbers; of anomalies also maps (n, height, width, channels).
    y : (n,) classes of any kind, (n, k) of 0 and 1, or float targets (n,) or (n, k).
    task : name of one of `TASKS`; None goes by `y`.
    groups : (n,), rows of one group are never parted.
    good : of anomalies, the class that is learnt.
    """
    map_shape = None
    if task is not None and TASKS[task].is_one_class and np.ndim(X) == 4:
        X = np.asarray(X)
        map_shape, X = X.shape[1:], X.reshape(len(X), -1)
    X = arrays.features(X)
    if X.dtype not in (np.float16, np.float32):
        X = X.astype(np.float32)
    about = _learnt(y, task, good)
    if len(about) != len(X):
        raise HeadError(
            f"X has {counted(len(X), 'row')} and y has {len(about)}; they must have the same "
            f"number."
        )
    if groups is not None:
        given = arrays.entries("groups", groups, len(X), "rows")
        named = ("" if arrays.is_missing(one) else str(one) for one in given)
        about = replace(about, groups=tuple(named))
    joined = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in X)
    digests = np.frombuffer(joined, np.uint8).reshape(len(X), 16)
    total = hashlib.blake2b(digest_size=16)
    total.update(digests.tobytes())
    total.update(np.ascontiguousarray(about.y).tobytes())
    total.update(json.dumps([about.class_names, about.groups]).encode())
    whole = FeatureSet("arrays", total.hexdigest(), X.shape[1])

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(X), BLOCK):
            yield X[start : start + BLOCK, None]

    rows = (np.arange(len(X)),)
    return Dataset((whole,), (read,), about, digests, None, rows, map_shapes=(map_shape,))


def _learnt(y: Any, task: str | None, good: str) -> Annotations:
    check_choice("task", task, (None, *TASKS))
    if task is not None and TASKS[task].is_one_class:
        about = _learnt(y, first_of(TargetKind.CLASS).name, "")
        if not good and set(about.class_names) <= {"0", "1", "False", "True"}:
            good = about.class_names[0]  # as heads have it
        return learnt_as(about, task, names_of(about, good))
    y = _plain(arrays.array("y", y, TARGETS))
    learnt = TASKS[task] if task is not None else _recognised(y)
    if learnt is None or not y.size or y.ndim > 2:
        raise bad("y", TARGETS, y, kind=HeadError)
    unknown = np.full(len(y), UNLABELLED, np.int64)
    if learnt.kind is TargetKind.NUMBERS:
        if y.dtype.kind not in arrays.NUMBERS:
            raise bad(
                "y", "be numbers in (n_samples,) or (n_samples, n_targets)", y, kind=HeadError
            )
        targets = y.astype(np.float64).reshape(len(y), -1)
        arrays.check_usable("y", targets)
        names = tuple(f"target {number}" for number in range(targets.shape[1]))
        return Annotations(unknown, targets=targets, target_names=names, task=learnt.name)
    if learnt.kind is TargetKind.LABELS:
        if y.ndim != 2 or not np.isin(y, (0, 1)).all():
            raise bad("y", "be 0 and 1, one column per label, of several labels", y, kind=HeadError)
        names = tuple(str(number) for number in range(y.shape[1]))
        return Annotations(y.astype(np.int64), names, task=learnt.name)
    if y.ndim != 1:
        raise bad("y", "have one dimension where it holds classes", y, kind=HeadError)
    classes, labels = np.unique(y, return_inverse=True)
    return Annotations(labels.astype(np.int64), tuple(map(str, classes)), task=learnt.name)


def _plain(y: np.ndarray) -> np.ndarray:
    """Return an array of numbers or texts as one; raise HeadError of any other, and of gaps."""
    if y.dtype.kind == "O":
        values = y.ravel().tolist()
        gaps = [place for place, value in enumerate(values) if arrays.is_missing(value)]
        if gaps:
            row = gaps[0] // (y.size // len(y))
            raise HeadError(
                f"y must say something of every row, and does not of {len(gaps)}, first of row "
                f"{row} ({values[gaps[0]]}). Leave those rows out."
            )
        if any(all(isinstance(value, kind) for value in values) for kind in (str, numbers.Real)):
            y = np.array(values).reshape(y.shape)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "backslashreplace")
    if y.dtype.kind not in arrays.NUMBERS + "U":
        raise bad("y", TARGETS, y, kind=HeadError)
    arrays.check_usable("y", y)
    return y


def _recognised(y: np.ndarray) -> Task | None:
    """Return the task of plain targets, as scikit-learn sees them; None of anything else."""
    from sklearn.utils.multiclass import type_of_target

    if not y.size:
        return None
    found = type_of_target(y)
    return next((task for task in TASKS.values() if found in task.target_types), None)
