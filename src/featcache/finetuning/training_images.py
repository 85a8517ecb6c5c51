"""The labelled images of a source in three parts, as the head of a model knew them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.errors import SourceError
from featcache.core.text import counted
from featcache.data import splits
from featcache.data.listing import Listing
from featcache.models import card, judged_on
from featcache.models.matching import matched
from featcache.models.taught import parts_of_model


@dataclass(frozen=True)
class TrainingImages:
    """A source and which of its rows train, choose the epoch, and are held out."""

    images: judged_on.Images
    listing: Listing
    y: np.ndarray  # (n,) int64 columns of the outputs, or (n, n_outputs)
    train: np.ndarray  # rows
    validation: np.ndarray
    test: np.ndarray
    validation_is_new: bool  # the source gave none, so it was taken from what trained the head

    @property
    def groups(self) -> np.ndarray:
        """(n,) int: rows with the same number must stay together."""
        return splits.units(self.listing.digests, self.images.samples.annotations.groups)

    def without(self, rows: set[int]) -> TrainingImages:
        """Return the same without rows that cannot be used."""
        if not rows:
            return self
        kept = {
            name: np.array([row for row in getattr(self, name).tolist() if row not in rows], int)
            for name in ("train", "validation", "test")
        }
        return _checked(TrainingImages(**(self.__dict__ | kept)))

    @property
    def learnt(self) -> np.ndarray:
        """(n, 16) uint8: digests of the images that are not held out."""
        return np.asarray(self.listing.digests[np.concatenate([self.train, self.validation])])

    def fresh(self, described: card.Card, cache_dir: Path, show_progress: bool) -> TrainingImages:
        """Return the same without images that are to judge, but taught the model."""
        known = (described.provenance or {}).get("taught")
        is_own = self.images.samples.origin == described.source
        if is_own and known is not None and known != splits.taught(self.learnt):
            progress.note(
                "The images changed since the head was fitted, so some that are held out now may "
                "have taught it. Fit and stitch again to be sure.",
                show_progress,
            )
        parts = parts_of_model(described, cache_dir)
        if parts is None:
            return self
        taught = parts["train"] | parts["val"]
        seen = {row for row in self.test.tolist() if self.listing.digests[row].tobytes() in taught}
        if seen:
            progress.note(
                f"{counted(len(seen), 'image that was', 'images that were')} to judge taught the "
                f"model; left out.",
                show_progress,
            )
        return self.without(seen)


def open_training_images(
    described: card.Card,
    source: Any,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
) -> TrainingImages:
    """Return the images that a model is fine-tuned on.

    The held-out part is the one that the head was scored on. Where the source has no validation
    part, a stratified fifth of the others is taken.

    Raises
    ------
    SourceError
        When the images have other classes, labels or targets than the model, or a part is empty.
    """
    images = judged_on.open_labelled(described, source, root, target)
    about = images.samples.annotations
    y, _ = matched(about, described, images.samples.origin, exactly=True)
    listing = images.listed()
    part = splits.parts(about, listing.digests, described.seed)
    readable = np.ones(len(images), bool)
    readable[list(listing.unreadable)] = False
    train = np.flatnonzero(part["train"] & readable)
    validation = np.flatnonzero(part["val"] & readable)
    is_new = not len(validation)
    if is_new and len(train):
        # another salt than the held-out part's, else the same images would always come first
        some = about.take(train)
        held = splits.held_out(
            some.strata, listing.digests[train], described.seed + 1, groups=some.groups
        )
        validation, train = train[held], train[~held]
    test = np.flatnonzero(part["test"] & readable)
    return _checked(TrainingImages(images, listing, y, train, validation, test, is_new))


def _checked(data: TrainingImages) -> TrainingImages:
    sizes = [len(rows) for rows in (data.train, data.validation, data.test)]
    if min(sizes) < 1:
        raise SourceError(
            f"'{data.images.samples.origin}' has {sizes[0]} training, {sizes[1]} validation and "
            f"{sizes[2]} test images; each part needs at least one."
        )
    return data
