"""The verb extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli.options import (
    Json,
    app,
    learnable,
    listed,
    result,
    say,
    with_declared,
)
from featcache.core.errors import one_line
from featcache.core.repeats import sentence
from featcache.core.running import EVERY
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.extraction import Extraction

WORTH_SAYING_S = 1.0  # less time than that is taken by starting up


@app.command()
@with_declared(EVERY)
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder per class, manifest (.csv, .tsv, .jsonl, .parquet), "
            "tar shards, a URL of these (s3://, gs://, az://, hf://, https://), or "
            "example:clipart|digits."
        ),
    ] = "example:clipart",
    backbone: Annotated[
        Optional[str],
        typer.Option(
            help="A name (see `featcache backbones`), hf:owner/name, a folder of weights or a "
            ".keras file; or several: a,b. (efficientnet-lite0)"
        ),
    ] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run a frozen backbone once over images; keep the embeddings as HDF5."""
    from featcache import extraction

    several = {name: listed(name, options[name]) for name in EVERY if EVERY[name].has_several}
    is_path = "," in (backbone or "") and Path(str(backbone)).exists()  # a comma in its name
    names = [str(backbone)] if is_path else listed("backbone", backbone)
    every = extraction.run_all(source, names, **(options | several))
    failures = {one.id: one.reason for done in every for one in done.features.failures}
    for id_, reason in list(failures.items())[:5]:
        say(one_line(f"unreadable: {id_}: {reason}"))
    if len(failures) > 5:
        say(f"unreadable: {len(failures) - 5} more, see 'failures' in the file")
    if n_dark := every[0].n_dark:
        say(
            f"dark: {n_dark} image(s) of more than 8 bits, no value above 1/16 of white. If they "
            f"have 12 bits in files of 16, say --value-range 0 4095."
        )
    values = [_described(done) for done in every]
    text = "\n".join(_told(done) for done in every)
    text += f"\n{_timed(every[0], sum(done.n_computed for done in every))}"
    result(as_json, values[0] if len(every) == 1 else {"extractions": values}, text)


def _described(done: Extraction) -> dict[str, Any]:
    features = done.features
    return {
        "features": str(features.path),
        "shape": list(features.shape),
        "views": features.spec.views,
        "hit": done.hit,
        "computed": done.n_computed,
        "reused": done.n_reused,
        "removed": done.n_removed,
        "failed": done.n_failed,
        "passed_over": done.n_passed_over,
        "dark": done.n_dark,
        "same_features": done.n_same,
        "passed_over_by_kind": done.passed_over.files,
        "notes": done.remarks,
        "task": features.task,
        "classes": list(features.class_names),
        "fingerprint": features.fingerprint,
        "seconds": round(done.seconds, 3),
        "computing_seconds": round(done.computing_s, 3),
        "waited_seconds": {name: round(value, 3) for name, value in done.waited_s.items()},
    }


def _told(done: Extraction) -> str:
    features = done.features
    n, *row = features.shape
    what = counted(row[0], "feature") if len(row) == 1 else f"a map of {' x '.join(map(str, row))}"
    views = f", {features.spec.views} views" if features.spec.views > 1 else ""
    same = f"\n{sentence(done.n_same, n)}" if done.n_same else ""
    kinds = f": {done.passed_over.told()}" if done.n_passed_over else ""
    return (
        f"{'Found' if done.hit else 'Wrote'} {features.path}: {counted(n, 'image')} "
        f"{learnable(features)}{views}, {what} each.\n"
        f"Computed {done.n_computed}, reused {done.n_reused}, removed {done.n_removed}, "
        f"failed {done.n_failed}, passed over {counted(done.n_passed_over, 'other file')}{kinds}."
        f"{same}"
    )


def _timed(done: Extraction, n_computed: int) -> str:
    if not n_computed or done.computing_s < WORTH_SAYING_S:
        return f"It took {done.seconds:.1f} s."
    total = sum(done.waited_s.values()) or 1.0
    shares = " and ".join(
        f"{100 * seconds / total:.0f} % for {'decoding' if name == 'decoding' else 'the backbone'}"
        for name, seconds in done.waited_s.items()
    )
    return (
        f"It took {done.seconds:.1f} s, {done.computing_s:.1f} s of it for images on their way; "
        f"waited {shares}."
    )
