"""Images to classes and scores with a stitched model."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import card, images, progress, quiet, sources, weights_memo
from featcache import runtime as compilation
from featcache.errors import SourceError, SpecError, StitchError

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    path: str
    classes: tuple[str, ...]  # best first, as many as asked for; empty if unreadable
    scores: tuple[float, ...]  # of the same classes: probabilities or scores, as the card says
    error: str = ""  # why the image could not be read

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain JSON types."""
        return {
            "path": self.path,
            "classes": list(self.classes),
            "scores": list(self.scores),
            "error": self.error,
        }


class Model:
    """A stitched model with its card, for inference.

    Parameters
    ----------
    path : the .keras file; its card lies beside it.
    device : auto, cpu or gpu.
    runtime : auto, tensorflow or openvino.
    cache_dir : where a converted model is kept for the next time, if the folder is there.

    Raises
    ------
    StitchError
        When the model or its card is missing or damaged, or they do not belong together.
    SpecError
        When an option is wrong, or this machine has not what it asks for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "auto",
        runtime: str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        compilation.check_options(runtime, device, "float32")
        self.card = card.read(Path(path))
        self.keras_model = load_keras(Path(path), self.card)
        kept = None
        if cache_dir is not None and Path(cache_dir).is_dir() and self.card.model_digest:
            models = Path(cache_dir, compilation.MODELS_FOLDER)
            kept = compilation.Kept(models, self.card.model_digest, {"model": "stitched"})
        self._compiled = compilation.compile_frozen(
            self.keras_model, runtime=runtime, device=device, kept=kept, say=progress.note
        )
        self._is_checked = False

    def predict(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        top: int = 1,
        show_progress: bool = True,
    ) -> list[Prediction]:
        """Return one prediction an image, in the sorted order of their paths.

        Parameters
        ----------
        paths : image files and folders of them.
        top : number of classes to name, best first.

        Raises
        ------
        SourceError
            When a path does not exist, there are no images, or none can be read.
        """
        if top < 1:
            raise SpecError(f"top must be 1 or more; got {top}.")
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        samples = sources.from_files(given)
        scanned = sources.scan(samples, images.plain_orientation)
        failures = dict(scanned.unreadable)
        names = np.array(self.card.class_names, object)
        found: dict[int, Prediction] = {}
        readable = [row for row in range(len(samples)) if row not in failures]
        with progress.bar("Predicting", len(samples), "images", show_progress) as advance:
            batches = images.batches(
                samples,
                scanned,
                readable,
                spec=self.card.spec,
                batch_size=BATCH_SIZE,
                failures=failures,
            )
            ahead = self._compiled.ahead
            for rows, (outputs,) in compilation.in_order(batches, self._start, ahead):
                order = np.argsort(-outputs, axis=1, kind="stable")[:, :top]
                for row, best, output in zip(rows.tolist(), order, outputs, strict=True):
                    found[row] = Prediction(
                        samples.ids[row], tuple(names[best]), tuple(output[best].tolist())
                    )
                advance(len(rows))
        if not found:
            row, reason = next(iter(failures.items()))
            raise SourceError(
                f"None of the {len(samples)} images could be read; the first, "
                f"'{samples.ids[row]}': {reason}."
            )
        unreadable = {
            row: Prediction(samples.ids[row], (), (), why) for row, why in failures.items()
        }
        return [(found | unreadable)[row] for row in range(len(samples))]

    def _start(self, batch: np.ndarray) -> Callable[[], compilation.Outputs]:
        if not self._is_checked:
            self._compiled, _ = compilation.agree(
                self._compiled, self.keras_model, batch, "float32", progress.note
            )
            self._is_checked = True
        return self._compiled.start(batch)


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    runtime: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Return a stitched model, ready to predict; see `Model`."""
    return Model(path, device, runtime, cache_dir)


def load_keras(path: Path, described: card.Card) -> keras.Model:
    """Return the Keras model of a card.

    Raises
    ------
    StitchError
        When it does not load or is not the model that the card describes.
    """
    if described.model_digest and described.model_digest != weights_memo.digest_file(path):
        raise StitchError(
            f"Model '{path}' is not the file that its card '{card.path_of(path).name}' describes: "
            f"it was changed or replaced since. Stitch again, or put the right card beside it."
        )
    try:
        model: keras.Model = quiet.keras().models.load_model(path, compile=False)
    except Exception as error:  # load_model raises whatever zipfile, h5py or a layer raises
        reason = " ".join(str(error).split())[:200]
        raise StitchError(f"Model '{path}' cannot be loaded: {reason}") from error
    expected = (None, len(described.class_names))
    if model.input_shape[1:] != (*described.spec.image_size, 3) or model.output_shape != expected:
        raise StitchError(
            f"Model '{path}' and its card do not belong together: the card says images of "
            f"{described.spec.image_size} and {expected[1]} classes, the model takes "
            f"{model.input_shape[1:]} and gives {model.output_shape[1:]}."
        )
    return model


def write_csv(predictions: Sequence[Prediction], out: Path, top: int) -> None:
    """Write `path,class,score`, then `class_2,score_2` and so on up to `top`.

    An unreadable image keeps its line, with empty class and score.
    """
    columns = ["path", "class", "score"]
    for rank in range(2, top + 1):
        columns += [f"class_{rank}", f"score_{rank}"]
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for prediction in predictions:
                ranked = zip(prediction.classes, prediction.scores, strict=True)
                cells = [cell for name, score in ranked for cell in (name, f"{score:.6g}")]
                writer.writerow([prediction.path, *cells, *[""] * (len(columns) - 1 - len(cells))])
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
