"""JPEG files decoded on an NVIDIA GPU, by nvImageCodec and nvJPEG; nothing is resized here.

nvImageCodec has memory and streams of its own, of which TensorFlow knows nothing. So what is
decoded is waited for before TensorFlow gets it, and whoever reads it keeps it until TensorFlow has
made a copy: nvJPEG's hardware writes into memory as soon as it is free, whatever else is queued.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from featcache.core import process
from featcache.core.errors import SpecError, one_line
from featcache.core.tensorflow import import_tensorflow

_ON_CPU = -99999  # nvImageCodec's number of a device that is none
# no order with another stream is asked for: the images are waited for
_NO_STREAM = -1


NO_GPU = "TensorFlow sees no GPU"
NOT_INSTALLED = "nvImageCodec is not installed"
_CURES = {
    NO_GPU: "Extract with --decoder exact, or install featcache[gpu,gpu-decoder] on a machine with "
    "an NVIDIA driver.",
    NOT_INSTALLED: "Run `pip install 'featcache[gpu-decoder]'`, or extract with --decoder exact.",
}


class Opened(NamedTuple):
    """A file whose header was read."""

    stream: Any
    height: int  # in pixels, as they are stored
    width: int


class Codec:
    """Decoders of nvImageCodec on one device: of a GPU, or for trials without one on the CPU."""

    def __init__(self, device: str = "/GPU:0"):
        self.device = device  # TensorFlow's name of where the images lie
        # of what is not for JPEG (nvTIFF, nvJPEG 2000) it complains each time; broken files are
        # told by whoever has the last word on them
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        with process.stderr_caught():
            from nvidia import nvimgcodec

            kinds = nvimgcodec.BackendKind
            is_gpu = "GPU" in device
            # its CPU decoders are left out: what the GPU cannot decode goes the usual way. All that
            # the hardware takes goes there, as what is shared by load differs from run to run
            some = (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)
            self._decoder = nvimgcodec.Decoder(
                device_id=int(device.rpartition(":")[2]) if is_gpu else _ON_CPU,
                backends=[
                    nvimgcodec.Backend(one) for one in (some if is_gpu else (kinds.CPU_ONLY,))
                ],
                options=":fancy_upsampling=1",  # of colours, as libjpeg does; a default since 0.9
            )
        self._params = nvimgcodec.DecodeParams(
            apply_exif_orientation=False,  # known already, and turned as other images are
            color_spec=nvimgcodec.ColorSpec.SRGB,
        )
        self._stream_of = nvimgcodec.CodeStream
        self._lock = threading.Lock()

    def opened(self, data: bytes) -> Opened | None:
        """Return a file as `decode` takes it; None if it is no JPEG."""
        if not data.startswith(b"\xff\xd8"):
            return None
        try:
            stream = self._stream_of(data)
            return Opened(stream, stream.height, stream.width)
        except RuntimeError:  # of damaged headers
            return None

    def decode(self, opened: Sequence[Opened]) -> list[Any]:
        """Return images, decoded to the end, or None for what cannot be decoded.

        They are to be kept until nobody reads the tensors of `as_tensor` any more.
        """
        with self._lock:
            try:
                images = self._decoder.decode([one.stream for one in opened], params=self._params)
            except RuntimeError:  # out of memory, say
                return [None] * len(opened)
            done = [image for image in images if image is not None]
            if done:
                # all are on one stream, so a copy of the smallest one comes after all of them
                min(done, key=lambda image: image.height * image.width).cpu()
            return list(images)

    def as_tensor(self, image: Any) -> Any:
        """Return the image as a tensor (height, width, 3) uint8 that shares its memory."""
        return import_tensorflow().experimental.dlpack.from_dlpack(image.to_dlpack(_NO_STREAM))


@functools.cache
def of_gpu() -> Codec:
    """Return the decoders of the first GPU.

    Raises
    ------
    SpecError
        When this machine has none, and what would help.
    """
    if (reason := missing()) is not None:
        raise SpecError(f"decoder is gpu, but {reason}. {_CURES[reason]}")
    leave_memory()
    tf = import_tensorflow()
    try:
        codec = Codec()
        probe = codec.opened(tf.io.encode_jpeg(tf.zeros((64, 64, 3), tf.uint8)).numpy())
        is_decoded = probe is not None and codec.decode([probe])[0] is not None
        said = "" if is_decoded else "a small JPEG file came to nothing"
    except (ImportError, RuntimeError) as error:
        said = one_line(error, 200)
    if said:
        raise SpecError(
            f"decoder is gpu, but nvImageCodec cannot decode on this GPU: {said}. Run `pip install "
            f"--upgrade 'featcache[gpu-decoder]'`, which brings nvJPEG, or extract with --decoder "
            f"exact."
        )
    return codec


def missing() -> str | None:
    """Return what this machine lacks for decoding on a GPU, or None."""
    if not import_tensorflow().config.list_physical_devices("GPU"):
        return NO_GPU
    return None if _is_installed() else NOT_INSTALLED


def leave_memory() -> None:
    """See to it that TensorFlow takes a GPU's memory as it needs it, and not nearly all at once.

    That can be said until it uses the GPU. Where it is too late, what finds no room is decoded in
    the usual way.
    """
    tf = import_tensorflow()
    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:  # without any package of NVIDIA's
        return False
