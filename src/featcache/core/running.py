"""How an extraction is run: the options that change no numbers, declared once.

What changes the numbers is in `spec`. Signatures, the command line and `Embedder` read both. They
are in this room because the command line's help must not wait for any other one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from featcache.core.options import option, options_of
from featcache.core.spec import MAX_PIXELS, NUMBERS

Folder = Union[str, "os.PathLike[str]"]

DEFAULT_CACHE = "cache"
ON_ERROR = ("skip", "stop")
CHECKS = ("stat", "content")
IMAGES = "Which images"
ENGINE = "On several machines"
RARE = "Rarely needed"
DEVICES = ("auto", "cpu", "gpu")
AUTO = "auto"
RUNTIMES = (AUTO, "tensorflow", "openvino")
ASSEMBLE_GB = 4.0
INLINE, DASK, RAY = ENGINES = ("inline", "dask", "ray")


@dataclass(frozen=True)
class Running:
    """How an extraction is run; nothing here changes the numbers beyond rounding.

    A field made by `option` is an option of `extract`; a new one needs its line here and whatever
    it does.
    """

    cache_dir: Folder = option(
        DEFAULT_CACHE,
        "Where features and heads are kept; or s3://BUCKET/FOLDER.",
        "where features are kept: a folder, or s3://BUCKET/FOLDER.",
        typed=Path,
    )
    overwrite: bool = option(
        False,
        "Compute everything again.",
        "compute every row again, using nothing that is cached.",
        flag="--overwrite",
    )
    root: Optional[Folder] = option(
        None,
        "Folder of a manifest's paths. (the manifest's)",
        "folder that a manifest's paths are relative to; see `open_source`.",
        panel=IMAGES,
        typed=Optional[Path],
    )
    target: Optional[str] = option(
        None,
        "Target columns of a manifest, as a,b.",
        "target columns of a manifest or of tar files; see `open_source`.",
        panel=IMAGES,
    )
    limit: Optional[int] = option(
        None,
        "Use so many images, spread over all.",
        "use only so many images, spread evenly over the sorted list.",
        panel=IMAGES,
        least=1,
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "Larger images are failures.",
        "larger images are failures.",
        panel=IMAGES,
        least=1,
    )
    on_error: str = option(
        "skip",
        "An image that fails: skip or stop.",
        "skip records an image that cannot be read as a failure; stop raises at the first.",
        panel=IMAGES,
        allowed=ON_ERROR,
    )
    check: str = option(
        "stat",
        "stat trusts a file's size, times and inode; content reads all.",
        "stat trusts a file whose size, times and inode are those of last time; content reads "
        "every file.",
        panel=IMAGES,
        allowed=CHECKS,
    )
    batch_size: Union[int, str, None] = option(
        None,
        "Images per forward pass; auto measures. (32 on a CPU, auto on a GPU)",
        "images decoded and computed together, views counted; auto measures from which size on the "
        "network gets no faster. None is 32 on a CPU and auto on a GPU. It changes no more than "
        "the last bits of the numbers.",
        panel=RARE,
        typed=Optional[str],
        allowed=(None, AUTO),
        least=1,
    )
    runtime: str = option(
        "auto",
        "auto, tensorflow or openvino; auto is the fastest here.",
        "auto, tensorflow or openvino; auto is OpenVINO on a CPU where it is installed.",
        panel=RARE,
        allowed=RUNTIMES,
    )
    device: str = option(
        "auto",
        "auto, cpu or gpu.",
        "auto, cpu or gpu; auto is every GPU that TensorFlow sees, else the CPU.",
        panel=RARE,
        allowed=DEVICES,
    )
    engine: str = option(
        INLINE,
        "Who computes: inline (this process), dask or ray.",
        "inline computes in this process; dask and ray on the workers of a cluster, which must see "
        "the images and weights under the same paths.",
        panel=ENGINE,
        allowed=ENGINES,
    )
    scheduler: Optional[str] = option(
        None,
        "Dask's, as tcp://HOST:8786. (a new cluster here)",
        "address of Dask's scheduler, as tcp://HOST:8786. None is the current client's, else "
        "that which DASK_SCHEDULER_ADDRESS names, else a new cluster of processes here.",
        panel=ENGINE,
    )
    address: Optional[str] = option(
        None,
        "Ray's cluster, as HOST:6379. (auto)",
        "address of a Ray cluster; None is auto, the one that runs here.",
        panel=ENGINE,
    )
    executor: Any = option(
        None,
        "",
        "any `concurrent.futures.Executor` to compute on, as a pool of processes or Dask's "
        "`client.get_executor()`, instead of an engine.",
        typed=None,
    )
    assemble_up_to: Optional[float] = option(
        None,
        "GB; larger files keep their rows in parts beside them. (4; 0 with an engine)",
        "gigabytes up to which the rows are copied into one file; those of a larger one stay in "
        "the parts they were written to, in a folder beside it. None is 4, and 0 with an engine.",
        panel=RARE,
    )
    wait: bool = option(
        True,
        "Wait for another process on this file.",
        "wait for another process that extracts into the same file, instead of raising.",
        panel=RARE,
        flag="--wait/--no-wait",
    )
    show_progress: bool = option(True, "", "show progress on stderr.", typed=None)
    explains: bool = True  # why a file was not there

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return Path(self.cache_dir)

    @property
    def is_here(self) -> bool:
        """Whether this process computes."""
        return self.engine == INLINE and self.executor is None

    @property
    def assembled_bytes(self) -> float:
        """What the rows of a file may take to be copied into it."""
        usual = ASSEMBLE_GB if self.is_here else 0.0
        return 1e9 * (usual if self.assemble_up_to is None else self.assemble_up_to)


RUNNING = options_of(Running)
EVERY = NUMBERS | RUNNING
