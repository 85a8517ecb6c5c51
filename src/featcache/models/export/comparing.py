"""What an exported file gives, run on real images in a process of its own, against the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import disk
from featcache.core.errors import SourceError, StitchError
from featcache.core.tasks import TASKS
from featcache.core.tensorflow import import_tensorflow
from featcache.data import sources, splits
from featcache.data.listing import Listing
from featcache.models import card, judged_on, stitching
from featcache.models.export.writers import Format
from featcache.models.matching import matched
from featcache.scoring import metrics

if TYPE_CHECKING:
    import keras

N_REPRESENTATIVE = 200  # images whose activations set the ranges of 8-bit integers
RUNNER = Path(__file__).with_name("runners.py")


@dataclass(frozen=True)
class Sample:
    """Images to compare on, with what the model gives for them."""

    images: np.ndarray  # (n, height, width, 3) float32
    outputs: np.ndarray  # (n, n_outputs) float32
    y: np.ndarray  # (n, ...) what is right, in the order of the outputs
    judged: np.ndarray  # (m,) places where `y` is known; of the model's own images those held out
    files: dict[int, str]  # places of those that are upright opaque files
    representative: np.ndarray  # (k, height, width, 3) float32: of the training part

    def scores(self, got: np.ndarray, about: card.Card) -> dict[str, Any] | None:
        """Return the task's metric of the model and of an exported file; None without labels."""
        metric, rows = TASKS[about.task].default_metric, self.judged
        model, export = (
            metrics.score_one(metric, about.task, self.y[rows], outputs[rows], about.output)
            for outputs in (self.outputs, got)
        )
        if not np.isfinite([model, export]).all():
            return None
        return {"metric": metric, "n_images": len(rows), "model": model, "export": export}


@dataclass(frozen=True)
class ExportComparison:
    """How an exported file agrees with the model."""

    n_images: int
    agreement: float  # share of images with the same class, labels, or values in tolerance
    n_ties: int  # of them: another class, but the model's own is nearer to it than the tolerance
    largest_difference: float
    mean_difference: float

    @classmethod
    def of(
        cls, expected: np.ndarray, got: np.ndarray, about: card.Card, how: Format
    ) -> ExportComparison:
        """Compare outputs (n, n_outputs).

        Raises
        ------
        StitchError
            When what was got has another shape or is not finite.
        """
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise StitchError(
                f"The exported file gives outputs of shape {got.shape}, "
                f"{int(np.isfinite(got).sum())} of {got.size} numbers finite; expected "
                f"{expected.shape}, all finite. The file was removed; use another format."
            )
        parity = stitching.compare(
            expected, got, task=about.task, output=about.output, tolerance=how.tolerance
        )
        ties = 0 if how.quantised else parity.n_ties
        differences = np.abs(got - expected)
        return cls(
            n_images=len(expected),
            agreement=(parity.n_same_class + ties) / len(expected),
            n_ties=ties,
            largest_difference=float(differences.max()),
            mean_difference=float(differences.mean()),
        )


def sample(
    model: keras.Model, about: card.Card, source: Any, max_images: int, needs_training: bool
) -> Sample:
    """Return images of a source, those that were held out first, with the model's outputs.

    Labels of another task or of other classes than the model's are left out.

    Raises
    ------
    SourceError
        When there are none, or none can be read.
    """
    try:
        found = judged_on.open_images(about, source)
    except SourceError as error:
        if source is not None:
            raise
        raise SourceError(
            f"{error} Give images to compare on: `featcache export MODEL SOURCE`."
        ) from error
    found = found.decoded_by_tensorflow()  # as the file that is compared
    samples, listing = found.samples, found.listed()
    annotations = judged_on.learnt_as(about, samples)
    part = splits.parts(annotations, listing.digests, about.seed)
    held_out = np.flatnonzero(part["test"])
    others = np.setdiff1d(np.arange(len(samples)), held_out)
    chosen = _spread(held_out, max_images)
    chosen = np.concatenate([chosen, _spread(others, max_images - len(chosen))])
    rows, pixels = _read(found, listing, chosen)
    if not len(rows):
        raise SourceError(
            f"None of the images of '{samples.origin}' could be read, so the export cannot be "
            f"compared with the model. Give others: `featcache export MODEL SOURCE`."
        )
    representative = pixels[:0]
    if needs_training:
        train = np.flatnonzero(part["train"]) if part["train"].any() else np.arange(len(samples))
        _, representative = _read(found, listing, _spread(train, N_REPRESENTATIVE))
    y, judged = _labels(samples, rows, part["test"], about)
    paths = samples.paths or ()
    plain = np.flatnonzero(listing.orientations[rows] == 1).tolist() if paths else []
    return Sample(
        images=pixels,
        outputs=_outputs(model, pixels),
        y=y,
        judged=judged,
        files={place: os.path.abspath(paths[rows[place]]) for place in plain},
        representative=representative,
    )


def outputs_of(
    kind: str, path: Path, images: np.ndarray, encoded: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return what an exported file gives for images (n, height, width, 3) and for encoded files.

    Raises
    ------
    StitchError
        When its runtime fails.
    """
    with disk.scratch() as folder:
        np.save(folder / "images.npy", images)
        (folder / "files.json").write_text(json.dumps(list(encoded)), encoding="utf-8")
        command = [sys.executable, "-c", RUNNER.read_text(encoding="utf-8")]
        ran = subprocess.run(
            [*command, kind, os.path.abspath(path), str(folder)],
            cwd=folder,
            # the GPU is taken by this process
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        try:
            names = ("of_images.npy", "of_files.npy")
            of_images, of_files = (np.load(folder / name) for name in names)
        except (OSError, ValueError) as error:
            lines = [line for line in ran.stderr.splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else f"exit code {ran.returncode}"
            raise StitchError(
                f"The exported file does not run ({kind}): {reason}. The file was removed; use "
                f"another format."
            ) from error
        return of_images, of_files


def _outputs(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Return the model's outputs (n, n_outputs), computed as the runtimes do: on the CPU."""
    tf = import_tensorflow()
    signature = [tf.TensorSpec((None, *pixels.shape[1:]), tf.float32)]  # also of a shorter last one
    run = tf.function(lambda batch: model(batch, training=False), signature)
    with tf.device("/CPU:0"):
        starts = range(0, len(pixels), stitching.BATCH_SIZE)
        parts = [run(pixels[i : i + stitching.BATCH_SIZE]) for i in starts]
        return np.concatenate([tf.nest.flatten(part)[0].numpy() for part in parts])


def _labels(
    samples: sources.Source, rows: np.ndarray, is_held_out: np.ndarray, about: card.Card
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is right for these rows, and the places to take scores on."""
    if not samples.annotations.is_known.any():
        return np.zeros(len(rows), int), np.zeros(0, int)
    try:
        y, _ = matched(judged_on.learnt_as(about, samples), about, samples.origin)
    except SourceError:
        return np.zeros(len(rows), int), np.zeros(0, int)
    known = samples.annotations.is_known[rows]
    held_out = known & is_held_out[rows]
    is_own = samples.origin == about.source
    return y[rows], np.flatnonzero(held_out if is_own and held_out.any() else known)


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    if len(rows) <= n:
        return rows
    places = np.linspace(0, len(rows) - 1, n).round().astype(int)
    return np.asarray(rows[places])


def _read(
    found: judged_on.Images, listing: Listing, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return those rows that can be read, and their images (n, height, width, 3) float32."""
    pixels, is_read = found.read(listing, rows, batch_size=stitching.BATCH_SIZE)
    return rows[is_read], pixels[is_read]
