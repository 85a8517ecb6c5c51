"""Run frozen backbones once over the images of a source: source x backbones -> feature files.

The order of work: list and hash the images; where files hold exactly these rows, stop there; else
find every row that was ever computed with these specs, compute the rest into parts, publish.
TensorFlow is imported only when something has to be computed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from featcache import store
from featcache.core import progress
from featcache.core.checks import bad
from featcache.core.errors import SpecError
from featcache.core.options import taken, with_options
from featcache.core.running import EVERY, RUNNING, Running
from featcache.data import openers, sources
from featcache.data.sources.passed_over import PassedOver
from featcache.extraction import bucket_cache, executors, requested
from featcache.extraction.listing import (
    is_read_in_passing,
    known_to_all,
    look,
    lost_classes,
    unread,
)
from featcache.extraction.options import Names, machine_of, parted
from featcache.extraction.output import OutputFile, open_if_good
from featcache.extraction.publish import Costs, Making, make, stop_at_failure
from featcache.networks import backbones, engines
from featcache.networks.weights import MEMO_NAME
from featcache.store import uploading
from featcache.store.layout import FolderTakenError, claimed

if TYPE_CHECKING:
    import keras

DEFAULT_SOURCE = "example:clipart"


@dataclass(frozen=True)
class Extraction:
    """What an extraction gave and what it cost."""

    features: store.Features
    hit: bool  # the file was there with exactly these rows
    n_computed: int  # images that went through the backbone
    n_reused: int  # rows computed earlier
    n_removed: int  # rows of the file before whose image is no longer in the source
    n_failed: int  # images that could not be read, named in the file's `failures`
    n_dark: int  # images of more than 8 bits, computed now, with no value above 1/16 of white
    n_same: int  # different images with the very features of another
    passed_over: PassedOver  # files that are no images, and folders that are none of the user's
    seconds: float  # until all files of the run were there
    computing_s: float = 0.0  # of it with images on their way through the backbones
    waited_s: dict[str, float] = field(default_factory=dict)  # of that, for which part
    remarks: tuple[str, ...] = ()  # what to know of the images, a sentence each

    @property
    def n_passed_over(self) -> int:
        """Number of files that are no images."""
        return self.passed_over.n_files


Backbone = Union[Names, Path, "keras.Model"]


@with_options(EVERY)
def extract(
    source: Any = DEFAULT_SOURCE, backbone: Backbone = None, **options: Any
) -> store.Features:
    """Return the features of a source's images, computed once and kept in `cache_dir`.

    Parameters
    ----------
    source : whatever `open_source` takes: a folder with one subfolder per class, a manifest, tar
        files, example:clipart or example:digits, or images from Python.
    backbone : name of a backbone, `hf:owner/name`, path of a folder with one or of a .keras file,
        or a Keras model; None is efficientnet-lite0, or the model itself when `weights` is a
        .keras file.
    {options}

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        See each; nothing is left behind but finished parts.
    """
    return run(source, backbone, **options).features


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
    for name in sorted({"backbone", "layer"} & set(options)):
        raise SpecError(f"extract_all takes {name}s, a list of names, instead of {name}.")
    known = {name: one for name, one in EVERY.items() if name != "layer"}
    options = taken(known, options, "extract_all")
    done = run_all(source, backbones, **{**options, "layer": layers})
    return [one.features for one in done]


@with_options(EVERY)
def run(source: Any = DEFAULT_SOURCE, backbone: Backbone = None, **options: Any) -> Extraction:
    """Do what `extract` does for one file, and also say what was computed, reused and failed."""
    for name, value in (("backbone", backbone), ("layer", options.get("layer"))):
        if not requested.is_name(value, or_model=name == "backbone"):
            raise bad(name, "be one name", value, "For several use extract_all.")
    (done,) = run_all(source, backbone, **options)
    return done


@with_options(EVERY)
def run_all(
    source: Any = DEFAULT_SOURCE, backbone: Backbone = None, **options: Any
) -> list[Extraction]:
    """Do what `extract` does, and also say what was computed, reused and failed for each file."""
    costs = Costs()
    numbers, asked = parted(taken(EVERY, options, "extract"))

    def run_here(running: Running) -> list[Extraction]:
        return _run_all(source, backbone, numbers, running, costs)

    return bucket_cache.used(asked, run_here)


def _run_all(
    source: Any, backbone: Backbone, numbers: dict[str, Any], running: Running, costs: Costs
) -> list[Extraction]:
    numbers = dict(numbers)
    engines.keep_programs(running.cache / engines.MODELS_FOLDER, running.device)
    layer, weights = numbers.pop("layer"), numbers["weights"]
    samples = openers.open_source(source, root=running.root, target=running.target)
    progress.notes(samples.remarks, running.show_progress)
    if running.limit is not None and running.limit < len(samples):
        samples = samples.limit(running.limit)
    every = requested.different(
        backbones.resolve(name, layer=tap, memo=running.cache / MEMO_NAME, **numbers)
        for name, tap in requested.combined(backbone, layer, weights)
    )
    made = _make_files(samples, every, running, costs)
    more = {remark for done in made for remark in done.remarks} - set(samples.remarks)
    progress.notes(sorted(more), running.show_progress)
    return made


def extract_network(source: Any, resolved: backbones.Resolved, **options: Any) -> Extraction:
    """Do what `run` does for a network that is there already, as part of a model say.

    Parameters
    ----------
    source : as `open_source` takes it.
    resolved : a spec and its network. The weights that the spec names are the caller's word for
        those of the network.
    **options : how to run, as for `extract`.

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        As `extract`.
    """
    costs = Costs()
    asked = Running(**taken(RUNNING, options, "extract_network"), explains=False)

    def run_here(running: Running) -> list[Extraction]:
        return _make_files(openers.open_source(source), [resolved], running, costs)

    return bucket_cache.used(asked, run_here)[0]


def _make_files(
    source: sources.Source,
    every: Sequence[backbones.Resolved],
    asked: Running,
    costs: Costs,
) -> list[Extraction]:
    """Have the feature files of resolved networks: those that are there, and the rest made."""
    try:
        return _made_in_folder(source, every, asked, costs)
    except FolderTakenError:  # by a source of the same name, after it was looked up
        return _made_in_folder(source, every, asked, costs)


def _made_in_folder(
    source: sources.Source,
    every: Sequence[backbones.Resolved],
    asked: Running,
    costs: Costs,
) -> list[Extraction]:
    stop = asked.on_error == "stop"
    folder = store.source_folder(asked.cache, source.name, source.origin)
    limited = f"-limit{source.limited_to}" if source.limited_to else ""
    paths = [folder / f"{one.spec.short_name}{limited}.h5" for one in every]

    published = [open_if_good(path) for path in paths]
    known = known_to_all(published) if asked.check == "stat" else None
    lenders = None if asked.overwrite else asked.cache  # folder whose files may lend rows
    nothing = unread(source, asked.max_pixels)
    outputs = [
        OutputFile(*each, nothing, assembled_bytes=asked.assembled_bytes)
        for each in zip(paths, every, strict=True)
    ]

    def must_be_read() -> bool:
        """Return whether digests are needed first, as rows may be found by them."""
        return not asked.overwrite and any(one.can_be_found(lenders) for one in outputs)

    def read() -> None:
        listing = look(source, asked.max_pixels, known, asked.show_progress)
        for output in outputs:
            output.learn(listing)

    if stop or must_be_read() or not is_read_in_passing(source, [one.spec for one in every]):
        read()
    if stop:
        stop_at_failure(outputs[0].named_failures())
    files: dict[Path, store.Features] = {}
    todo = []
    for output, before in zip(outputs, published, strict=True):
        if before is not None and not asked.overwrite and output.is_all_in(before):
            output.parts.clear_if_left()
            files[output.path] = before
            output.keep_stamps(before)
        else:
            todo.append(output)
            if before is None and output.path.exists():
                progress.note(f"'{output.path}' cannot be read; made anew.", asked.show_progress)
            if asked.explains and not asked.overwrite and before is None:
                requested.say_why(folder, output.spec, asked.show_progress)
    with ExitStack() as stack:
        if todo:
            stack.enter_context(claimed(folder, source.origin))
        # always in the same order: two runs that want each other's files must not wait for ever
        for path in sorted(output.path for output in todo):
            say = functools.partial(progress.note, show=asked.show_progress)
            stack.enter_context(store.locked(path, asked.wait, say))
        stack.enter_context(uploading.pushing(folder))  # before anybody else here has the locks
        if not outputs[0].listing.is_read and must_be_read():
            read()  # another process has begun meanwhile
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
            executor = stack.enter_context(executors.opened(asked))
            how = Making(executor, machine_of(asked), stop, asked.show_progress, costs)
            files |= make(todo, how, lenders)
            costs.n_computed.update({one.path: int(one.is_computed.sum()) for one in todo})
    for features in files.values() if stop else ():
        stop_at_failure((failure.id, failure.reason) for failure in features.failures)
    return [
        Extraction(
            features=files[output.path],
            hit=output not in todo,
            n_computed=costs.n_computed[output.path],
            n_reused=max(0, len(files[output.path]) - costs.n_computed[output.path]),
            n_removed=len(set(before.ids) - set(source.ids)) if before else 0,
            n_failed=len(files[output.path].failures),
            n_dark=len(output.dark),
            n_same=files[output.path].provenance.get("same_features", 0),
            passed_over=source.passed_over,
            seconds=time.monotonic() - costs.started,
            computing_s=costs.seconds,
            waited_s=costs.waited_s,
            remarks=output.remarks + lost_classes(source, files[output.path].failures),
        )
        for output, before in zip(outputs, published, strict=True)
    ]
