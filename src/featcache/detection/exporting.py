"""A stitched detector as ONNX, suppression and all, run alone on images and compared."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import atomic, progress
from featcache.core.checks import whole_number, with_checked_arguments
from featcache.core.errors import SourceError, SpecError, StitchError
from featcache.core.tensorflow import import_keras
from featcache.detection.matching import LEAST_SHARE, Outputs, n_same
from featcache.detection.model import DetectorModel
from featcache.detection.suppression import BOXES, COUNT, SCORES
from featcache.models import judged_on
from featcache.models.export import comparing, writers
from featcache.models.export.onnx_file import onnx_alone

NAMES = (BOXES, "classes", SCORES, COUNT)  # of the outputs, in their order
MAX_IMAGES = 100  # to compare on


@dataclass(frozen=True)
class ExportedDetector:
    """A file, and how it agrees with the model."""

    path: Path
    n_images: int
    n_boxes: int  # that the model finds
    n_same: int  # of them that the file finds: same class, half a pixel apart at most
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self) | {"path": os.fspath(self.path), "format": "onnx"}

    def __str__(self) -> str:
        return (
            f"Wrote {self.path}, {self.size_bytes / 1e6:.1f} MB: alone it finds {self.n_same} of "
            f"the model's {self.n_boxes} boxes on {self.n_images} images."
        )


@with_checked_arguments
def export_detector(
    model: str | os.PathLike[str],
    *,
    source: Any = None,
    out: str | os.PathLike[str] | None = None,
    max_images: int = MAX_IMAGES,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ExportedDetector:
    """Write a stitched detector as ONNX, and return how the file agrees with it.

    It takes `images`, (n, height, width, 3) float32, and gives `boxes`, `classes`, `scores` and
    `count`, as the model does.

    Parameters
    ----------
    model : the .keras file; its card lies beside it.
    source : images to compare on, as `open_source` takes them; None is where the model's own came
        from.
    out : the file, ending in .onnx; None is beside the model.
    max_images : to compare on, at most, spread over the source.
    overwrite : replace a file that is there.

    Raises
    ------
    SpecError
        When `out` is no place for it, or what ONNX needs is not installed.
    StitchError
        When it cannot be written, or does not find the model's boxes; then there is no file.
    SourceError
        When there is no image to compare on.
    """
    how = writers.check("onnx")
    whole_number("max_images", max_images, 1)
    path = Path(model).with_suffix(how.suffix) if out is None else Path(out)
    if path.suffix != how.suffix or not path.parent.is_dir():
        raise SpecError(
            f"The file must end in {how.suffix}, in a folder that exists; got '{path}'."
        )
    if path.exists() and not overwrite:
        raise SpecError(f"'{path}' is there. Choose another --out, or replace it (--overwrite).")
    loaded = DetectorModel(model)
    pixels = _pixels(loaded, source, max_images)
    progress.note("Writing and running onnx.", show_progress)
    keras, whole = import_keras(), loaded.keras_model
    in_order = keras.Model(whole.inputs[0], [whole.output[name] for name in NAMES])
    with atomic.replacing(path, ending=how.suffix) as made:
        onnx_alone(in_order, made, NAMES)
        flat, _ = comparing.outputs_of("onnx", made, pixels)
        n, same = _compared(loaded.run(pixels), _parted(flat, whole))
        if same < LEAST_SHARE * n:
            raise StitchError(
                f"The export as onnx finds {same} of the model's {n} boxes on {len(pixels)} "
                f"images, expected {LEAST_SHARE:.0%}. There is no file; extract and stitch again "
                f"with these library versions."
            )
    return ExportedDetector(path, len(pixels), n, same, path.stat().st_size)


def _pixels(loaded: DetectorModel, source: Any, max_images: int) -> np.ndarray:
    images = judged_on.open_images(loaded.card, source).decoded_by_tensorflow()
    rows = np.linspace(0, len(images) - 1, min(len(images), max_images)).round().astype(int)
    some = images.take(np.unique(rows))
    pixels, is_read = some.read(some.listed(), np.arange(len(some)), batch_size=16)
    if not is_read.any():
        raise SourceError(
            f"None of the images of '{images.samples.origin}' could be read, so the export cannot "
            f"be compared with the model. Give others: `featcache export MODEL SOURCE`."
        )
    return np.asarray(pixels[is_read])


def _parted(flat: np.ndarray, model: Any) -> Outputs:
    """Return the outputs of a model by name, which `runners` put one behind the other."""
    shapes = [model.output[name].shape[1:] for name in NAMES]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(flat, ends[:-1], axis=1)
    return {
        name: part.reshape(len(flat), *shape)
        for name, part, shape in zip(NAMES, parts, shapes, strict=True)
    }


def _compared(expected: Outputs, got: Outputs) -> tuple[int, int]:
    places = range(len(expected[COUNT]))
    n = int(expected[COUNT].sum())
    return n, sum(n_same(expected, got, place) for place in places)
