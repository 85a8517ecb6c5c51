"""The verb compact: small parts of a feature file into large ones. Never TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.options import Json, app, result, say
from featcache.core.text import counted


@app.command()
def compact(
    path: Annotated[Path, typer.Argument(help="A feature file, or its s3:// URL.")],
    one_file: Annotated[
        bool, typer.Option("--one-file", help="Put all rows into the file itself.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make few large parts of a feature file's many small ones; readers go on meanwhile."""
    from featcache.store import compacting, working_copy

    path = working_copy.pulled(path)
    done = compacting.compact(path, one_file, say=say)
    text = f"'{path}' has no parts."
    if done.n_before:
        after = counted(done.n_after, "part") if done.n_after else "the file itself"
        text = f"Put the rows of '{path}' from {counted(done.n_before, 'part')} into {after}."
    values = {"path": str(path), "parts_before": done.n_before, "parts": done.n_after}
    result(as_json, values, text)
