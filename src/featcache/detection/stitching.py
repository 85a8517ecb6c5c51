"""Backbone, head and suppression as one Keras model, checked on the images it came from.

Images in, boxes out, in pixels of the image that it is given. Stock Keras layers and operations
alone, so that `keras.models.load_model` opens it where featcache is not installed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.checks import bad, with_checked_arguments
from featcache.core.errors import StitchError
from featcache.core.keys import digest_file
from featcache.core.tasks import PROBABILITIES, TargetKind, first_of
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data import splits
from featcache.detection import detector
from featcache.detection.detector import Detector
from featcache.detection.maps import Maps, opened, parts_of
from featcache.detection.matching import HALF_A_PIXEL, LEAST_SHARE, n_same
from featcache.detection.network import CENTRES, CLASSES, CORNERS
from featcache.detection.suppression import COUNT, LEAST_SCORE, detections
from featcache.models import card, judged_on, stitching

if TYPE_CHECKING:
    import keras

HEAD = "detector"  # what a card calls it
MAX_IMAGES = 500  # that are compared, spread over those of the features


@dataclass(frozen=True)
class Parity:
    """Agreement of the whole model on images with the head on cached maps."""

    n_images: int
    largest_corner_px: float  # difference of a cell's box, of cells that say something is there
    largest_score: float  # difference of what a cell gives a class
    tolerance: float  # of the scores
    n_boxes: int  # that the head finds
    n_same: int  # of them, that the model finds as well: same class, half a pixel apart at most
    n_left_out: int  # cached images that are gone or have changed since

    @property
    def holds(self) -> bool:
        """Every cell says the same, and so do the boxes but for ties."""
        cells = self.largest_corner_px <= HALF_A_PIXEL and self.largest_score <= self.tolerance
        return cells and self.n_same >= LEAST_SHARE * self.n_boxes

    def __str__(self) -> str:
        left_out = f"; {self.n_left_out} changed or missing left out" if self.n_left_out else ""
        return (
            f"same {self.n_same} of {self.n_boxes} boxes on {self.n_images} images; cells differ "
            f"by {self.largest_corner_px:.1e} pixels (allowed {HALF_A_PIXEL}) and "
            f"{self.largest_score:.1e} in score (allowed {self.tolerance:.0e}){left_out}"
        )


@with_checked_arguments
def stitch_detector(
    fitted: Detector,
    out: str | os.PathLike[str] | None = None,
    *,
    source: Any = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> keras.Model:
    """Return one Keras model, images in, boxes out, after its parity check.

    Its outputs are those of `suppression.detections`.

    Parameters
    ----------
    fitted : what `fit_detector` gave.
    out : .keras file to save it in, with its card and labels beside it; None saves nothing.
    source : the images the features were made from, as `open_source` takes them; None is where
        they were then.
    overwrite : replace also a file that was changed since it was stitched.

    Raises
    ------
    SpecError
        When `out` is no place for a model.
    HeadError, StitchError
        When the features have changed, the backbone is no longer theirs, the model does not find
        what the head finds, or the images are gone.
    """
    if not isinstance(fitted, Detector):
        raise bad("fitted", "be what fit_detector gave", fitted)
    if out is not None:
        stitching.check_out(Path(out), overwrite)
    maps = opened(fitted.opened())
    head = fitted.head
    model, probe = _built(head, maps, fitted)
    used = None
    if source is not None:
        used = judged_on.open_of_features(maps.files[0], source).samples
    parity = _parity(probe, head, maps, fitted, used, show_progress)
    if not parity.holds:
        raise StitchError(
            f"The stitched model does not find what the head does on the cached maps: {parity}. No "
            f"file was written; extract again with these library versions."
        )
    if out is not None:
        described = _card(fitted, maps.files[0], parity, model, used)
        stitching.save(model, Path(out), described)
    return model


def read_if_same(fitted: Detector, out: Path) -> card.Card | None:
    """Return the card of a model that was stitched from this detector and not touched since."""
    try:
        known = card.read(out)
    except StitchError:
        return None
    is_same = (
        known.head == HEAD
        and known.head_digest == digest_file(fitted.folder / detector.FILE)
        and known.model_digest == digest_file(out)
    )
    return known if is_same else None


def _built(head: keras.Model, maps: Maps, fitted: Detector) -> tuple[keras.Model, keras.Model]:
    """Return the whole model, and one that gives what the head says as well."""
    keras = import_keras()
    extractor = stitching.extractor_of(*maps.files)
    said = head(extractor.outputs)
    found = detections(said, maps.spec.image_size, fitted.settings)
    name = f"{stitching.word(maps.spec.backbone)}_{HEAD}"
    inputs = extractor.inputs[0]
    return keras.Model(inputs, found, name=name), keras.Model(inputs, {**said, **found})


def _parity(
    probe: keras.Model,
    head: keras.Model,
    maps: Maps,
    fitted: Detector,
    source: Any,
    show_progress: bool,
) -> Parity:
    keras, tf = import_keras(), import_tensorflow()
    n = len(maps.files[0])
    wanted = np.linspace(0, n - 1, min(n, MAX_IMAGES)).round().astype(int)
    images, listing, rows = stitching.unchanged(maps.files[0], wanted, source)
    found = detections(head.output, maps.spec.image_size, fitted.settings)
    alone = keras.Model(head.inputs, {**head.output, **found})
    whole = tf.function(lambda batch: probe(batch, training=False), reduce_retracing=True)
    of_maps = tf.function(lambda some: alone(some, training=False), reduce_retracing=True)
    corner = score = 0.0
    n_images = n_boxes = n_kept = 0
    failures: dict[int, str] = {}
    with progress.bar("Parity", len(images), "images", show_progress) as advance:
        for numbers, batch in images.batches(
            listing, range(len(images)), batch_size=stitching.BATCH_SIZE, failures=failures
        ):
            got = {name: part.numpy() for name, part in whole(batch).items()}
            expected = {
                name: part.numpy() for name, part in of_maps(maps.read(rows[numbers])).items()
            }
            chances, others = _chances(got), _chances(expected)
            says = others.max(axis=-1) >= LEAST_SCORE
            apart = np.abs(got[CORNERS] - expected[CORNERS])[says]
            corner = max(corner, float(apart.max(initial=0)))
            score = max(score, float(np.abs(chances - others).max()))
            n_boxes += int(expected[COUNT].sum())
            n_kept += sum(n_same(expected, got, place) for place in range(len(numbers)))
            n_images += len(numbers)
            advance(len(numbers))
    if not n_images:
        raise StitchError(
            f"None of the cached images is in '{images.samples.origin}' unchanged, so the stitched "
            f"model cannot be checked. Give the folder they were extracted from (--source), or "
            f"extract again."
        )
    tolerance = stitching.tolerance_of(maps.spec)
    return Parity(n_images, corner, score, tolerance, n_boxes, n_kept, len(wanted) - n_images)


def _chances(said: dict[str, np.ndarray]) -> np.ndarray:
    """Return (n, rows, columns, classes): what each cell gives each class."""
    logits = said[CLASSES]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    middle = 1 / (1 + np.exp(-said[CENTRES]))
    return np.asarray(middle[..., None] * odds / odds.sum(axis=-1, keepdims=True))


def _card(
    fitted: Detector, features: store.Features, parity: Parity, model: keras.Model, used: Any
) -> card.Card:
    parts = parts_of(features, fitted.settings.seed)
    taught = np.concatenate([parts["train"], parts["val"]])
    keras = import_keras()
    backbone, head = (one for one in model.layers if isinstance(one, keras.Model))
    size = stitching.ModelSize(
        backbone_layers=len(backbone.layers),
        backbone_parameters=stitching.n_parameters(backbone.weights),
        head_parameters=stitching.n_parameters(
            weight
            for layer in head.layers
            if not isinstance(layer, keras.layers.Normalization)
            for weight in layer.weights
        ),
    )
    return card.Card(
        class_names=fitted.class_names,
        output=PROBABILITIES,
        spec=features.spec,
        head=HEAD,
        params={
            "layers": [store.Features(path).spec.layer for path in fitted.features],
            "min_score": fitted.min_score,
            "settings": fitted.settings.to_dict(),
        },
        source=used.origin if used else features.provenance["source"],
        source_options=dict(used.options) if used else features.provenance["source_options"],
        seed=fitted.settings.seed,
        test_accuracy=None,
        parity=asdict(parity),
        size=asdict(size),
        head_digest=digest_file(fitted.folder / detector.FILE),
        task=first_of(TargetKind.BOXES).name,
        test=fitted.test.scores(),
        provenance=card.versions()
        | {
            "weights": features.provenance["weights"],
            "taught": splits.taught(features.digests[taught]),
        },
        max_pixels=judged_on.max_pixels_of(features),
    )
