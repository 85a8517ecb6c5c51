"""The processes of benchmarks/faults.py: extractions that are counted, timed and killed.

The fork server of `multiprocessing` preloads this module, so TensorFlow and OpenVINO are imported
once and every extraction is still a process of its own. Nothing but the imports happens before a
fork: TensorFlow has started no session and no compute threads by then.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache import extraction, store
from featcache.core import process
from featcache.core.errors import FeatcacheError
from featcache.core.tensorflow import import_keras
from featcache.extraction import repair as repairing
from featcache.networks import engines
from featcache.store import hdf5, part_writer

PART_ROWS = 16  # small, so that a few hundred images make many parts
CHUNK_ROWS = 64  # and several chunks
BATCH_SIZE = 4

with process.owned():  # else the command would begin with what TensorFlow says
    import_keras()
with suppress(ImportError):  # what every extraction would import, if it is there
    import openvino.frontend.tensorflow  # noqa: F401


def serve(function: str, options: dict[str, Any], reply: Connection) -> None:
    """Call a function of this module and send back what it returns or how it failed."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the C decoders complain there about the broken images
    try:
        result = globals()[function](**options, say=reply.send)
    except FeatcacheError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    except BaseException:
        result = {"crash": traceback.format_exc()}
    reply.send(result)


def make_backbone(path: str, is_exact: bool, say: Any = None) -> None:
    """Save a quick backbone of 32 x 32 images: two convolutions.

    The numbers of an ordinary one differ in their last bit with the place of an image in its batch
    and with the size of that: sums are taken in another order. An exact one rounds its images and
    has small integers for weights, so that no sum is ever rounded and the order does not matter.
    """
    keras = import_keras()
    rng = np.random.default_rng(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.ops.round(inputs) if is_exact else keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 12):
        x = keras.layers.Conv2D(filters, 3, strides=2)(x)
        x = x if is_exact else keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    model = keras.Model(inputs, x, name="tiny")
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            some = rng.integers(-1, 2, variable.shape) if is_exact else rng.random(variable.shape)
            variable.assign(some if is_exact else some - 0.5)
    model.save(path)


