"""Labels as tasks of one class have them: the class that is learnt, and all that is not of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featcache.core.errors import SourceError, SpecError
from featcache.core.labels import UNLABELLED, Annotations
from featcache.core.tasks import TASKS
from featcache.core.text import few

_GOOD_NAMES = ("good", "normal", "ok")  # of the class that is learnt, where nobody names it
_OTHERS = "anomaly"


def learnt_as(about: Annotations, task: str, names: Sequence[str]) -> Annotations:
    """Return annotations as heads of a task learn them.

    Only a task of one class learns something else than the labels say: whether an image is of the
    class `names[0]`, or one of the others, which together are `names[1]`. Where there are no labels
    at all every image is of the first.

    Raises
    ------
    SourceError
        When no image is of that class, or images have several.
    """
    if not TASKS[task].is_one_class or about.task == task:
        return about
    good, _ = names
    if about.labels.ndim != 1 or about.targets is not None:
        raise SourceError(
            f"Of {task} each image has one class, good or another; these are of {about.task}."
        )
    if not about.class_names:
        labels = np.zeros(len(about), np.int64)
    elif good in about.class_names:
        is_other = about.labels != about.class_names.index(good)
        labels = np.where(about.labels < 0, UNLABELLED, is_other).astype(np.int64)
    else:
        raise SourceError(
            f"No image is labelled '{good}', the class of good ones; there are "
            f"{few(about.class_names)}. Name the class that is good (--good)."
        )
    return replace(about, labels=labels, class_names=tuple(names), task=task)


def names_of(about: Annotations, good: str) -> tuple[str, str]:
    """Return what the good images and all others are called.

    Raises
    ------
    SpecError
        When nothing says which class is good.
    """
    if not good:
        names = about.class_names or _GOOD_NAMES[:1]
        called = [name for name in names if name.lower() in _GOOD_NAMES]
        found = called or (list(names) if len(names) == 1 else [])
        if len(found) != 1:
            raise SpecError(
                f"Name the class whose images are good (--good), of {few(about.class_names)}; all "
                f"others only judge what was learnt from it."
            )
        good = found[0]
    return good, _OTHERS if good != _OTHERS else "other"
