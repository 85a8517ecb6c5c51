"""Does a model predict what it must? Compared on real images, for every task.

The whole model runs on the very images that the features came from. What it must give is a
question to the caller; nothing is built or saved here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import heads, store
from featcache.core import float32, progress
from featcache.core.errors import SourceError, StitchError
from featcache.core.spec import ExtractionSpec
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data.listing import Listing
from featcache.models import judged_on

if TYPE_CHECKING:
    import keras

MAX_PARITY_IMAGES = 2000
# Largest difference allowed, relative to the scale of the values: of the whole model, whose
# backbone Keras runs, from features that another runtime may have computed. Those stored in half
# precision carry a relative error of 5e-4 each, which the head adds up; those computed in lower
# precision are of another network, so to speak: the class must be the same, the values only near.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
BATCH_SIZE = 32
_STEPS = 8  # of float32, that rounding may cost a target: its layer adds up large and small


@dataclass(frozen=True)
class Parity:
    """Agreement of the whole model with the head on cached features."""

    n_images: int
    n_same_class: int  # or the same labels; or every target within the tolerance
    n_ties: int  # images whose class differs, but hangs on a value within the tolerance of zero
    largest_difference: float  # of values, relative to their scale
    tolerance: float  # of it
    layer: str  # where values were compared; x+y are two of them side by side
    n_left_out: int  # cached images that are gone or have changed since
    task: str = DEFAULT_TASK

    @property
    def holds(self) -> bool:
        """Same class for every image, and every value within tolerance."""
        same = self.n_same_class + self.n_ties == self.n_images
        return same and self.largest_difference <= self.tolerance

    def __str__(self) -> str:
        ties = f" and {self.n_ties} tie(s) within tolerance" if self.n_ties else ""
        left_out = f"; {self.n_left_out} changed or missing left out" if self.n_left_out else ""
        return (
            f"same {TASKS[self.task].answer} for {self.n_same_class}{ties} of {self.n_images} "
            f"images, largest difference {self.largest_difference:.1e} (tolerance "
            f"{self.tolerance:.1e}){left_out}"
        )


@dataclass(frozen=True)
class Expected:
    """What a model must give for some rows."""

    values: np.ndarray  # (m, k) of the layer where values are compared
    outputs: np.ndarray  # (m, n_outputs)
    is_tie: Callable[[float], np.ndarray]  # tolerance -> (m,) bool: what is said hangs on less
    scale: np.ndarray | None = None  # (k,) or (1,), of the values; None is as `compare` says


def measure(
    model: keras.Model,
    layer: str,
    features: store.Features,
    expected: Callable[[np.ndarray], Expected],
    *,
    task: str,
    output: str,
    tolerance: float,
    source: Any = None,
    show_progress: bool = True,
) -> Parity:
    """Compare the whole model on unchanged images with what it must give.

    Every cached image is used where there are at most 2,000, else 2,000 spread over them.

    Parameters
    ----------
    layer : name of the layer of `model` where values are compared, x+y of two.
    features : of the images that the model runs on.
    expected : says of rows (m,) of `features` what the layer and the output must give.
    task : classification, multi-label or regression.
    output : probabilities, scores or values; what the outputs are.
    tolerance : largest difference relative to the scale of the values, see `compare`.
    source : where the images are now; None is where they were extracted from.

    Raises
    ------
    StitchError
        When none of the cached images is there unchanged.
    SourceError
        When the images are no longer where they were.
    """
    wanted = np.arange(len(features))
    if len(wanted) > MAX_PARITY_IMAGES:
        wanted = np.linspace(0, len(wanted) - 1, MAX_PARITY_IMAGES).round().astype(int)
    images, listing, rows_of = unchanged(features, wanted, source)
    done, values, outputs = _run(model, layer, images, listing, show_progress)
    return _judged(
        expected(rows_of[done]),
        values,
        outputs,
        task=task,
        output=output,
        tolerance=tolerance,
        layer=layer,
        n_left_out=len(wanted) - len(done),
    )


def check_parity(
    model: keras.Model,
    head: heads.Head,
    features: store.Features,
    source: Any = None,
    show_progress: bool = True,
) -> Parity:
    """Compare the whole model on images with a head on cached features, as `measure` does."""

    def expected(rows: np.ndarray) -> Expected:
        X = features.read_rows(rows)
        ties = functools.partial(head.hangs_on_a_tie, X)
        values, outputs = head.parity_values(X), head.outputs(X)
        if head.target_kind is TargetKind.NUMBERS:
            return Expected(values, outputs, ties)
        return Expected(values, outputs, ties, head.parity_scale(values))

    return measure(
        model,
        head.parity_layer,
        features,
        expected,
        task=head.task,
        output=head.output,
        tolerance=tolerance_of(features.spec),
        source=source,
        show_progress=show_progress,
    )


def compare(
    expected: np.ndarray, got: np.ndarray, *, task: str, output: str, tolerance: float
) -> Parity:
    """Compare outputs (m, n_outputs) with those they must be.

    Same is an image of the same class; of the same labels; or, of targets, one whose every value
    is within the tolerance. Classes and labels may differ where what is said hangs on a difference
    within the tolerance. That is relative to the largest value, at least 1; of targets to each
    one's standard deviation over the images, and never less than eight steps of float32 at its
    largest value, which rounding may cost.
    """
    ties = functools.partial(TASKS[task].close_calls, expected, output)
    return _judged(
        Expected(expected, expected, ties),
        got,
        got,
        task=task,
        output=output,
        tolerance=tolerance,
        layer=output,
        n_left_out=0,
    )


def tolerance_of(spec: ExtractionSpec) -> float:
    """Return the relative difference that the precision of the features allows."""
    return max(TOLERANCE[spec.dtype], TOLERANCE[spec.precision])


def _judged(
    expected: Expected,
    values: np.ndarray,
    outputs: np.ndarray,
    *,
    task: str,
    output: str,
    tolerance: float,
    layer: str,
    n_left_out: int,
) -> Parity:
    of_targets = TASKS[task].kind is TargetKind.NUMBERS
    scale = expected.scale
    if scale is None:
        scale = _scale(expected.values, of_targets and layer == output, tolerance)
    if of_targets:
        scale_of_each = _scale(expected.outputs, of_targets, tolerance)
        difference = np.abs(expected.outputs - outputs) / scale_of_each
        same = (difference <= tolerance).all(axis=1)
    else:
        said = TASKS[task].said
        differs = said(expected.outputs, output) != said(outputs, output)
        same = ~differs.reshape(len(outputs), -1).any(axis=1)
    return Parity(
        n_images=len(outputs),
        n_same_class=int(same.sum()),
        n_ties=int((~same & expected.is_tie(tolerance * float(scale.max()))).sum()),
        largest_difference=float((np.abs(expected.values - values) / scale).max()),
        tolerance=tolerance,
        layer=layer,
        n_left_out=n_left_out,
        task=task,
    )


def _scale(values: np.ndarray, of_targets: bool, tolerance: float) -> np.ndarray:
    """Return what differences are relative to, as `compare` says: (k,) of targets, else (1,)."""
    if not of_targets:
        return np.array([max(1.0, float(np.abs(values).max()))])
    rounding = _STEPS * float32.step_at(np.abs(values).max(axis=0))
    return np.asarray(np.maximum(values.std(axis=0), rounding / tolerance))


def _run(
    model: keras.Model,
    layer: str,
    images: judged_on.Images,
    listing: Listing,
    show_progress: bool,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return which samples could be read, and for them the layer's values and the outputs."""
    keras = import_keras()
    ends = [model.get_layer(name).output for name in layer.split("+")]
    values = keras.ops.concatenate(ends, axis=-1) if len(ends) > 1 else ends[0]
    probe = keras.Model(model.inputs[0], [values, model.outputs[0]])
    tf = import_tensorflow()
    # Keras's own predict would compile with XLA, which is slow on CPUs; with the signature a last
    # batch of fewer images is not traced again
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
    run = tf.function(lambda batch: probe(batch, training=False), signature)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    failures: dict[int, str] = {}
    with progress.bar("Parity", len(images), "images", show_progress) as advance:
        for numbers, batch in images.batches(
            listing, range(len(images)), batch_size=BATCH_SIZE, failures=failures
        ):
            parts = (part.numpy() for part in run(batch))
            found.update(zip(numbers.tolist(), zip(*parts, strict=True), strict=True))
            advance(len(numbers))
    if not found:
        raise StitchError(
            f"None of the cached images is in '{images.samples.origin}' unchanged, so the stitched "
            f"model cannot be checked. Give the folder they were extracted from (--source), or "
            f"extract again."
        )
    done = sorted(found)
    values, outputs = (np.stack(part) for part in zip(*(found[one] for one in done), strict=True))
    return done, values, outputs


def unchanged(
    features: store.Features, wanted: np.ndarray, source: Any
) -> tuple[judged_on.Images, Listing, np.ndarray]:
    """Return which images of rows are still the cached ones, their scan, and their rows."""
    origin = features.provenance["source"]
    try:
        images = judged_on.open_of_features(features, source)
    except SourceError as error:
        if source is not None:
            raise
        raise SourceError(
            f"The images are no longer where they were extracted from, '{origin}'; the stitched "
            f"model is checked on them. Give their folder (--source)."
        ) from error
    place = {id_: row for row, id_ in enumerate(images.samples.ids)}
    there = [row for row in wanted.tolist() if features.ids[row] in place]
    images = images.take(np.array([place[features.ids[row]] for row in there], int))
    listing = images.listed()
    same = np.flatnonzero((listing.digests == features.digests[there]).all(axis=1))
    return images.take(same), listing.take(same), np.array(there, int)[same]