def extract(
    source: str,
    weights: str,
    cache: str,
    counts: str,
    *,
    say: Callable[[Any], None],
    kill_at: tuple[str, int] | None = None,
    clock: float = 0.0,
    drift: float = 0.0,
    delay: float = 0.0,
    number: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run one extraction.

    Parameters
    ----------
    counts : file to which the number of images of every batch is appended before it is computed.
    say : told "ready" when the backbone is about to get its first batch.
    kill_at : name of an event and its how-manieth occurrence here; there this process kills itself.
    clock, drift : seconds by which the clock is ahead, and runs backwards each time it is read.
    delay : seconds to wait first.
    number : what this process takes for its own number, as if it ran in a container.
    """
    prepare(counts, say)
    set_clock(clock, drift)
    time.sleep(delay)
    events = count_events(Path(cache), kill_at)
    if number is not None:
        os.getpid = lambda: number
    done = extraction.run(
        source,
        weights=weights,
        cache_dir=cache,
        batch_size=BATCH_SIZE,
        show_progress=False,
        **options,
    )
    return {
        "path": str(done.features.path),
        "hit": done.hit,
        "computed": done.n_computed,
        "events": dict(events),
    }


def prepare(counts: str, say: Callable[[Any], None]) -> None:
    """Make parts and chunks small, and count what goes through the backbone."""
    part_writer.PART_ROWS = PART_ROWS
    hdf5.CHUNK_ROWS = CHUNK_ROWS
    compile_frozen = engines.compile_frozen
    log = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    class Counting(engines.Compiled):
        """A compiled model that writes down how many images each batch has."""

        def __init__(self, compiled: engines.Compiled):
            self.compiled = compiled
            self.name, self.where, self.ahead = compiled.name, compiled.where, compiled.ahead

        def start(self, images: Any) -> Any:
            os.write(log, f"{len(images)}\n".encode())
            return self.compiled.start(images)

    def counting(*arguments: Any, **options: Any) -> engines.Compiled:
        compiled = compile_frozen(*arguments, **options)
        say("ready")
        return Counting(compiled)

    perfect = engines.Closeness(0.0, 1.0)
    engines.compile_frozen = counting
    engines.agree = lambda compiled, *others: (compiled, perfect)  # its images would be counted


def set_clock(ahead: float, drift: float) -> None:
    """Let `time.time` and `time.time_ns` tell another time."""
    real, reads = time.time_ns, iter(range(sys.maxsize))
    if ahead or drift:
        time.time_ns = lambda: real() + int(1e9 * (ahead - drift * next(reads)))
        time.time = lambda: time.time_ns() / 1e9


def count_events(cache: Path, kill_at: tuple[str, int] | None) -> Counter[str]:
    """Count each step that changes something below `cache`; at one of them end this process.

    An event is called "before", "after" or "amid", the function and what kind of file it is about.
    """
    events: Counter[str] = Counter()
    me = os.getpid()

    def happens(name: str) -> None:
        events[name] += 1
        if kill_at == (name, events[name]):
            os.kill(me, signal.SIGKILL)

    def hook(owner: Any, name: str, kind_of: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def hooked(*args: Any, **options: Any) -> Any:
            kind = kind_of(*args)
            if kind is None:
                return original(*args, **options)
            happens(f"before {name} {kind}")
            if name == "write_text":  # not one step: first there is an empty file
                args[0].open("w").close()
                happens(f"amid {name} {kind}")
            result = original(*args, **options)
            happens(f"after {name} {kind}")
            return result

        setattr(owner, name, hooked)

    def of_path(path: Any, *_: Any) -> str | None:
        return _kind(Path(path), cache)

    def of_handle(handle: int, *_: Any) -> str | None:
        return _kind(Path(f"/proc/self/fd/{handle}").readlink(), cache)

    written = [""]  # kind of the HDF5 file that is being written; there is one at a time

    def of_new(file: Any, path: Any, mode: str = "r", *_: Any) -> str | None:
        where = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "")
        if mode != "w" or (kind := _kind(Path(str(where)), cache)) is None:
            return None
        written[0] = kind
        return kind

    def of_open(part: Any, *_: Any) -> str | None:
        return written[0] if part.id and part.file.mode == "r+" else None

    for name in ("mkdir", "write_text", "replace", "unlink", "rmdir"):
        hook(Path, name, of_path)
    for name in ("fsync", "posix_fallocate"):
        hook(os, name, of_handle)
    hook(h5py.File, "__init__", of_new)
    hook(h5py.File, "close", of_open)
    hook(h5py.Group, "create_dataset", of_open)
    hook(h5py.Dataset, "__setitem__", of_open)
    return events


def _kind(path: Path, cache: Path) -> str | None:
    """Return a short name for a file of the cache without what differs from run to run."""
    if path != cache and cache not in path.parents:
        return None
    if path == cache:
        return "cache folder"
    name = re.sub(r"\.[0-9a-f]{8}\.\d+\.tmp$", ".tmp", path.name)
    for pattern, kind in (
        (r"part-\w+(?=\.h5)", "part"),
        (r".*(?=\.h5\.parts$)|.*(?=\.h5(\.tmp)?$)", "features"),
    ):
        if re.match(pattern, name):
            return re.sub(pattern, kind, name, count=1)
    return name if "." in name else "source folder"


def read(path: str, *, say: Callable[[Any], None]) -> dict[str, Any]:
    """Return all that a feature file gives its user; a StoreError when it is damaged."""
    features = store.Features(path)
    return {
        "X": (str(features.dtype), features.X.shape, features.X.tobytes()),
        "table": features.metadata.checksum({}),
        "stamps": features.stamps.tobytes(),
        "failures": features.failures,
        "names": (features.class_names, features.task, features.spec),
        "content": features.content,
    }


def repair(
    path: str,
    counts: str,
    *,
    say: Callable[[Any], None],
    kill_at: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Repair a feature file."""
    prepare(counts, say)
    events = count_events(Path(path).parent.parent, kill_at)
    damage, n_computed = repairing.repair(Path(path), show_progress=False)
    return {"path": path, "damage": str(damage), "computed": n_computed, "events": dict(events)}


def command_line(counts: str, max_bytes: int | None) -> None:
    """Be the command featcache, with small parts; no file may get larger than `max_bytes`."""
    from featcache.cli import main

    prepare(counts, lambda message: None)
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    main()
