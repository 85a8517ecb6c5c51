"""The verb verify: reads all of a feature file, and repairs it. TensorFlow only to repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.options import Json, app, result
from featcache.core.text import counted


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A feature file, or its s3:// URL.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Compute the damaged rows again from the images.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read all of a feature file and name what is damaged; exit code 1 if anything is."""
    from featcache import store
    from featcache.core.errors import StoreError
    from featcache.store import working_copy

    path = working_copy.pulled(path, afresh=True)
    features = store.Features(path)
    damage = store.verify(features)
    if not damage:
        values = {"path": str(path), "damaged": False, "rows": [], "columns": []}
        result(as_json, values, f"'{path}' is whole: {counted(len(features), 'row')}.")
        return
    if not repair:
        raise StoreError(
            f"Feature file '{path}' is damaged: {damage}. Run `featcache verify --repair` to "
            f"compute just that again."
        )
    from featcache.extraction.repair import repair as repair_file
    from featcache.finetuning.boundary import network_of

    damage, n_computed = repair_file(path, of_model=network_of)
    values = {
        "path": str(path),
        "damaged": True,
        "rows": [list(span) for span in damage.rows],
        "columns": list(damage.columns),
        "computed": n_computed,
    }
    result(
        as_json,
        values,
        f"Mended '{path}': {damage}. Computed {n_computed} image(s) again.",
    )
