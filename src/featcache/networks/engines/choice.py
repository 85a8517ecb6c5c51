"""Which runtime on which devices, from what was asked for and what this machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from featcache.core.checks import check_choice
from featcache.core.errors import BackboneError, SpecError, one_line
from featcache.core.running import DEVICES, RUNTIMES
from featcache.core.spec import PRECISIONS
from featcache.core.tensorflow import import_tensorflow
from featcache.networks.engines import programs
from featcache.networks.engines.base import Compiled, ConversionCache

if TYPE_CHECKING:
    import keras


def check_options(runtime: str, device: str, precision: str, is_here: bool = True) -> None:
    """Raise SpecError where an option is none of its choices; imports nothing.

    `is_here`: this machine is to compute, so that it must have the runtime.
    """
    check_choice("runtime", runtime, RUNTIMES)
    check_choice("device", device, DEVICES)
    check_choice("precision", precision, PRECISIONS)
    if runtime == "openvino" and device == "gpu":
        raise SpecError(
            "runtime openvino runs on the CPU, and device is gpu. Use --runtime tensorflow there."
        )
    if is_here and runtime == "openvino" and not _has_openvino():
        raise SpecError(
            "runtime is openvino, but it is not installed. Run `pip install 'featcache[cpu]'`, or "
            "use --runtime auto."
        )


def compile_frozen(
    model: keras.Model,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "float32",
    n_images: int | None = None,
    kept: ConversionCache | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Compiled:
    """Return a model compiled for this machine; `agree` says whether it gives what Keras gives.

    Parameters
    ----------
    model : from images (b, height, width, 3), 0 to 255, to one or more outputs (b, …).
    runtime : auto, tensorflow or openvino; auto is openvino on a CPU where it is installed.
    device : auto, cpu or gpu; auto is every GPU that TensorFlow sees, else the CPU.
    precision : float32, bfloat16 or float16, of the backbone; see `tensorflow.in_precision`.
    n_images : that are to be computed, where that is known: for a few, XLA is not worth compiling.
    kept : where a converted model is kept for the next time; None keeps nothing.
    say : told when OpenVINO cannot convert a model, and TensorFlow is taken, and when batches do
        not fit into memory.

    Raises
    ------
    SpecError
        When what is asked for is not to be had on this machine.
    BackboneError
        When OpenVINO is asked for and cannot convert the model.
    DiskError
        When OpenVINO is asked for and there is no room for its temporary files.
    """
    check_options(runtime, device, precision)
    found = [] if runtime == "openvino" else gpus(device)
    if runtime != "tensorflow" and not found and _has_openvino():
        from featcache.networks.engines import openvino

        if openvino.can_compute(precision):
            try:
                return openvino.compile_model(model, precision, kept)
            except OSError as error:  # of temporary files, for want of room as a rule
                if runtime == "openvino":
                    raise
                say(f"Warning: taking TensorFlow instead of OpenVINO. {error}")
            # OpenVINO's, and protobuf's over 2 GB
            except (RuntimeError, ValueError) as error:
                reason = one_line(error, 200)
                if runtime == "openvino":
                    raise BackboneError(
                        f"OpenVINO cannot convert the network: {reason}. Use --runtime tensorflow."
                    ) from error
                say(f"Warning: OpenVINO cannot convert the network; taking TensorFlow. {reason}")
        elif runtime == "openvino":
            raise SpecError(
                f"OpenVINO cannot compute in {precision} on this CPU. Use --precision float32, or "
                f"--runtime tensorflow, which can, slowly."
            )
    from featcache.networks.engines import tensorflow

    use_xla = bool(found) and (n_images is None or n_images >= programs.WORTH_IMAGES)
    return tensorflow.compile_model(model, precision, found or ["/CPU:0"], use_xla, say)


def gpus(device: str) -> list[str]:
    """Return TensorFlow's names of the GPUs to use for auto, cpu or gpu; none means the CPU.

    Raises
    ------
    SpecError
        When a GPU is asked for and TensorFlow sees none.
    """
    if device == "cpu":
        return []
    found = import_tensorflow().config.list_logical_devices("GPU")
    if device == "gpu" and not found:
        raise SpecError(
            "device is gpu, but TensorFlow sees no GPU. Use --device cpu, or install "
            "featcache[gpu] on a machine with an NVIDIA driver."
        )
    return [gpu.name for gpu in found]


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None
