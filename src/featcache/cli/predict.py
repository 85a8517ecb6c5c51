"""The verb predict."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli import detection
from featcache.cli.options import (
    RARE,
    CacheDir,
    Device,
    Json,
    Root,
    Runtime,
    app,
    print_table,
    result,
    say,
)
from featcache.core.errors import SourceError, SpecError, one_line
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted
from featcache.models.load import read_card

if TYPE_CHECKING:
    from featcache.inference.predict import Prediction
    from featcache.models.card import Card

STDIN = "-"
SHOWN_PREDICTIONS, SHOWN_UNREADABLE = 20, 5


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, manifests, tar files, URLs; - is a list on stdin."
        ),
    ],
    out: Annotated[
        Optional[Path],
        typer.Option(help="The file to write: .csv, .jsonl or .parquet; of boxes .json or .csv."),
    ] = None,
    top: Annotated[
        Optional[int],
        typer.Option(help="Classes an image, best first. (1; of several labels those it has)"),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also a column for each class or label.")
    ] = False,
    features: Annotated[
        bool, typer.Option("--features", help="Also the embedding, into .jsonl or .parquet.")
    ] = False,
    heatmaps: Annotated[
        Optional[Path],
        typer.Option(help="Of anomalies: a folder for pictures of where they are."),
    ] = None,
    min_score: Annotated[
        Optional[float], typer.Option(help="Of boxes: 0 to 1. (where F1 was best)")
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
    root: Root = None,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Run the backbone also where features are cached.",
            rich_help_panel=RARE,
        ),
    ] = False,
    runtime: Runtime = "auto",
    device: Device = "auto",
) -> None:
    """Name the class, the labels, the values or the boxes of images with a stitched model."""
    from featcache.inference import predict

    if detection.is_of_boxes(read_card(model).task):
        given = {"top": top, "probabilities": probabilities, "features": features}
        detection.refuse(given, "leave it out")
        detection.predict(model, list(_given(images)), out, min_score, root, as_json)
        return
    if min_score is not None:
        raise SpecError("--min-score is for boxes, and this model finds none; leave it out.")
    if out is not None:
        predict.check_out(out, features, [*images, read_card(model).source])
    elif features and not as_json:
        raise SpecError("An embedding is too long for a table; give --out or --json.")
    loaded = predict.load(model, device, runtime, cache_dir)
    wanted = predict.Wanted(loaded.card, top, probabilities, features)
    if heatmaps is not None:
        predict.check_folder(heatmaps)
    every = loaded.stream(
        list(_given(images)),
        top=top,
        probabilities=probabilities,
        features=features,
        heat_maps=heatmaps is not None,
        root=root,
        use_cache=not no_cache,
    )
    seen = _Seen(keep_all=as_json and out is None)
    with nullcontext() if out is None else predict.writer(out, wanted) as put:
        for one in every:
            if heatmaps is not None and one.heat_map is not None:
                predict.write_overlay(heatmaps, one, (loaded.card.threshold or {})["value"])
                one = replace(one, heat_map=None, image=None)
            seen.add(one)
            if put is not None:
                put(one)
    if seen.n_unreadable > SHOWN_UNREADABLE:
        say(f"unreadable: {seen.n_unreadable - SHOWN_UNREADABLE} more.")
    if as_json:
        result(True, seen.to_dict(loaded.card, out), "")
        return
    print_table(_table(seen.kept, loaded.card))
    n_more = seen.n_images - len(seen.kept)
    if n_more > 0:
        typer.echo(
            f"and {n_more} more; {'all are in the file' if out else '--out keeps them all'}."
        )
    if heatmaps is not None:
        typer.echo(f"Heat maps are in {heatmaps}")
    kept = f"Wrote {out}: " if out else ""
    typer.echo(f"{kept}{counted(seen.n_images, 'image')}, {seen.n_unreadable} unreadable.")


class _Seen:
    """What went by on its way to a file."""

    def __init__(self, keep_all: bool):
        self.kept: list[Prediction] = []  # the first ones, or all
        self.n_images = self.n_unreadable = self.n_from_cache = 0
        self._keep_all = keep_all

    def add(self, one: Prediction) -> None:
        self.n_images += 1
        self.n_from_cache += one.from_cache
        if one.error:
            self.n_unreadable += 1
            if self.n_unreadable <= SHOWN_UNREADABLE:
                say(one_line(f"unreadable: {one.path}: {one.error}"))
        if self._keep_all or len(self.kept) < SHOWN_PREDICTIONS:
            self.kept.append(one)

    def to_dict(self, described: Card, out: Path | None) -> dict[str, Any]:
        """Return all for --json; what is in a file is not repeated."""
        counts = {
            "images": self.n_images,
            "unreadable": self.n_unreadable,
            "from_cache": self.n_from_cache,
        }
        values = {"task": described.task, "output": described.output, **counts}
        if out is not None:
            return values | {"file": str(out)}
        return values | {"predictions": [one.to_dict() for one in self.kept]}


def _given(images: Iterable[str]) -> Iterator[str]:
    """Yield what was given, and in place of - the paths on stdin: a line each, or ending in \\0."""
    for image in images:
        if image != STDIN:
            yield image
            continue
        stdin = b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: it is closed
        listed = stdin.removeprefix(codecs.BOM_UTF8)
        if listed.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SourceError("The list on stdin is UTF-16; give it as UTF-8.")
        lines = listed.split(b"\0") if b"\0" in listed else listed.splitlines()
        paths = [os.fsdecode(line) for line in lines if line.strip()]
        if not paths:
            raise SourceError("No paths came on stdin; give one per line.")
        yield from paths


def _table(predictions: list[Prediction], described: Card) -> Any:
    from rich.table import Table
    from rich.text import Text

    unit = {"probabilities": "probability", "scores": "score", "values": "value"}
    task = TASKS[described.task]
    named = task.nouns if task.kind is TargetKind.LABELS else task.noun
    table = Table("image", named, unit[described.output])
    if described.open_set is not None:
        above = f"unknown above {_shown(described.open_set['threshold']['value'])}"
        table.add_column(f"{described.open_set['score']},\n{above}", justify="right")
    for one in predictions:
        said = dict(zip(one.classes, one.scores, strict=True))
        if task.kind is TargetKind.NUMBERS and one.outputs is not None:
            said = one.outputs
        table.add_row(
            Text(one.path, overflow="fold"),
            Text("\n".join(said) or (f"unreadable: {one.error}" if one.error else "none")),
            "\n".join(map(_shown, said.values())),
            *([] if one.stranger is None else [_shown(one.stranger)]),
        )
    return table


def _shown(score: float) -> str:
    return f"{score:.3f}" if abs(score) < 10 else f"{score:.4g}"
