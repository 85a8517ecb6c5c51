"""A model's images: here alone they are opened, looked at and read, as those it was made from.

Whatever judges, compares, trains or predicts with a model takes its images from here, so that none
of them can forget a part of how its card, or its features, say that images are read. Nothing is run
here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core import one_class, progress
from featcache.core.checks import check_choice
from featcache.core.errors import SourceError
from featcache.core.labels import Annotations
from featcache.core.spec import MAX_PIXELS, ExtractionSpec
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted
from featcache.data import (
    examples,
    image_ops,
    loading,
    nvimagecodec,
    openers,
    sources,
    splits,
)
from featcache.data.listing import Listing, list_images
from featcache.models import matching
from featcache.models.card import Card
from featcache.models.taught import Parts

SPLITS = ("test", "train", "val", "all")


@dataclass(frozen=True)
class Images:
    """Images of a source, and how they are read for a model."""

    samples: sources.Source
    spec: ExtractionSpec  # their size and how it is reached, and what lies under transparent pixels
    max_pixels: int  # larger images are unreadable

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: np.ndarray) -> Images:
        """Return only these rows (m,), in their given (ascending) order."""
        return replace(self, samples=self.samples.take(rows))

    def augmented(self, ways: tuple[str, ...]) -> Images:
        """Return the same images with views beside the clean one; without `ways` there are none."""
        return replace(self, spec=replace(self.spec, views=2, augment=ways)) if ways else self

    def decoded_by_tensorflow(self) -> Images:
        """Return the same images, decoded without a GPU."""
        return replace(self, spec=image_ops.by_tensorflow(self.spec))

    def listed(self, advance: Callable[[int], None] = lambda n: None) -> Listing:
        """Look at every image once; `advance` is told how many were since last time."""
        return list_images(self.samples, self.max_pixels, advance=advance)

    def batches(
        self,
        listing: Listing,
        rows: Sequence[int],
        *,
        batch_size: int,
        failures: dict[int, str],
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield rows (b,) and their images, tensors (b, height, width, 3) float32, in any order.

        `failures` is filled with the reason for every row that cannot be read.
        """
        for batch in loading.batches(listing, rows, specs=[self.spec], batch_size=batch_size):
            failures.update((row, one.reason) for row, one in batch.failures.items())
            if len(batch.rows):
                yield batch.rows, batch.clean

    def read(
        self, listing: Listing, rows: np.ndarray, *, view: int = 0, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return images of rows (n,) in their order, and which of them could be read.

        Returns
        -------
        (n, height, width, 3) float32, zeros where there is none, and (n,) bool.
        """
        return loading.read(listing, rows, spec=self.spec, view=view, batch_size=batch_size)

    def pixels(self, row: int) -> np.ndarray:
        """Return one image as upright RGB, (height, width, 3), as it is before resizing.

        Raises
        ------
        UnreadableImageError
            When its file is gone or cannot be decoded.
        """
        return loading.pixels(self.samples, row, self.spec, self.max_pixels)


def read_as(described: Card, samples: sources.Source) -> Images:
    """Return images of any source, read as those that a model was made from.

    Where a GPU decoded those and there is none, they are decoded exactly, and that is said.
    """
    images = Images(samples, described.spec, described.max_pixels)
    if described.spec.decoder == "gpu" and _says_that_no_gpu_decodes():
        return images.decoded_by_tensorflow()
    return images


@functools.cache
def _says_that_no_gpu_decodes() -> bool:
    """Return whether there is none, and say it once in a process."""
    reason = nvimagecodec.missing()
    if reason is not None:
        progress.note(
            f"The model learnt from images that a GPU decoded. Here they are decoded exactly, as "
            f"{reason}."
        )
    return reason is not None


def open_images(
    described: Card, what: Any = None, root: Any = None, target: str | None = None
) -> Images:
    """Return the images of a source for a model; None is where the model's own came from.

    Raises
    ------
    SourceError
        When they cannot be had.
    """
    if what is None:
        return read_as(described, openers.reopen(asdict(described)))
    return read_as(described, openers.open_source(what, root=root, target=target))


def open_labelled(described: Card, what: Any, root: Any, target: str | None) -> Images:
    """Return images to judge by or to learn from, as `open_images` does.

    The targets of a manifest are those of the model, if no others are named.
    """
    is_path = isinstance(what, (str, Path)) and not str(what).startswith(examples.PREFIX)
    has_targets = TASKS[described.task].kind is TargetKind.NUMBERS
    if has_targets and is_path and openers.takes_target(str(what)):
        target = target or ",".join(described.class_names)
    return open_images(described, what, root, target)


def open_of_features(features: store.Features, instead: Any = None) -> Images:
    """Return the images that features were extracted from, for a model that has no card yet.

    Parameters
    ----------
    instead : where they are now, as `open_source` takes it; None is where they were.

    Raises
    ------
    SourceError
        When they cannot be had.
    """
    samples = openers.reopen(features.provenance, instead)
    return Images(samples, features.spec, max_pixels_of(features))


def max_pixels_of(features: store.Features) -> int:
    """Return the limit that images had when features were extracted from them."""
    return int(features.provenance.get("max_pixels", MAX_PIXELS))


def learnt_as(described: Card, samples: sources.Source) -> Annotations:
    """Return what a source says of its images as a model's head learnt it."""
    return one_class.learnt_as(samples.annotations, described.task, described.class_names)


@dataclass(frozen=True)
class Chosen:
    """Labelled images of a source."""

    images: Images
    y: np.ndarray  # (n,) columns of the model's outputs, or (n, n_outputs)
    part: str  # one of SPLITS
    n_unlabelled: int  # images of the source that say nothing
    listing: Listing | None  # None where nobody has looked at the files yet
    unreadable: dict[str, str]  # reason by id, of images whose part cannot be told
    absent: tuple[str, ...]  # what the model knows and the source does not have
    strangers: tuple[str, ...] = ()  # classes that a model that says unknown did not learn


def choose(
    described: Card,
    images: Images,
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
    samples = images.samples
    progress.notes(samples.remarks, show_progress)
    is_own = samples.origin == described.source
    if split is None:
        split = "test" if is_own else "all"
    check_choice("split", split, SPLITS)
    about = samples.annotations
    known = about.is_known
    if not known.any():
        raise SourceError(
            f"None of {counted(len(samples), 'image')} of '{samples.origin}' is labelled, so "
            f"nothing says what is right. Give labels by folders or by a manifest."
        )
    y, absent = matching.matched(learnt_as(described, samples), described, samples.origin)
    listing, unreadable = None, {}
    rows = np.flatnonzero(known)
    if split != "all":
        with progress.bar("Reading", len(samples), "files", show_progress) as advance:
            listing = images.listed(advance)
        unreadable = {samples.ids[row]: why for row, why in listing.unreadable.items()}
        rows = _rows_of(split, described, samples, listing, parts if is_own else None)
        listing = listing.take(rows)
    if not len(rows):
        raise SourceError(
            f"'{samples.origin}' has no labelled image in its {split} part. Choose another one "
            f"(--split), or all."
        )
    return Chosen(
        images=images.take(rows),
        y=y[rows],
        part=split,
        n_unlabelled=int(np.sum(~known)),
        listing=listing,
        unreadable=unreadable,
        absent=absent,
        strangers=() if described.open_set is None else matching.strangers(about, described),
    )


def _rows_of(
    split: str,
    described: Card,
    samples: sources.Source,
    listing: Listing,
    parts: Parts | None,
) -> np.ndarray:
    """Return the labelled rows of a part that could be read, ascending."""
    about = learnt_as(described, samples)
    usable = about.is_known
    usable[list(listing.unreadable)] = False
    rows = np.flatnonzero(usable)
    digests = listing.digests[rows]
    if parts is None:
        mine = splits.parts(about.take(rows), digests, described.seed)[split]
    else:
        mine = np.array([digest.tobytes() in parts[split] for digest in digests], bool)
    return np.asarray(rows[mine])
