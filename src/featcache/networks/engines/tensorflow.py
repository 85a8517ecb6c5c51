"""TensorFlow: variables frozen to constants, compiled by XLA on GPUs, several GPUs in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.core.text import counted
from featcache.networks.engines import programs
from featcache.networks.engines.base import Compiled, Images, Outputs, padded
from featcache.networks.weights import set_weights

if TYPE_CHECKING:
    import keras

Function = Callable[[Any], Any]  # of a batch tensor; gives a list of tensors

# On a GPU one batch travels while another is computed. On a CPU TensorFlow uses every core for one.
WORKERS = {"GPU": 2, "CPU": 1}


def compile_model(
    model: keras.Model,
    precision: str,
    devices: Sequence[str],
    use_xla: bool,
    say: Callable[[str], None] = lambda text: None,
) -> Compiled:
    """Return a model on these devices, which take batches in turn.

    `say` is told when a batch does not fit into memory and is computed in halves.
    """
    tf = import_tensorflow()
    if precision == "float32":
        # TF32, the default for convolutions on newer GPUs, is a precision of its own
        tf.config.experimental.enable_tensor_float_32_execution(False)
    model = in_precision(model, precision)
    constant = [constant_graph(model, device) for device in devices]
    without_xla = TensorFlow(constant, devices, say)
    if not use_xla:
        return without_xla
    return ByXla(constant, devices, say, without_xla)


def plain(model: keras.Model) -> Compiled:
    """Return a model as Keras runs it, for where everything else gives other numbers."""
    return TensorFlow([lambda images: _as_list(model(images, training=False))], ["/CPU:0"])


def constant_graph(model: keras.Model, device: str = "/CPU:0") -> Any:
    """Return a concrete function of a batch tensor, its variables frozen to constants.

    So TensorFlow folds batch normalisation into the convolutions: 1.2 to 1.4 times faster than
    calling the Keras model, and the same numbers.
    """
    tf = import_tensorflow()
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    def outputs(images: Any) -> list[Any]:
        every = _as_list(model(images, training=False))
        return [one if one.dtype.is_integer else tf.cast(one, tf.float32) for one in every]

    signature = [tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32)]
    with tf.device(device):
        traced = tf.function(outputs, signature)
        return convert_variables_to_constants_v2(traced.get_concrete_function())


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """Return a model whose backbone, the model nested in it, computes in a lower precision.

    Keras's mixed policies: variables stay float32, layers compute in bfloat16 or float16. What
    scales the pixels stays float32, since 0 to 255 in fractions does not fit into the 8 bits that
    bfloat16 has, and so does what comes after the backbone.
    """
    if precision == "float32":
        return model
    keras = import_keras()
    policy = keras.DTypePolicy(f"mixed_{precision}")
    exact = (keras.layers.Rescaling, keras.layers.Normalization)

    def lowered(layer: Any) -> Any:
        config = layer.get_config()
        # functions of keras.ops are no layers: they compute in what they are given
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, exact):
            config["dtype"] = policy
        return type(layer).from_config(config)

    def cloned(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=lowered)
        return type(layer).from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=cloned)
    set_weights(twin, model.get_weights())
    return twin


class TensorFlow(Compiled):
    """Functions of a batch tensor, one a device."""

    name = "tensorflow"

    def __init__(
        self,
        functions: Sequence[Function],
        devices: Sequence[str],
        say: Callable[[str], None] = lambda text: None,
    ):
        kind = "GPU" if "GPU" in devices[0] else "CPU"
        self.where = kind if len(devices) == 1 else f"{len(devices)} {kind}s"
        self.ahead = len(devices) * WORKERS[kind] + 1
        self.devices = devices
        self._say, self._halving = say, threading.Lock()
        self._turns = cycle(
            (function, device, ThreadPoolExecutor(WORKERS[kind], "featcache-tensorflow"))
            for function, device in zip(functions, devices, strict=True)
        )

    def start(self, images: Images) -> Callable[[], Outputs]:
        function, device, pool = next(self._turns)
        return pool.submit(self._run, function, device, images).result

    def _run(self, function: Function, device: str, images: Images) -> Outputs:
        """Compute a batch at once, or in parts where memory did not take as many."""
        tf = import_tensorflow()
        parts: list[Outputs] = []
        n_done = 0
        while n_done < len(images) or not parts:
            some = images
            if self.fits is not None:
                with tf.device(images.device if tf.is_tensor(images) else None):  # where they lie
                    some = images[n_done : n_done + self.fits]
            try:
                parts.append(self._computed(function, device, some))
            except tf.errors.ResourceExhaustedError as error:
                if len(some) == 1:
                    raise BackboneError(
                        f"An image of {some.shape[1]} x {some.shape[2]} pixels does not fit into "
                        f"memory. Lower --image-size, or use --device cpu."
                    ) from error
                self._halve(len(some))
            else:
                n_done += len(some)
        return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))

    def _computed(self, function: Function, device: str, images: Images) -> Outputs:
        tf = import_tensorflow()
        with tf.device(device):
            outputs = function(tf.convert_to_tensor(images, tf.float32))
        return tuple(output.numpy() for output in outputs)

    def _halve(self, n: int) -> None:
        """Take half as many from now on; batches on their way may fail together, and halve once."""
        with self._halving:
            if self.fits is None or self.fits >= n:
                self.fits = n // 2
                self._say(
                    f"{counted(n, 'image')} at once do not fit into memory; going on with "
                    f"{self.fits:,} (--batch-size {self.fits})."
                )


class ByXla(TensorFlow):
    """The same functions compiled by XLA, for one size of batch: shorter ones are padded."""

    is_of_one_size = True

    def __init__(
        self,
        functions: Sequence[Any],
        devices: Sequence[str],
        say: Callable[[str], None],
        without_xla: TensorFlow,
    ):
        super().__init__([_compiled(function, say) for function in functions], devices, say)
        self._size = 0  # of the largest batch so far
        self._without_xla = without_xla

    @property
    def for_measuring(self) -> Compiled:
        return self._without_xla

    def start(self, images: Images) -> Callable[[], Outputs]:
        self._size = max(self._size, len(images))
        return super().start(images)

    def _computed(self, function: Function, device: str, images: Images) -> Outputs:
        n, size = len(images), min(self._size, self.fits or self._size)
        outputs = super()._computed(function, device, padded(images, size))
        return tuple(output[:n] for output in outputs)


def _compiled(constant: Any, say: Callable[[str], None]) -> Function:
    """Return a function that XLA compiles when it is first called."""
    tf = import_tensorflow()
    # traced now, for batches of any size: XLA keeps programs by the function's name, which counts
    # what was traced before, and that is the same in every process only as long as nothing ran
    function = tf.function(
        lambda images: constant(images),
        [tf.TensorSpec(constant.inputs[0].shape, tf.float32)],
        jit_compile=True,
    ).get_concrete_function()

    def run(images: Any) -> Any:
        nonlocal function
        try:
            return function(images)
        except tf.errors.OpError as error:
            is_of_memory = isinstance(error, tf.errors.ResourceExhaustedError)
            if is_of_memory or function is constant or not programs.forget():
                raise
            say("A compiled program in the cache is damaged and was removed; going on without XLA.")
            function = constant
            return function(images)

    return run


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
