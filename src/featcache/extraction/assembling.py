"""From what is missing to published files; and from a damaged file to a whole one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.errors import StoreError
from featcache.core.spec import MAX_PIXELS
from featcache.data import openers
from featcache.extraction.computing import Work
from featcache.extraction.inventory import look
from featcache.extraction.networks import Settings
from featcache.extraction.targets import Target
from featcache.networks import backbones, engines
from featcache.networks.weights import MEMO_NAME

MAX_ATTEMPTS = 10


def assemble(
    work: Work, cache: Path | None, passed_by: Path | None = None
) -> dict[Path, store.Features]:
    """Compute what no file has, and publish every target; their locks are held.

    `cache` is the folder whose files may lend rows, but for the one `passed_by`; None uses this
    run's parts alone.
    """
    damaged = {passed_by} if passed_by else set()
    files: dict[Path, store.Features] = {}
    # each lender may turn out damaged, and then its rows are computed
    lenders = [
        path for mine in work.targets for path in (store.of_spec(cache, mine.spec) if cache else ())
    ]
    attempts = MAX_ATTEMPTS + 2 * len(lenders)
    for _ in range(attempts):
        # again from the top when a file that was to lend rows turns out damaged, or is gone
        todo = [mine for mine in work.targets if mine.path not in files]
        if not todo:
            return files
        rows = {mine.path: mine.rows(cache, damaged) for mine in todo}
        nothing = np.zeros((len(work.targets[0].found.samples), work.targets[0].spec.views), bool)
        missing = [
            mine.missing(rows[mine.path]) if mine.path in rows else nothing for mine in work.targets
        ]
        if any(some.any() for some in missing):
            work.compute(missing)
            for mine in todo:
                mine.found.fail_copies()
            continue
        # one that has no row at all ends the run, after the others are safe
        todo.sort(key=lambda mine: len(mine.found.failed) == len(mine.found.samples))
        try:
            for mine in todo:
                files[mine.path] = mine.publish(rows[mine.path])
        except store.DamagedFileError as error:
            damaged.add(error.path)
        except store.ReplacedFileError:
            continue  # its rows are found again where they are now
    paths = ", ".join(f"'{mine.path}'" for mine in work.targets if mine.path not in files)
    raise StoreError(
        f"Rows for {paths} disappeared {attempts} times. Does another program write there? "
        f"Run the same command again, or use another --cache-dir."
    )


def repair(path: Path, show_progress: bool = True) -> tuple[store.Damage, int]:
    """Compute the damaged rows of a feature file again from its source, and publish it anew.

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
            f"'{path}' does not lie in the cache folder it was made for. Move it back to its "
            f"folder there, beside source.json, and verify again."
        )
    cache = path.parent.parent
    with store.locked(path, True, progress.note):
        features = store.Features(path)
        spec, provenance = features.spec, features.provenance
        parts = store.Parts(path, spec, provenance["source"])
        damage = store.verify(features)
        if not damage:
            parts.clear()
            return damage, 0
        samples = openers.reopen(provenance)
        if limit := provenance.get("limit"):
            samples = samples.limit(limit)
        name, options = backbones.options_of(spec, provenance["weights"])
        resolved = backbones.resolve(name, memo=cache / MEMO_NAME, **options)
        if resolved.spec != spec:
            raise StoreError(
                f"The weights of '{path}', {provenance['weights']}, are no longer the same. Put "
                f"them back and verify again, or delete the file: what needs it computes it anew."
            )
        max_pixels = provenance.get("max_pixels", MAX_PIXELS)
        mine = Target(path, resolved, look(samples, max_pixels, None, show_progress))
        work = Work(
            [mine], Settings(show_progress=show_progress, models=cache / engines.MODELS_FOLDER)
        )
        work.build()  # its errors come before anything is written
        store.salvage(features, damage, parts)
        assemble(work, cache, passed_by=path)
    return damage, len(mine.computed)
