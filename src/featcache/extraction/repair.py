"""From a damaged feature file to a whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from featcache import store
from featcache.core import disk, progress
from featcache.core.errors import StoreError
from featcache.core.spec import MAX_PIXELS
from featcache.data import openers
from featcache.extraction.executors import Inline
from featcache.extraction.listing import look
from featcache.extraction.output import OutputFile
from featcache.extraction.publish import Making, make
from featcache.extraction.shards import Machine, networks_of
from featcache.networks import backbones, engines
from featcache.networks.weights import MEMO_NAME
from featcache.store import uploading

NetworkOf = Callable[[store.Features], backbones.Resolved]


def repair(
    path: Path, show_progress: bool = True, of_model: NetworkOf | None = None
) -> tuple[store.Damage, int]:
    """Compute the damaged rows of a feature file again from its source, and publish it anew.

    Parameters
    ----------
    of_model : gives the network of features that a fine-tuned model gave; None can repair others.

    Returns
    -------
    What was damaged, and the number of images computed.

    Raises
    ------
    SourceError, BackboneError, StoreError
        When the images or the weights are no longer where they were, or the file does not lie in a
        cache folder; it is left as it is.
    """
    if store.owner(path.parent) != store.Features(path).provenance["source"]:
        raise StoreError(
            f"'{path}' does not lie in the cache folder it was made for. Move it and its parts, if "
            f"it has any, back to their folder there, beside source.json, and verify again."
        )
    if not disk.is_writable(path.parent):
        raise StoreError(
            f"'{path}' is damaged, and its folder may not be written to. Copy the cache folder to "
            f"where it may be, and repair it there."
        )
    cache = path.parent.parent
    with store.locked(path, True, progress.note), uploading.pushing(path):
        features = store.Features(path)
        spec, provenance = features.spec, features.provenance
        parts = store.Parts(path, spec, provenance["source"])
        damage = store.verify(features)
        if not damage:
            parts.clear()
            return damage, 0
        source = openers.reopen(provenance)
        if limit := provenance.get("limit"):
            source = source.limit(limit)
        if of_model is not None and provenance.get("model"):
            resolved = of_model(features)
        else:
            name, options = backbones.options_of(spec, provenance["weights"])
            resolved = backbones.resolve(name, memo=cache / MEMO_NAME, **options)
        if resolved.spec != spec:
            raise StoreError(
                f"The weights of '{path}', {provenance['weights']}, are no longer the same. Put "
                f"them back and verify again, or delete the file: what needs it computes it anew."
            )
        max_pixels = provenance.get("max_pixels", MAX_PIXELS)
        output = OutputFile(path, resolved, look(source, max_pixels, None, show_progress))
        machine, executor = Machine(models=cache / engines.MODELS_FOLDER), Inline()
        ((network, _),) = networks_of([resolved], machine)
        executor.networks.of(network).build()  # its errors come before anything is written
        store.salvage(features, damage, parts)
        how = Making(executor, machine, show_progress=show_progress)
        make([output], how, cache, passed_by=[path])
    return damage, int(output.is_computed.sum())
