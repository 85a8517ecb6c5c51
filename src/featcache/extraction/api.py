"""Run frozen backbones once over the images of a source: source x backbones -> feature files.

The order of work: list and hash the images; where files hold exactly these rows, stop there; else
find every row that was ever computed with these specs, compute the rest into parts, publish.
TensorFlow is imported only when something has to be computed.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache import store
from featcache.core import progress
from featcache.core.checks import check_choice, whole_number
from featcache.core.errors import SpecError, StoreError
from featcache.core.spec import MAX_PIXELS, MAX_VIEWS, ExtractionSpec
from featcache.data import decoding, openers, sources
from featcache.extraction import requested
from featcache.extraction.executors import Inline
from featcache.extraction.listing import known_to_all, look
from featcache.extraction.output import OutputFile, open_if_good
from featcache.extraction.publish import Making, make, stop_at_failure
from featcache.extraction.requested import Names
from featcache.extraction.shards import Machine
from featcache.networks import backbones, engines
from featcache.networks.weights import MEMO_NAME

DEFAULT_CACHE = "cache"
DEFAULT_SOURCE = "example:clipart"
CHECKS = ("stat", "content")
ON_ERROR = ("skip", "stop")


@dataclass(frozen=True)
class Extraction:
    """What an extraction gave and what it cost."""

    features: store.Features
    hit: bool  # the file was there with exactly these rows
    n_computed: int  # images that went through the backbone
    n_reused: int  # rows computed earlier
    n_removed: int  # rows of the file before whose image is no longer in the source
    n_failed: int  # images that could not be read, named in the file's `failures`
    n_passed_over: int  # files that are no images
    seconds: float  # until all files of the run were there
    computing_s: float = 0.0  # of it with images on their way through the backbones
    waited_s: dict[str, float] = field(default_factory=dict)  # of that, for which part


def extract(
    source: Any = DEFAULT_SOURCE,
    backbone: str | None = None,
    *,
    weights: str = "imagenet",
    pooling: str = "avg",
    layer: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "bilinear",
    background: str = "white",
    decode_scale: bool = False,
    views: int = 1,
    augment: Names = None,
    dtype: str = "float32",
    precision: str = "float32",
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_error: str = "skip",
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    runtime: str = "auto",
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
) -> store.Features:
    """Return the features of a source's images, computed once and kept in `cache_dir`.

    Parameters
    ----------
    source : whatever `open_source` takes: a folder with one subfolder per class, a manifest, tar
        files, example:clipart or example:digits, or images from Python.
    backbone : name from `registry.CATALOGUE`; None is efficientnet-lite0, or the model itself
        when `weights` is a .keras file.
    weights : imagenet, random, or the path of a weights file or of a .keras backbone.
    pooling : avg, max or flatten; how a feature map becomes a vector. none keeps maps as they are,
        (n, height, width, channels), which no head learns from.
    layer : name of the layer whose output is taken; None is the backbone's output.
    image_size : pixels, one number or (height, width); None is the backbone's own size.
    resize : bilinear (as Keras does), or antialias (better for large photographs, slower).
    background : colour under transparent pixels, a name or #rrggbb.
    decode_scale : decode JPEGs at 1/2, 1/4 or 1/8 as long as they keep at least twice the size.
    views : embeddings per image: the clean one and `views` - 1 augmented ones, for heads that train
        on `Features.views`.
    augment : how, of flip, crop and color; None is all of them where there are views.
    dtype : float32 or float16, as stored.
    precision : float32, bfloat16 or float16, in which the backbone computes; other numbers, faster
        where the machine has it.
    root, target : see `open_source`; for a manifest or tar files.
    limit : use only so many images, spread evenly over the sorted list.
    max_pixels : larger images are failures.
    on_error : skip records an image that cannot be read as a failure; stop raises at the first.
    batch_size : images decoded and computed together, views counted; changes no more than the last
        bits of the numbers.
    runtime : auto, tensorflow or openvino; auto is OpenVINO on a CPU where it is installed.
    device : auto, cpu or gpu; auto is every GPU that TensorFlow sees, else the CPU.
    check : stat trusts a file whose size and modification time are those of last time; content
        reads every file.
    wait : wait for another process that extracts into the same file, instead of raising.
    overwrite : compute every row again, using nothing that is cached.

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        See each; nothing is left behind but finished parts.
    """
    return run(
        source,
        backbone,
        weights=weights,
        pooling=pooling,
        layer=layer,
        image_size=image_size,
        resize=resize,
        background=background,
        decode_scale=decode_scale,
        views=views,
        augment=augment,
        dtype=dtype,
        precision=precision,
        root=root,
        target=target,
        limit=limit,
        max_pixels=max_pixels,
        on_error=on_error,
        batch_size=batch_size,
        cache_dir=cache_dir,
        runtime=runtime,
        device=device,
        check=check,
        wait=wait,
        overwrite=overwrite,
        show_progress=show_progress,
    ).features


def extract_all(
    source: Any = DEFAULT_SOURCE,
    backbones: Sequence[str] | None = None,
    *,
    layers: Sequence[str] | None = None,
    **options: Any,
) -> list[store.Features]:
    """Return the features of several backbones, or of several layers of one, from one pass.

    Each image is read and decoded once; layers of one backbone share its forward pass.

    Parameters
    ----------
    backbones : names, each run at its own image size; None is the default.
    layers : names of layers of one backbone; None is its output.
    **options : as for `extract`.

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        As `extract`; SpecError also for layers of several backbones.
    """
    for name in sorted(set(options) - set(inspect.signature(extract).parameters)):
        raise SpecError(f"extract_all knows no option '{name}'; it knows those of extract.")
    for name in sorted({"backbone", "layer"} & set(options)):
        raise SpecError(f"extract_all takes {name}s, a list of names, instead of {name}.")
    done = run_all(source, backbones, layer=layers, **options)
    return [one.features for one in done]


def run(source: Any = DEFAULT_SOURCE, backbone: str | None = None, **options: Any) -> Extraction:
    """Do what `extract` does for one file, and also say what was computed, reused and failed."""
    for name, value in (("backbone", backbone), ("layer", options.get("layer"))):
        if value is not None and not isinstance(value, str):
            raise SpecError(f"{name} must be one name; got {value!r}. For several use extract_all.")
    (done,) = run_all(source, backbone, **options)
    return done


def run_all(
    source: Any = DEFAULT_SOURCE,
    backbone: Names = None,
    *,
    layer: Names = None,
    augment: Names = None,
    views: int = 1,
    precision: str = "float32",
    background: str = "white",
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_error: str = "skip",
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    runtime: str = "auto",
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
    **spec_options: Any,
) -> list[Extraction]:
    """Do what `extract` does, and also say what was computed, reused and failed for each file."""
    started = time.monotonic()
    engines.check_options(runtime, device, precision)
    check_choice("check", check, CHECKS)
    check_choice("on_error", on_error, ON_ERROR)
    for name, value in (("batch_size", batch_size), ("limit", limit), ("max_pixels", max_pixels)):
        if value is not None:
            whole_number(name, value, 1)
    views = whole_number("views", views, 1, MAX_VIEWS)
    spec_options |= {
        "background": decoding.colour(background),
        "views": views,
        "augment": requested.augmentations(augment, views),
        "precision": precision,
    }
    cache = Path(cache_dir)
    samples = openers.open_source(source, root=root, target=target)
    if limit is not None and limit < len(samples):
        samples = samples.limit(limit)
    every = requested.different(
        backbones.resolve(name, layer=tap, memo=cache / MEMO_NAME, **spec_options)
        for name, tap in requested.combined(backbone, layer, spec_options.get("weights"))
    )
    return _make_files(
        samples,
        every,
        cache,
        _Request(
            machine=Machine(batch_size, device, runtime, cache / engines.MODELS_FOLDER),
            max_pixels=max_pixels,
            stop=on_error == "stop",
            check=check,
            wait=wait,
            overwrite=overwrite,
            show_progress=show_progress,
        ),
        started,
    )


def extract_network(
    source: Any,
    resolved: backbones.Resolved,
    *,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    max_pixels: int = MAX_PIXELS,
    batch_size: int = 32,
    runtime: str = "auto",
    device: str = "auto",
    show_progress: bool = True,
) -> Extraction:
    """Do what `run` does for a network that is there already, as part of a model say.

    Parameters
    ----------
    source : as `open_source` takes it.
    resolved : a spec and its network. The weights that the spec names are the caller's word for
        those of the network.

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        As `extract`.
    """
    cache = Path(cache_dir)
    request = _Request(
        machine=Machine(batch_size, device, runtime, cache / engines.MODELS_FOLDER),
        max_pixels=max_pixels,
        explains=False,
        show_progress=show_progress,
    )
    (done,) = _make_files(openers.open_source(source), [resolved], cache, request, time.monotonic())
    return done


@dataclass(frozen=True)
class _Request:
    """How files are asked for."""

    machine: Machine
    max_pixels: int = MAX_PIXELS
    stop: bool = False  # at the first failure
    check: str = "stat"
    wait: bool = True
    overwrite: bool = False
    explains: bool = True  # why a file was not there
    show_progress: bool = True


def _make_files(
    source: sources.Source,
    every: Sequence[backbones.Resolved],
    cache: Path,
    asked: _Request,
    started: float,
) -> list[Extraction]:
    """Have the feature files of resolved networks: those that are there, and the rest made."""
    path_suffix = f"-limit{source.limited_to}" if source.limited_to else ""
    folder = store.source_folder(cache, source.name, source.origin)
    paths = [folder / f"{one.spec.short_name}{path_suffix}.h5" for one in every]

    published = [open_if_good(path) for path in paths]
    known = known_to_all(published) if asked.check == "stat" else None
    listing = look(source, asked.max_pixels, known, asked.show_progress)
    outputs = [OutputFile(path, one, listing) for path, one in zip(paths, every, strict=True)]
    if asked.stop:
        stop_at_failure(outputs[0].named_failures())
    files: dict[Path, store.Features] = {}
    todo = []
    for output, before in zip(outputs, published, strict=True):
        if before is not None and not asked.overwrite and output.is_all_in(before):
            _tidy(output.parts)
            files[output.path] = before
        else:
            todo.append(output)
            if asked.explains and not asked.overwrite and before is None:
                _say_why(folder, output.spec, asked.show_progress)
    how = Making(Inline(), asked.machine, asked.stop, asked.show_progress)
    with ExitStack() as stack:
        # always in the same order: two runs that want each other's files must not wait for ever
        for path in sorted(output.path for output in todo):
            say = functools.partial(progress.note, show=asked.show_progress)
            stack.enter_context(store.locked(path, asked.wait, say))
        for output in list(todo):
            finished = open_if_good(output.path)  # another process may have been quicker
            if finished is not None and not asked.overwrite and output.is_all_in(finished):
                output.parts.clear()
                files[output.path] = finished
                todo.remove(output)
                continue
            output.parts.sweep()
            if asked.overwrite:
                output.parts.clear()
        if todo:
            files |= make(todo, how, None if asked.overwrite else cache)
    if asked.stop:
        for features in files.values():
            stop_at_failure((failure.id, failure.reason) for failure in features.failures)
    return [
        Extraction(
            features=files[output.path],
            hit=output not in todo,
            n_computed=len(output.computed),
            n_reused=len(files[output.path]) - len(output.computed),
            n_removed=len(set(before.ids) - set(source.ids)) if before else 0,
            n_failed=len(files[output.path].failures),
            n_passed_over=source.n_passed_over,
            seconds=time.monotonic() - started,
            computing_s=how.costs.seconds,
            waited_s=how.costs.waited_s,
        )
        for output, before in zip(outputs, published, strict=True)
    ]


def _tidy(parts: store.Parts) -> None:
    """Delete parts that a process left when it died between publishing and deleting them."""
    if parts.folder.exists():
        # who holds the lock needs them, and a folder that cannot be written keeps them
        with suppress(StoreError, OSError), store.locked(parts.target, False, progress.note):
            parts.clear()


def _say_why(folder: Path, spec: ExtractionSpec, show: bool) -> None:
    """Say which field of the spec differs from that of the nearest file of the same source."""
    found = [one for file in sorted(folder.glob("*.h5")) if (one := open_if_good(file)) is not None]
    others = {one.spec for one in found}
    if not others or any(other.clean == spec.clean for other in others):
        return  # rows of the same spec are taken over, whatever the views
    nearest = min(others, key=lambda other: (len(spec.differences(other)), other.short_name))
    progress.note(f"No cached features: {'; '.join(spec.differences(nearest))}.", show)
