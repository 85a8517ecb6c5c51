"""Run one exported file on images, in a process of its own, and write down what it gives.

    python -c "$(cat runners.py)" FORMAT FILE FOLDER

FOLDER has images.npy and files.json, paths of encoded images; of_images.npy and of_files.npy are
written into it. This stands alone and cannot import featcache: so it shows that the export needs
nothing of it, and a runtime that crashes takes this process along and no other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

BATCH_SIZE = 16
# images (n, height, width, 3) float32 to outputs; of a SavedModel also encoded images
Run = Callable[[Any], Any]


def saved_model(path: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def run(batch: Any) -> Any:
        signatures = loaded.signatures  # they do not hold the variables, `loaded` does
        if isinstance(batch, list):
            return signatures["serve_bytes"](encoded=tf.constant(batch))["scores"].numpy()
        return signatures["serving_default"](images=tf.constant(batch))["scores"].numpy()

    return run


def onnx(path: str) -> Run:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [one.name for one in session.get_outputs()]
    # beside scores (n, n_outputs) there may be a heat map; of boxes all, one behind the other
    wanted = outputs[:1] if outputs[0] == "scores" else outputs

    def run(batch: np.ndarray) -> np.ndarray:
        parts = session.run(wanted, {name: batch})
        flat = [part.reshape(len(batch), -1) for part in parts]
        return parts[0] if len(parts) == 1 else np.concatenate(flat, axis=1)

    return run


def tflite(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    image = interpreter.get_input_details()[0]
    # beside scores (n, n_outputs) there may be a heat map
    scores = next(one for one in interpreter.get_output_details() if len(one["shape"]) == 2)

    def run(batch: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(image["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], batch)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(scores["index"]))

    return run


def openvino(path: str) -> Run:
    import openvino as ov

    name = next(name for name in os.listdir(path) if name.endswith(".xml"))
    core = ov.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # its own default is bfloat16 where the CPU has it
    compiled = core.compile_model(core.read_model(os.path.join(path, name)), "CPU", hint)
    scores = next(one for one in compiled.outputs if len(one.partial_shape) == 2)
    return lambda batch: compiled(batch)[scores]


RUNNERS = {"saved-model": saved_model, "onnx": onnx, "tflite": tflite, "openvino": openvino}


def main(kind: str, path: str, place: str) -> None:
    sys.modules["featcache"] = None  # type: ignore[assignment]  # importing it is an error now
    run, folder = RUNNERS[kind](path), Path(place)
    images = np.load(folder / "images.npy", mmap_mode="r")
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))

    def in_batches(n: int, batch: Callable[[slice], Any]) -> np.ndarray:
        parts = [run(batch(slice(i, i + BATCH_SIZE))) for i in range(0, n, BATCH_SIZE)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)

    of_files = in_batches(
        len(files), lambda some: [Path(file).read_bytes() for file in files[some]]
    )
    np.save(folder / "of_files.npy", of_files)
    of_images = in_batches(len(images), lambda some: np.ascontiguousarray(images[some]))
    np.save(folder / "of_images.npy", of_images)


if __name__ == "__main__":
    main(*sys.argv[1:])
