"""The labelled images of a source in three parts, as the head of a model knew them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.errors import SourceError
from featcache.data import loading, sources, splits
from featcache.models import card, judged_on


@dataclass(frozen=True)
class Data:
    """A source and which of its rows train, choose the epoch, and are held out."""

    samples: sources.Source
    scanned: sources.Scan
    y: np.ndarray  # (n,) int64 columns of the outputs, or (n, n_outputs)
    train: np.ndarray  # rows
    validation: np.ndarray
    test: np.ndarray
    validation_is_new: bool  # the source gave none, so it was taken from what trained the head

    @property
    def groups(self) -> np.ndarray:
        """(n,) int: rows with the same number must stay together."""
        return splits.units(self.scanned.digests, self.samples.annotations.groups)

    def without(self, rows: set[int]) -> Data:
        """Return the same without rows that cannot be used."""
        if not rows:
            return self
        kept = {
            name: np.array([row for row in getattr(self, name).tolist() if row not in rows], int)
            for name in ("train", "validation", "test")
        }
        return _checked(Data(**(self.__dict__ | kept)))

    @property
    def learnt(self) -> np.ndarray:
        """(n, 16) uint8: digests of the images that are not held out."""
        return np.asarray(self.scanned.digests[np.concatenate([self.train, self.validation])])

    def fresh(self, described: card.Card, cache_dir: Path, show_progress: bool) -> Data:
        """Return the same without images that are to judge, but taught the model."""
        known = (described.provenance or {}).get("taught")
        is_own = self.samples.origin == described.source
        if is_own and known is not None and known != splits.taught(self.learnt):
            progress.note(
                "The images changed since the head was fitted, so some that are held out now may "
                "have taught it. Fit and stitch again to be sure.",
                show_progress,
            )
        parts = judged_on.parts_of_model(described, cache_dir)
        if parts is None:
            return self
        taught = parts["train"] | parts["val"]
        seen = {row for row in self.test.tolist() if self.scanned.digests[row].tobytes() in taught}
        if seen:
            progress.note(
                f"{len(seen)} images that were to judge taught the model; they are left out.",
                show_progress,
            )
        return self.without(seen)


def open_data(
    described: card.Card,
    source: Any,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
) -> Data:
    """Return the images that a model is fine-tuned on.

    The held-out part is the one that the head was scored on. Where the source has no validation
    part, a stratified fifth of the others is taken.

    Raises
    ------
    SourceError
        When the images have other classes, labels or targets than the model, or a part is empty.
    """
    samples = judged_on.open_source(described, source, root, target)
    about = samples.annotations
    check_names(described, samples)
    scanned = sources.scan(samples, loading.plain_orientation)
    part = splits.parts(about, scanned.digests, described.seed)
    readable = np.ones(len(samples), bool)
    readable[list(scanned.unreadable)] = False
    train = np.flatnonzero(part["train"] & readable)
    validation = np.flatnonzero(part["val"] & readable)
    is_new = not len(validation)
    if is_new and len(train):
        # another salt than the held-out part's, else the same images would always come first
        some = about.take(train)
        held = splits.held_out(
            some.strata, scanned.digests[train], described.seed + 1, groups=some.groups
        )
        validation, train = train[held], train[~held]
    test = np.flatnonzero(part["test"] & readable)
    return _checked(Data(samples, scanned, about.y, train, validation, test, is_new))


def check_names(described: card.Card, samples: sources.Source) -> None:
    """Raise SourceError unless a source says of its images what the model says."""
    about = samples.annotations
    if about.task != described.task:
        raise SourceError(
            f"'{samples.origin}' is a source for {about.task}, and the model is of "
            f"{described.task}. Give the images that the model is for."
        )
    names = about.target_names if about.task == "regression" else about.class_names
    what = {"regression": "targets", "multi-label": "labels"}.get(about.task, "classes")
    if names == described.class_names:
        return
    odd = ", ".join(sorted(set(names) ^ set(described.class_names))[:5])
    difference = f"only one of them has: {odd}" if odd else "their order differs"
    raise SourceError(
        f"'{samples.origin}' and the model do not have the same {what}; {difference}."
    )


def _checked(data: Data) -> Data:
    sizes = [len(rows) for rows in (data.train, data.validation, data.test)]
    if min(sizes) < 1:
        raise SourceError(
            f"'{data.samples.origin}' has {sizes[0]} training, {sizes[1]} validation and "
            f"{sizes[2]} test images; each part needs at least one."
        )
    return data
