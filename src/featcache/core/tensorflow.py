"""Import TensorFlow without its start-up chatter, and with its errors.

Before it reads TF_CPP_MIN_LOG_LEVEL, TensorFlow writes straight to file descriptor 2 that it found
no CUDA. So in our own process descriptor 2 is caught during the import, and everything that is no
known chatter is written out again afterwards. Every module that needs TensorFlow or Keras asks for
it here, every time: in a process that was forked from one in which TensorFlow had computed it would
wait for threads that did not come along.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcache.core import process
from featcache.core.errors import BackboneError

_CHATTER = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] )"
)
_NO_GPU = re.compile(rb"failed call to cuInit")
_lost_threads = False


def import_tensorflow() -> Any:
    """Return the tensorflow module, imported on the first call (about 3 s).

    Raises
    ------
    BackboneError
        When this process was forked from one in which TensorFlow had computed.
    """
    if _lost_threads:
        raise BackboneError(
            "This process was forked from one in which TensorFlow had computed; here it would wait "
            "for ever for threads that were not forked. Start processes by spawn instead: "
            "multiprocessing.get_context('spawn'), or joblib's backend loky."
        )
    return _imported()


def import_keras() -> Any:
    """Return the keras module on its TensorFlow backend; raise as `import_tensorflow`."""
    import_tensorflow()
    import keras

    return keras


def _note_fork() -> None:
    """Look, in a child, whether TensorFlow has started its threads; importing it starts none."""
    global _lost_threads
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(eager, "_context", None)
    _lost_threads |= getattr(context, "_context_handle", None) is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@functools.cache
def _imported() -> Any:
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


@contextmanager
def _without_chatter() -> Iterator[None]:
    caught = process.Caught()
    try:
        with process.stderr_caught() as caught:
            yield
    finally:
        for line in caught.said.splitlines(keepends=True):
            if not _is_chatter(line):
                os.write(2, line)


def _is_chatter(line: bytes) -> bool:
    # "failed call to cuInit" is news only where there is an NVIDIA driver that could have answered
    if _NO_GPU.search(line):
        return not Path("/dev/nvidiactl").exists()
    return bool(_CHATTER.match(line))
