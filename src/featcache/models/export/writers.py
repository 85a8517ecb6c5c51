"""Write a Keras model in another format. Whether the file gives the same is asked elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import disk, process
from featcache.core.checks import bad
from featcache.core.errors import SpecError, StitchError, one_line
from featcache.core.spec import ExtractionSpec
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data import image_ops
from featcache.models import card
from featcache.models.export import onnx_file
from featcache.networks import engines

if TYPE_CHECKING:
    import keras

# what is written into a folder, by its path there: whatever else it holds is somebody's own
_OURS = {
    "saved-model": re.compile(r"(saved_model|fingerprint)\.pb|variables/variables\..*"),
    "openvino": re.compile(r"model\.(xml|bin)"),
}
Write = Callable[["keras.Model", card.Card, Path, np.ndarray], None]


@dataclass(frozen=True)
class Format:
    """One way to write a model."""

    suffix: str  # of its file or folder, after the model's stem
    kind: str  # which of `runners` runs it
    write: Write  # model, card, path, representative images (n, height, width, 3) float32
    needs: tuple[str, ...]  # modules, of the extra `export` unless it is openvino
    tolerance: float  # relative difference up to which values count as the same
    least_agreement: float = 1.0
    quantised: bool = False  # to 8 bits: no tolerance excuses another class

    @property
    def ending(self) -> str:
        """What the name of its file ends in."""
        return Path(f"x{self.suffix}").suffix

    def is_ours(self, path: Path) -> bool:
        """Return whether an export of this kind has such a path in its folder."""
        return _OURS[self.kind].fullmatch(path.as_posix()) is not None


def saved_model(model: keras.Model, about: card.Card, path: Path, _: np.ndarray) -> None:
    """Write a SavedModel with signatures for image batches and for encoded files.

    `serving_default` takes `images` (n, height, width, 3) float32, `serve_bytes` takes `encoded`
    (n,) strings: JPEG, PNG, GIF or BMP files. Both give `scores` (n, n_outputs) float32 and
    `labels`: (n,) the class; of several labels (n, n_outputs), the name or "" where it does not
    apply; of regression the targets' names.
    """
    keras, tf = import_keras(), import_tensorflow()
    names = tf.constant(about.class_names)

    def answer(batch: Any) -> dict[str, Any]:
        scores, *others = tf.nest.flatten(model(batch, training=False))
        beside = dict(zip(_others(model), others, strict=True))
        return {"labels": labels(scores, names, about), "scores": scores} | beside

    def answer_bytes(encoded: Any) -> dict[str, Any]:
        shape = tf.TensorSpec((*about.spec.image_size, 3), tf.float32)
        load = decoder(about.spec)
        return answer(tf.map_fn(load, encoded, fn_output_signature=shape))

    # `track(model)` would store every weight twice (Keras 3.15, its issue 23553)
    archive = keras.export.ExportArchive()
    image = tf.TensorSpec((None, *about.spec.image_size, 3), tf.float32, name="images")
    archive.add_endpoint("serve", answer, input_signature=[image])
    encoded = tf.TensorSpec((None,), tf.string, name="encoded")
    archive.add_endpoint("serve_bytes", answer_bytes, input_signature=[encoded])
    archive.write_out(os.fspath(path), verbose=False)


def labels(scores: Any, names: Any, about: card.Card) -> Any:
    """Return as strings what scores (n, n_outputs) say, as `saved_model` says."""
    tf = import_tensorflow()
    task = TASKS[about.task]
    if task.kind is TargetKind.CLASS:
        return tf.gather(names, tf.argmax(scores, axis=1))
    every = tf.broadcast_to(names, tf.shape(scores))
    if task.kind is TargetKind.NUMBERS:
        return every
    return tf.where(scores >= task.threshold(about.output), every, "")


def decoder(spec: ExtractionSpec) -> Callable[[Any], Any]:
    """Return a TensorFlow function from an encoded file to an image at the spec's size.

    As `images` does for upright opaque files. Orientation in EXIF is not looked at. Transparent
    pixels are put on the spec's background.
    """
    tf = import_tensorflow()
    spec = image_ops.by_tensorflow(spec)
    red_green_blue = [int(spec.background[i : i + 2], 16) for i in (1, 3, 5)]
    background = np.array(red_green_blue, np.float32)

    def opaque(image: Any) -> Any:
        image = tf.cast(image, tf.float32)
        channels = tf.shape(image)[-1]
        has_alpha = tf.equal(channels % 2, 0)
        alpha = tf.where(has_alpha, image[..., -1:] / 255.0, 1.0)
        colour = image[..., : channels - tf.cast(has_alpha, tf.int32)]
        colour = tf.broadcast_to(colour, tf.concat([tf.shape(image)[:2], [3]], 0))
        return tf.round(colour * alpha + background * (1.0 - alpha))

    def load(data: Any) -> Any:
        image = tf.cond(
            tf.image.is_jpeg(data),
            lambda: tf.cast(image_ops.decode(data, spec), tf.float32),
            lambda: opaque(tf.io.decode_image(data, expand_animations=False)),
        )
        image = tf.ensure_shape(image, (None, None, 3))
        return image_ops.resize(image, spec.geometry)

    return load


def onnx(model: keras.Model, about: card.Card, path: Path, _: np.ndarray) -> None:
    """Write ONNX: `images` of any number to `scores`."""
    onnx_file.onnx_alone(model, path, ["scores", *_others(model)])


def _others(model: keras.Model) -> list[str]:
    """Return what a model gives beside scores, by the names of its last layers: heat maps."""
    return [one._keras_history.operation.name for one in model.outputs[1:]]


def tflite(quantisation: str) -> Write:
    """Return a function that writes TFLite in float32, float16 weights, or 8-bit integers."""

    def write(model: keras.Model, about: card.Card, path: Path, some: np.ndarray) -> None:
        tf = import_tensorflow()
        graph = engines.constant_graph(model)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], model)
        if quantisation != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantisation == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantisation == "int8":
            converter.representative_dataset = lambda: ([image[None]] for image in some)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        path.write_bytes(converter.convert())

    return write


def openvino(model: keras.Model, about: card.Card, path: Path, _: np.ndarray) -> None:
    """Write OpenVINO's pair of files into a folder."""
    path.mkdir()
    engines.write_openvino(model, path / "model.xml")


