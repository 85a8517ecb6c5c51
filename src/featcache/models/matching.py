"""What the images of a source say, in the terms of a model's outputs.

A source is matched by name: its classes may be in any order, but none may be one that the model
does not know, but for one that says unknown. Names that differ in their Unicode form alone are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache.core.arrays import LARGEST
from featcache.core.errors import SourceError
from featcache.core.labels import Annotations
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import composed
from featcache.models.card import Card

SHOWN_NAMES = 5


def matched(
    about: Annotations, described: Card, origin: str, *, exactly: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return what each image says in the order of a model's outputs, and what none of them says.

    Parameters
    ----------
    exactly : the source must know all that the model knows, as what a model learns from does; else
        it may have fewer classes or labels, and those without an image do not count.

    Raises
    ------
    SourceError
        When the task is another, names do not fit, or a target is too large a number.
    """
    if about.task != described.task:
        raise SourceError(
            f"The model is for {described.task}, and '{origin}' is a source for {about.task}. "
            f"Give images that the model is for."
        )
    task, given = TASKS[about.task], _as_known(about.output_names, described.class_names)
    used = given if exactly else [given[column] for column in _used(about)]
    absent = tuple(name for name in described.learnt_names if name not in used)
    strange = [name for name in used if name not in described.class_names]
    # a target that the source has beside the model's is left alone, but for training
    are_numbers = task.kind is TargetKind.NUMBERS
    is_closed = described.open_set is None
    if (strange or absent) if exactly else (absent if are_numbers else is_closed and strange):
        raise SourceError(
            f"'{origin}' and the model do not have the same {task.nouns}; only the source "
            f"has {_some(strange)}, only the model {_some(absent)}. Call them as the model does, "
            f"or leave those images out."
        )
    place = {name: column for column, name in enumerate(described.class_names)}
    # the last class of a model that says unknown has all that the model does not know
    other = -1 if is_closed else len(described.class_names) - 1
    columns = np.array([place.get(name, other) for name in given], int)
    if are_numbers:
        targets = about.y[:, [given.index(name) for name in described.class_names]]
        if len(large := targets[np.abs(targets) >= LARGEST]):
            raise SourceError(
                f"'{origin}' has a target of {large[0]:.6g}, and {LARGEST:.0e} is the limit. Mend "
                f"it, or leave it empty."
            )
        return targets, absent
    if task.kind is TargetKind.CLASS:
        return np.where(about.labels >= 0, columns[about.labels], -1), absent
    y = np.where(about.is_known[:, None], 0, np.full(len(described.class_names), -1))
    kept = columns >= 0
    y[:, columns[kept]] = about.labels[:, kept]
    return y, absent


def strangers(about: Annotations, described: Card) -> tuple[str, ...]:
    """Return the classes of a source that a model did not learn."""
    given = _as_known(about.output_names, described.class_names)
    return tuple(given[at] for at in _used(about) if given[at] not in described.learnt_names)


def _as_known(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return names as a model spells them, where it knows them in another Unicode form."""
    there, spelt = set(names), {composed(name): name for name in reversed(known)}
    every = ((name, spelt.get(composed(name), name)) for name in names)
    return tuple(name if other in there else other for name, other in every)


def _used(about: Annotations) -> list[int]:
    """Return the columns of names that some image has; of targets all."""
    kind = TASKS[about.task].kind
    if kind is TargetKind.NUMBERS:
        return list(range(len(about.target_names)))
    if kind is TargetKind.LABELS:
        return [int(label) for label in np.flatnonzero((about.labels == 1).any(axis=0))]
    return [label for label in np.unique(about.labels).tolist() if label >= 0]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more or "none"
