"""Programs that XLA compiled, kept beside the converted models.

To compile a network for a GPU takes 17 to 30 s, XLA's part and cuDNN's search; from here it is read
in a few. TensorFlow looks for the folder when it is imported, so a process that had imported it
before compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

from featcache.core.versions import version

FOLDER = "xla"  # among the converted models
FILES = f"{FOLDER}/*/xla_compile_cache*"  # TensorFlow's name for a program
WORTH_IMAGES = 20_000  # for fewer, what XLA gains is less than compiling takes
_FLAG = "--tf_xla_persistent_cache_directory="
_DRIVER = Path("/proc/driver/nvidia")


def keep(models: Path, device: str = "auto") -> None:
    """Have what XLA compiles in this process kept in a folder, and taken from there.

    Nothing is done where TensorFlow is imported already, there is no GPU whose kind is known or
    none is to be used, or somebody has said otherwise.
    """
    machine = "" if device == "cpu" else _machine()
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if not machine or "tensorflow" in sys.modules or _FLAG in flags:
        return
    folder = models / FOLDER / machine
    with suppress(OSError):  # to compile anew costs time, no more
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TF_XLA_FLAGS"] = f"{flags} {_FLAG}{folder.resolve()}".strip()


def forget() -> bool:
    """Delete the programs that are kept; return whether there were any."""
    flags = os.environ.get("TF_XLA_FLAGS", "").split()
    for folder in (Path(one[len(_FLAG) :]) for one in flags if one.startswith(_FLAG)):
        found = list(folder.glob(Path(FILES).name))
        for path in found:
            path.unlink(missing_ok=True)
        return bool(found)
    return False


def _machine() -> str:
    """Return what a program depends on: the GPUs, their driver and TensorFlow; "" without GPUs."""
    try:
        gpus = [path.read_text() for path in sorted(_DRIVER.glob("gpus/*/information"))]
        driver = (_DRIVER / "version").read_text()
    except OSError:
        return ""
    models = sorted({line for text in gpus for line in text.splitlines() if "Model" in line})
    if not models:
        return ""
    said = "\n".join([*models, driver, version("tensorflow")])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
