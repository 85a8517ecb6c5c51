"""Which images judge a model, and what they say in the terms of its outputs. Nothing is run here.

A source is matched by name: its classes may be fewer than the model's and in any order, but none
that the model does not know.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.checks import check_choice
from featcache.core.errors import SourceError, StoreError
from featcache.core.labels import Annotations
from featcache.core.tasks import NAMES
from featcache.data import examples, loading, openers, sources, splits
from featcache.models.card import Card

SPLITS = ("test", "train", "val", "all")
SHOWN_NAMES = 5

Parts = dict[str, set[bytes]]  # train, val and test -> digests of the images


@dataclass(frozen=True)
class Chosen:
    """Labelled images of a source."""

    samples: sources.Source
    y: np.ndarray  # (n,) columns of the model's outputs, or (n, n_outputs)
    part: str  # one of SPLITS
    n_unlabelled: int  # images of the source that say nothing
    scanned: sources.Scan | None  # None where nobody has looked at the files yet
    unreadable: dict[str, str]  # reason by id, of images whose part cannot be told
    absent: tuple[str, ...]  # what the model knows and the source does not have


def open_source(described: Card, what: Any, root: Any, target: str | None) -> sources.Source:
    """Return the images to judge by; None is where the model's own came from.

    The targets of a manifest are those of the model, if no others are named.
    """
    if what is None:
        return openers.reopen(asdict(described))
    is_path = isinstance(what, (str, Path)) and not str(what).startswith(examples.PREFIX)
    if described.task == "regression" and is_path and not Path(what).is_dir():
        target = target or ",".join(described.class_names)
    return openers.open_source(what, root=root, target=target)


def choose(
    described: Card,
    samples: sources.Source,
    split: str | None,
    parts: Parts | None,
    show_progress: bool,
) -> Chosen:
    """Return the labelled images of a part of a source.

    Parameters
    ----------
    split : test, train, val or all; None is test for the model's own source and all for others.
    parts : of the model's own images, where that is known.

    Raises
    ------
    SpecError
        When there is no such part.
    SourceError
        When the source is for another task, has classes that the model does not know, or there is
        no labelled image.
    """
    is_own = samples.origin == described.source
    split = split or ("test" if is_own else "all")
    check_choice("split", split, SPLITS)
    about = samples.annotations
    known = about.is_known
    if not known.any():
        raise SourceError(
            f"None of the {len(samples)} images of '{samples.origin}' is labelled, so nothing says "
            f"what is right. Give labels by folders or by a manifest."
        )
    y, absent = matched(about, described, samples.origin)
    scanned, unreadable = None, {}
    rows = np.flatnonzero(known)
    if split != "all":
        scanned = _looked_at(samples, show_progress)
        unreadable = {samples.ids[row]: why for row, why in scanned.unreadable.items()}
        rows = _rows_of(split, about, scanned, described.seed, parts if is_own else None)
        scanned = scanned.take(rows)
    if not len(rows):
        raise SourceError(
            f"'{samples.origin}' has no labelled image in its {split} part. Choose another one "
            f"(--split), or all."
        )
    return Chosen(
        samples=samples.take(rows),
        y=y[rows],
        part=split,
        n_unlabelled=int(np.sum(~known)),
        scanned=scanned,
        unreadable=unreadable,
        absent=absent,
    )


def matched(about: Annotations, described: Card, origin: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return what each image says in the order of a model's outputs, and what none of them says.

    Raises
    ------
    SourceError
        When the task is another, or names do not fit.
    """
    if about.task != described.task:
        raise SourceError(
            f"The model is for {described.task}, and '{origin}' is a source for {about.task}. "
            f"Give images that the model is for."
        )
    given = about.target_names if about.task == "regression" else about.class_names
    used = [given[column] for column in _used(about)]
    absent = tuple(name for name in described.class_names if name not in used)
    strange = [name for name in used if name not in described.class_names]
    is_wrong = absent if about.task == "regression" else strange
    if is_wrong:
        raise SourceError(
            f"'{origin}' and the model do not have the same {NAMES[about.task]}; only the source "
            f"has {_some(strange)}, only the model {_some(absent)}."
        )
    place = {name: column for column, name in enumerate(described.class_names)}
    columns = np.array([place.get(name, -1) for name in given], int)
    if about.task == "regression":
        return about.y[:, [given.index(name) for name in described.class_names]], absent
    if about.task == "classification":
        return np.where(about.labels >= 0, columns[about.labels], -1), absent
    y = np.where(about.is_known[:, None], 0, np.full(len(described.class_names), -1))
    kept = columns >= 0
    y[:, columns[kept]] = about.labels[:, kept]
    return y, absent


def parts_of_model(described: Card, cache_dir: Path | None) -> Parts | None:
    """Return which images taught a model and which were held out.

    None is where that is not known: its features are not cached, or the images changed since. What
    taught it before it was fine-tuned on other images is no longer held out.
    """
    origin = (described.provenance or {}).get("taught")
    earlier = (described.finetuned or {}).get("earlier", ())
    asked = [(described.source, origin), *((one["source"], one["taught"]) for one in earlier)]
    known = [_parts_of(source, taught, described, cache_dir) for source, taught in asked]
    found = [one for one in known if one is not None]
    if len(found) < len(asked):
        return None
    own, *others = found
    before = set().union(*(one["train"] | one["val"] for one in others))
    return {"train": own["train"] | before, "val": own["val"], "test": own["test"] - before}


def _parts_of(
    source: str, taught: str | None, described: Card, cache_dir: Path | None
) -> Parts | None:
    for path in store.of_spec(cache_dir, described.spec) if cache_dir is not None else ():
        try:
            features = store.Features(path)
            if features.provenance.get("source") == source:
                part = splits.parts(features.annotations, features.digests, described.seed)
                learnt = features.digests[part["train"] | part["val"]]
                if taught is not None and splits.taught(learnt) != taught:
                    continue
                return {
                    name: {digest.tobytes() for digest in features.digests[rows]}
                    for name, rows in part.items()
                }
        except StoreError:
            continue  # a damaged file says nothing; the model can be judged without it
    return None


def _used(about: Annotations) -> list[int]:
    """Return the columns of names that some image has; of targets all."""
    if about.task == "regression":
        return list(range(len(about.target_names)))
    if about.task == "multi-label":
        return [int(label) for label in np.flatnonzero((about.labels == 1).any(axis=0))]
    return [label for label in np.unique(about.labels).tolist() if label >= 0]


def _rows_of(
    split: str, about: Annotations, scanned: sources.Scan, seed: int, parts: Parts | None
) -> np.ndarray:
    """Return the labelled rows of a part that could be read, ascending."""
    usable = about.is_known
    usable[list(scanned.unreadable)] = False
    rows = np.flatnonzero(usable)
    digests = scanned.digests[rows]
    if parts is None:
        mine = splits.parts(about.take(rows), digests, seed)[split]
    else:
        mine = np.array([digest.tobytes() in parts[split] for digest in digests], bool)
    return np.asarray(rows[mine])


def _looked_at(samples: sources.Source, show_progress: bool) -> sources.Scan:
    with progress.bar("Reading", len(samples), "files", show_progress) as advance:
        return sources.scan(samples, loading.plain_orientation, advance)


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more or "none"
