"""What heads are to be fitted on, as it may be given: feature files, their paths, or arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from featcache import store
from featcache.core.checks import bad, check_choice
from featcache.core.errors import SpecError
from featcache.core.tasks import ONE_CLASS, TASKS
from featcache.selection.dataset import Dataset, of_files
from featcache.selection.plain_arrays import of_arrays


def opened(features: Any, task: str | None, groups: Sequence[Any] | None, good: str) -> Dataset:
    """Return what there is to learn from; arguments are those of `fit_heads`."""
    check_choice("task", task, (None, *TASKS))
    is_one_class = task is not None and TASKS[task].is_one_class
    if good and not is_one_class:
        raise SpecError(
            f"good names the class that a task of one class learns. Give that task, too "
            f"(--task {ONE_CLASS[0]})."
        )
    is_pair = isinstance(features, tuple) and len(features) == 2
    if is_pair and not all(isinstance(one, (str, os.PathLike, store.Features)) for one in features):
        X, y = features
        return of_arrays(X, y, task, groups, good)
    if groups is not None or (task is not None and not is_one_class):
        raise SpecError("task and groups are for plain arrays; a feature file has its own.")
    several = features if isinstance(features, (list, tuple)) else [features]
    if not all(isinstance(one, (str, os.PathLike, store.Features)) for one in several):
        must = "be a feature file or its path, a list of them, or two arrays (X, y)"
        raise bad("features", must, features)
    files = [one if isinstance(one, store.Features) else store.Features(one) for one in several]
    if not files:
        raise SpecError("No feature file was given.")
    if len({one.content for one in files}) < len(files):
        raise SpecError("The same features were given twice; give each feature file once.")
    return of_files(files, task, good)
