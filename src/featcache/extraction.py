"""Run a frozen backbone once over the images of a source: source x backbone -> feature file.

The order of work: list and hash the images; if a file holds exactly these rows, stop there; else
find every row that was ever computed with this spec, compute the rest into parts, publish.
TensorFlow is imported only when something has to be computed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache import (
    backbones,
    decoding,
    progress,
    runtime,
    sources,
    store,
    weights_memo,
)
from featcache.computing import ON_ERROR, Work, stop_at_failure
from featcache.errors import SourceError, SpecError, StoreError
from featcache.inventory import Inventory, first_of_each, known_stamps, look
from featcache.spec import MAX_PIXELS, ExtractionSpec, check_choice

DEFAULT_CACHE = "cache"
DEFAULT_SOURCE = "example:clipart"
MAX_ATTEMPTS = 10
CHECKS = ("stat", "content")


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
    seconds: float


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
    dtype: str = "float32",
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_error: str = "skip",
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
) -> store.Features:
    """Return the features of a source's images, computed once and kept in `cache_dir`.

    Parameters
    ----------
    source : whatever `open_source` takes: a folder with one subfolder a class, a manifest, tar
        files, example:clipart or example:digits, or images from Python.
    backbone : name from `catalogue.CATALOGUE`; None is efficientnet-lite0, or the model itself
        when `weights` is a .keras file.
    weights : imagenet, random, or the path of a weights file or of a .keras backbone.
    pooling : avg, max or flatten; how a feature map becomes a vector.
    layer : name of the layer whose output is taken; None is the backbone's output.
    image_size : pixels, one number or (height, width); None is the backbone's own size.
    resize : bilinear (as Keras does), or antialias (better for large photographs, slower).
    background : colour under transparent pixels, a name or #rrggbb.
    dtype : float32 or float16, as stored.
    root, target : see `open_source`; for a manifest or tar files.
    limit : use only so many images, spread evenly over the sorted list.
    max_pixels : larger images are failures.
    on_error : skip records an image that cannot be read as a failure; stop raises at the first.
    batch_size : images a forward pass; changes no more than the last bits of the numbers.
    device : auto, cpu or gpu; auto is the GPU where TensorFlow sees one.
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
        dtype=dtype,
        root=root,
        target=target,
        limit=limit,
        max_pixels=max_pixels,
        on_error=on_error,
        batch_size=batch_size,
        cache_dir=cache_dir,
        device=device,
        check=check,
        wait=wait,
        overwrite=overwrite,
        show_progress=show_progress,
    ).features