FORMATS = {
    "saved-model": Format(".saved-model", "saved-model", saved_model, (), 1e-4),
    "onnx": Format(".onnx", "onnx", onnx, ("onnx", "tf2onnx", "onnxruntime"), 1e-3),
    "tflite": Format(".tflite", "tflite", tflite("float32"), ("ai_edge_litert",), 1e-3),
    "tflite-float16": Format(
        "-float16.tflite", "tflite", tflite("float16"), ("ai_edge_litert",), 5e-3
    ),
    "tflite-int8": Format(
        "-int8.tflite", "tflite", tflite("int8"), ("ai_edge_litert",), 5e-2, 0.98, True
    ),
    "openvino": Format(".openvino", "openvino", openvino, ("openvino",), 1e-3),
}


def check(name: str) -> Format:
    """Return a format.

    Raises
    ------
    SpecError
        When there is none of that name, or what it needs is not installed.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise bad("format", f"be one of {', '.join(FORMATS)}, or all", name)
    for module in FORMATS[name].needs:
        if importlib.util.find_spec(module) is None:
            extra = "cpu" if module == "openvino" else "export"
            raise SpecError(
                f"format {name} needs {module}, which is not installed. Run `pip install "
                f"'featcache[{extra}]'`."
            )
    return FORMATS[name]


def write(name: str, model: keras.Model, about: card.Card, path: Path, some: np.ndarray) -> None:
    """Write a model in a format.

    Raises
    ------
    StitchError
        When the converter cannot write this model; it says why.
    """
    caught = process.Caught()
    try:
        # they warn of the future of what they use
        with process.stderr_caught() as caught, process.ignored():
            FORMATS[name].write(model, about, path, some)
    # converters raise kinds of their own
    except Exception as error:
        if isinstance(error, OSError) or disk.cause(error, path) is not None:
            raise  # the disk's fault, not the model's
        said = caught.said.decode("utf-8", "replace").strip()[-500:]
        text = one_line(str(error) or said or type(error).__name__, 200)
        raise StitchError(
            f"The model cannot be written as {name}: {text}. Export it in another format, or "
            f"stitch another head."
        ) from error
