"""Import TensorFlow without its start-up chatter, and with its errors.

Before it reads TF_CPP_MIN_LOG_LEVEL, TensorFlow writes straight to file descriptor 2 that it found
no CUDA. So descriptor 2 is caught during the import and everything that is no known chatter is
written out again afterwards. Every module that needs TensorFlow or Keras asks for it here.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHATTER = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] )"
)
_NO_GPU = re.compile(rb"failed call to cuInit")


@functools.cache
def import_tensorflow() -> Any:
    """Return the tensorflow module, imported on the first call (about 3 s)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow's own choice on newer CPUs. Without it sums depend on the number of threads, and so
    # dense heads on the number of processes they are fitted in
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _without_chatter():
        import tensorflow as tf

        # where somebody imported it before, other processes are to add up as this one does
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", str(int(_has_onednn())))
        tf.config.list_physical_devices("GPU")  # asks CUDA now, while its complaint is caught
    tf.get_logger().setLevel("ERROR")
    return tf


def _has_onednn() -> bool:
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


@functools.cache
def import_keras() -> Any:
    """Return the keras module on its TensorFlow backend."""
    import_tensorflow()
    import keras

    return keras


@contextmanager
def _without_chatter() -> Iterator[None]:
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if not _is_chatter(line):
                    os.write(2, line)


def _is_chatter(line: bytes) -> bool:
    # "failed call to cuInit" is news only where there is an NVIDIA driver that could have answered
    if _NO_GPU.search(line):
        return not Path("/dev/nvidiactl").exists()
    return bool(_CHATTER.match(line))