def run(
    source: Any = DEFAULT_SOURCE,
    backbone: str | None = None,
    *,
    background: str = "white",
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_error: str = "skip",
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
    **spec_options: Any,
) -> Extraction:
    """Do what `extract` does and also say what was computed, reused and failed."""
    started = time.monotonic()
    check_choice("device", device, runtime.DEVICES)
    check_choice("check", check, CHECKS)
    check_choice("on_error", on_error, ON_ERROR)
    for name, value in (("batch_size", batch_size), ("limit", limit), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise SpecError(f"{name} must be 1 or more; got {value}.")
    spec_options["background"] = decoding.colour(background)
    cache = Path(cache_dir)
    samples = sources.open_source(source, root=root, target=target)
    path_suffix = ""
    if limit is not None and limit < len(samples):
        samples, path_suffix = samples.limit(limit), f"-limit{limit}"
    resolved = backbones.resolve(backbone, memo=cache / weights_memo.FILE_NAME, **spec_options)
    folder = store.source_folder(cache, samples.name, samples.origin)
    path = folder / f"{resolved.spec.short_name}{path_suffix}.h5"

    published = _open_if_good(path)
    known = known_stamps(published) if published is not None and check == "stat" else None
    state = look(samples, max_pixels, known, show_progress)
    stop = on_error == "stop"
    if stop:
        stop_at_failure(state.named_failures())

    def done(features: store.Features, n_computed: int, hit: bool) -> Extraction:
        if stop:
            stop_at_failure((failure.id, failure.reason) for failure in features.failures)
        return Extraction(
            features=features,
            hit=hit,
            n_computed=n_computed,
            n_reused=len(features) - n_computed,
            n_removed=len(set(published.ids) - set(samples.ids)) if published else 0,
            n_failed=len(features.failures),
            n_passed_over=samples.n_passed_over,
            seconds=time.monotonic() - started,
        )

    parts = store.Parts(path, resolved.spec.fingerprint, samples.origin)
    if published is not None and not overwrite and state.is_all_in(published):
        _tidy(parts)
        return done(published, 0, hit=True)
    if not overwrite:
        _say_why(published, folder, resolved.spec, show_progress)
    with store.locked(path, wait, lambda text: progress.note(text, show_progress)):
        finished = _open_if_good(path)  # another process may have been quicker
        if finished is not None and not overwrite and state.is_all_in(finished):
            parts.clear()
            return done(finished, 0, hit=True)
        work = Work(state, resolved, parts, show_progress, batch_size, device, stop)
        parts.sweep()
        if overwrite:
            parts.clear()
        features = _assemble(path, None if overwrite else cache, work)
    return done(features, work.n_computed, hit=False)


def repair(path: Path, show_progress: bool = True) -> tuple[store.Damage, int]:
    """Compute the damaged rows of a feature file again from its source, and publish it anew.

    Returns
    -------
    What was damaged, and the number of rows computed.

    Raises
    ------
    SourceError, BackboneError, StoreError
        When the images or the weights are no longer where they were, or the file does not lie in a
        cache folder; it is left as it is.
    """
    if store.owner(path.parent) != store.Features(path).provenance["source"]:
        raise StoreError(
            f"'{path}' does not lie in the cache folder it was made for. Move it back to its "
            f"folder there, beside source.json, and verify again."
        )
    with store.locked(path, True, progress.note):
        features = store.Features(path)
        spec, provenance = features.spec, features.provenance
        parts = store.Parts(path, spec.fingerprint, provenance["source"])
        damage = store.verify(features)
        if not damage:
            parts.clear()
            return damage, 0
        samples = sources.reopen(provenance)
        if limit := provenance.get("limit"):
            samples = samples.limit(limit)
        name, options = backbones.options_of(spec, provenance["weights"])
        memo = path.parent.parent / weights_memo.FILE_NAME
        resolved = backbones.resolve(name, memo=memo, **options)
        if resolved.spec != spec:
            raise StoreError(
                f"The weights of '{path}', {provenance['weights']}, are no longer the same; put "
                f"them back and verify again."
            )
        max_pixels = provenance.get("max_pixels", MAX_PIXELS)
        state = look(samples, max_pixels, None, show_progress)
        work = Work(state, resolved, parts, show_progress)
        work.build()  # its errors come before anything is written
        store.salvage(features, damage, parts)
        _assemble(path, path.parent.parent, work, passed_by=path)
    return damage, work.n_computed


def _assemble(
    path: Path, cache: Path | None, work: Work, passed_by: Path | None = None
) -> store.Features:
    """Compute what no file has, and publish; the lock of `path` is held.

    `cache` is the folder whose files may lend rows, but for the one `passed_by`; None uses this
    run's parts alone.
    """
    state, spec = work.found, work.resolved.spec
    samples = state.samples
    damaged = {passed_by}
    # each lender may turn out damaged, and then its rows are computed
    attempts = MAX_ATTEMPTS + 2 * (len(store.of_fingerprint(cache, spec)) if cache else 0)
    for _ in range(attempts):
        # again from the top when a file that was to lend rows turns out damaged, or is gone
        lenders = [*work.parts.paths(), *(store.of_fingerprint(cache, spec) if cache else ())]
        kept = store.Rows([lender for lender in lenders if lender not in damaged])
        is_missing = kept.find(state.scanned.digests) < 0
        is_missing[list(state.failed)] = False
        missing = np.flatnonzero(is_missing)
        if len(missing):
            work.compute(first_of_each(state.scanned.digests, missing))
            state.fail_copies()
            continue
        table = state.table()
        if not table.ids:
            example = table.failures[0]
            raise SourceError(
                f"None of the {len(samples)} images in '{samples.origin}' could be read; "
                f"the first, '{example.id}': {example.reason}."
            )
        try:
            provenance = _provenance(state, work.resolved.weights)
            features = store.publish(path, spec, table, kept, provenance)
        except store.DamagedFileError as error:
            damaged.add(error.path)
            continue
        work.parts.clear()  # every row of the source is in the file now
        return features
    raise StoreError(
        f"Rows for '{path}' disappeared {attempts} times. Does another program write there? "
        f"Run the same command again, or use another --cache-dir."
    )


def _tidy(parts: store.Parts) -> None:
    """Delete parts that a process left when it died between publishing and deleting them."""
    if parts.folder.exists():
        # who holds the lock needs them, and a folder that cannot be written keeps them
        with suppress(StoreError, OSError), store.locked(parts.target, False, progress.note):
            parts.clear()


def _say_why(
    published: store.Features | None, folder: Path, spec: ExtractionSpec, show: bool
) -> None:
    """Say which field of the spec differs from that of the newest file of the same source."""
    if published is not None or not folder.is_dir():
        return
    newest_first = sorted(folder.glob("*.h5"), key=lambda file: file.stat().st_mtime, reverse=True)
    for other in newest_first:
        found = _open_if_good(other)
        if found is not None and found.spec != spec:
            differences = "; ".join(spec.differences(found.spec))
            progress.note(f"No cached features: {differences}.", show)
            return


def _open_if_good(path: Path) -> store.Features | None:
    """Return a feature file whose columns can be read; whether its features can is not asked."""
    try:
        features = store.Features(path)
        assert features.table
    except StoreError:
        return None
    return features


def _provenance(state: Inventory, weights: str) -> dict[str, Any]:
    """Return what is worth knowing about a run but does not change its numbers."""
    samples = state.samples
    packages = ("tensorflow", "keras", "numpy", "h5py", "pillow")
    return {
        "source": samples.origin,
        "source_options": dict(samples.options),
        "limit": samples.limited_to,
        "max_pixels": state.max_pixels,
        "weights": weights,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
