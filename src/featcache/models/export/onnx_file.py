"""A Keras model as an ONNX file, from its frozen graph; what the converter gets wrong is mended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_tensorflow
from featcache.networks import engines

if TYPE_CHECKING:
    import keras

OPSET = 17  # of ONNX: runtimes from 2022 on read it


def onnx_alone(model: keras.Model, path: Path, outputs: Sequence[str]) -> None:
    """Write ONNX: `images` of any number to outputs of these names, in the model's order.

    From the frozen graph: Keras's own export leaves what Normalization layers hold as inputs.
    """
    import tf2onnx

    with _functions_inlined():
        graph = engines.constant_graph(model)
    first = graph.inputs[0].name
    last = [one.name for one in graph.outputs]
    names = {first: "images", **dict(zip(last, outputs, strict=True))}
    written, _ = tf2onnx.convert.from_graph_def(
        _without_erfc(graph.graph.as_graph_def()),
        input_names=[first],
        output_names=last,
        opset=OPSET,
    )
    for value in (*written.graph.input, *written.graph.output):
        value.name = names.get(value.name, value.name)
    for node in written.graph.node:
        for slots in (node.input, node.output):
            slots[:] = [names.get(name, name) for name in slots]
    _keep_sizes(written.graph)
    path.write_bytes(written.SerializeToString())


def _keep_sizes(graph: Any) -> None:
    """Have resized maps as large as TensorFlow makes them.

    The converter writes scales in float32, and 7 times 15/7 may be 14 then: ONNX rounds down.
    """
    from onnx import numpy_helper

    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    for one in graph.initializer:
        if one.name in scales:
            values = numpy_helper.to_array(one)
            up = np.where(values == np.round(values), values, np.nextafter(values, np.inf))
            one.CopyFrom(numpy_helper.from_array(up.astype(values.dtype), one.name))


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Have what Keras compiles by XLA, convolutions in groups, traced as plain operations.

    ONNX has no call of a function, and the converter writes one nevertheless.
    """
    config = import_tensorflow().config
    before = config.functions_run_eagerly()
    config.run_functions_eagerly(True)  # a graph that is being traced gets what they do
    try:
        yield
    finally:
        config.run_functions_eagerly(before)


def _without_erfc(graph: Any) -> Any:
    """Return a graph definition in which 1 - erf(x) stands for erfc(x), which ONNX has not.

    TensorFlow's exact GELU is made of it.
    """
    made = type(graph)()
    made.CopyFrom(graph)
    del made.node[:]
    for node in graph.node:
        new = made.node.add()
        new.CopyFrom(node)
        if node.op != "Erfc":
            continue
        new.op, new.name = "Erf", f"{node.name}/erf"
        one = made.node.add(op="Const", name=f"{node.name}/one")
        one.attr["dtype"].CopyFrom(node.attr["T"])
        value = import_tensorflow().make_tensor_proto(1.0, node.attr["T"].type)
        one.attr["value"].tensor.CopyFrom(value)
        rest = made.node.add(op="Sub", name=node.name, input=[one.name, new.name])
        rest.attr["T"].CopyFrom(node.attr["T"])
    return made
