"""OpenVINO on the CPU: two or more streams, an asynchronous queue, converted models kept on disk.

Each stream takes a few images at a time, so that what it works on stays in its core's cache: with
two images a request float32 was a fifth faster than with 32 (docs/decisions/threads.md).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import atomic, disk
from featcache.core.versions import version
from featcache.networks.engines.base import Compiled, ConversionCache, Images, Outputs, padded

if TYPE_CHECKING:
    import keras

# What OpenVINO calls a precision, what a CPU that has it says, and images a request.
PRECISIONS = {
    "float32": ("f32", "FP32", 2),
    "bfloat16": ("bf16", "BF16", 4),
    "float16": ("f16", "FP16", 4),
}
MODEL, DIGEST = "model.xml", "digest"
MODEL_FILES = (MODEL, "model.bin", DIGEST)  # of the folder of a kept model


def can_compute(precision: str) -> bool:
    """Return whether this CPU has a precision; OpenVINO would silently take another one."""
    _, capability, _ = PRECISIONS[precision]
    return capability in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_model(model: keras.Model, precision: str, kept: ConversionCache | None) -> Compiled:
    """Return a model compiled for this CPU, converted only if it is not among the kept ones."""
    return OpenVINO(_kept_or_converted(model, kept), precision)


def write(model: keras.Model, path: Path) -> None:
    """Write a converted model, in float32, to an .xml file and the .bin file beside it."""
    import openvino

    openvino.save_model(_converted(model), path, compress_to_fp16=False)


class OpenVINO(Compiled):
    """A network whose requests of a few images are spread over the streams."""

    name = "openvino"

    def __init__(self, network: Any, precision: str):
        hint, _, self._size = PRECISIONS[precision]
        core = _core()
        network.reshape([self._size, *list(network.input().partial_shape)[1:]])
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": hint,  # its own default is bfloat16 where the CPU has it
            "ENABLE_CPU_PINNING": False,  # decoding shares the cores, and must get round a stream
        }
        compiled = core.compile_model(network, "CPU", options)
        if compiled.get_property("NUM_STREAMS") < 2:
            compiled = core.compile_model(network, "CPU", options | {"NUM_STREAMS": 2})
        streams = compiled.get_property("NUM_STREAMS")
        self.where = f"CPU, {streams} streams"
        # twice as many requests as streams, so that none waits for Python
        self._idle = [compiled.create_infer_request() for _ in range(2 * streams)]
        # as TensorFlow names what a function returns; OpenVINO promises no order
        names = ["Identity:0", *(f"Identity_{i}:0" for i in range(1, len(compiled.outputs)))]
        self._outputs = [compiled.output(name) for name in names]
        self._busy: deque[_Request] = deque()
        self._queueing = threading.Lock()  # threads may share a model

    def start(self, images: Images) -> Callable[[], Outputs]:
        batch = np.asarray(images, np.float32)
        outputs: list[np.ndarray] = []
        mine = []
        with self._queueing:
            for first in range(0, len(batch), self._size):
                part = batch[first : first + self._size]
                mine.append(self._request(part, first, len(batch), outputs))

        def finish() -> Outputs:
            with self._queueing:
                while not mine[-1].is_done:
                    self._finish_oldest()
            return tuple(outputs)

        return finish

    def _request(self, part: np.ndarray, first: int, n: int, outputs: list[np.ndarray]) -> _Request:
        if not self._idle:
            self._finish_oldest()
        place = _Place(first, len(part), n, outputs)
        request = _Request(self._idle.pop(), self._outputs, part, self._size, place)
        self._busy.append(request)
        return request

    def _finish_oldest(self) -> None:
        self._idle.append(self._busy.popleft().finish())


@dataclass
class _Place:
    """Where the outputs of a request belong."""

    first: int  # row of the batch
    n_images: int
    batch_size: int
    outputs: list[np.ndarray]  # of the batch; empty until its first request is done

    def put(self, parts: list[np.ndarray]) -> None:
        if not self.outputs:
            shapes = [(self.batch_size, *part.shape[1:]) for part in parts]
            self.outputs += [np.empty(shape, np.float32) for shape in shapes]
        for output, part in zip(self.outputs, parts, strict=True):
            output[self.first : self.first + self.n_images] = part[: self.n_images]


class _Request:
    """A few images on their way through a stream."""

    def __init__(self, request: Any, ports: Any, part: np.ndarray, size: int, place: _Place):
        from openvino import Tensor, Type

        self.is_done = False
        self._request, self._ports, self._place = request, ports, place
        # the images are read where they lie, so they are held until the request is done; that their
        # memory may not be written to, as TensorFlow's may not, matters to `shared_memory` alone
        self._images = np.ascontiguousarray(padded(part, size))
        there = Tensor(self._images, self._images.shape, Type.f32)
        request.start_async([there], share_inputs=True)

    def finish(self) -> Any:
        """Wait, copy the outputs to where they belong, and give the request back."""
        self._request.wait()
        self._place.put([self._request.get_tensor(port).data for port in self._ports])
        self.is_done = True
        return self._request


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _kept_or_converted(model: keras.Model, kept: ConversionCache | None) -> Any:
    if kept is None:
        return _converted(model)
    folder = _folder(kept)
    with suppress(OSError, RuntimeError):
        if (folder / DIGEST).read_bytes() == _digest(folder):
            return _core().read_model(folder / MODEL)
    network = _converted(model)
    # a full or read-only disk costs the conversion next time, no more; OpenVINO raises RuntimeError
    with suppress(OSError, RuntimeError):
        _keep(network, folder)
    return network


def _folder(kept: ConversionCache) -> Path:
    versions = {name: version(name) for name in ("featcache", "openvino", "keras")}
    graph = json.dumps(kept.graph | versions, sort_keys=True)
    name = hashlib.blake2b(graph.encode(), digest_size=8).hexdigest()
    return kept.folder / kept.weights / name


def _keep(network: Any, folder: Path) -> None:
    """Write a converted model; its folder appears whole or not at all."""
    import openvino

    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(folder) as made:
        made.mkdir()
        openvino.save_model(network, made / MODEL, compress_to_fp16=False)
        (made / DIGEST).write_bytes(_digest(made))


def _digest(folder: Path) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for suffix in (".xml", ".bin"):
        total.update((folder / MODEL).with_suffix(suffix).read_bytes())
    return total.hexdigest().encode()


def _converted(model: keras.Model) -> Any:
    """Convert by way of a frozen TensorFlow graph, which OpenVINO reads by itself.

    Its Python converter is not used: it would report to its makers over the network.
    """
    from featcache.networks.engines.tensorflow import constant_graph

    with disk.scratch() as folder:
        path = folder / "frozen.pb"
        path.write_bytes(constant_graph(model).graph.as_graph_def().SerializeToString())
        return _core().read_model(path)
