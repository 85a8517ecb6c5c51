"""What the verbs do where the task is detection; each asks here before it does anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from featcache.cli.options import by, print_table, result, say
from featcache.core.errors import SpecError, one_line
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.detection.model import Detected

SHOWN, SHOWN_UNREADABLE = 20, 5  # images of a prediction


def is_of_boxes(task: str) -> bool:
    """Return whether a task is this one's."""
    return TASKS[task].kind is TargetKind.BOXES


def refuse(given: Mapping[str, object], instead: str) -> None:
    """Raise SpecError for an option that was given and means nothing for boxes."""
    for name, value in given.items():
        if value not in (None, False):
            raise SpecError(f"--{name.replace('_', '-')} means nothing for boxes; {instead}.")


def fit(
    features: Sequence[Path],
    cache_dir: Path,
    overwrite: bool,
    report: bool,
    as_json: bool,
    epochs: Optional[int],
    seed: int,
) -> None:
    """Fit a detector on feature files, and show it."""
    from featcache.detection import api
    from featcache.detection.detector import PAGE_FILE

    settings: dict[str, Any] = {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
    found = api.fit_detector(
        list(features), cache_dir=cache_dir, overwrite=overwrite, report=report, **settings
    )
    if as_json:
        result(True, found.to_dict(), "")
        return
    print_table(found)
    page = found.folder / PAGE_FILE
    typer.echo(f"See {page if page.exists() else found.folder}")


def stitch(
    heads: Path, out: Optional[Path], source: Optional[str], overwrite: bool, as_json: bool
) -> None:
    """Stitch a detector into a file, and say how it compares."""
    from featcache import store
    from featcache.detection import detector, stitching
    from featcache.models import card

    fitted = detector.load(heads)
    if out is None:
        out = store.place_for(heads.with_suffix(".keras"), heads.parent.parent)
    is_hit = not overwrite and stitching.read_if_same(fitted, out) is not None
    if not is_hit:
        stitching.stitch_detector(fitted, out, source=source, overwrite=overwrite)
    about = card.read(out)
    text = (
        f"{'Found' if is_hit else 'Wrote'} {out}: RGB images of {by(about.spec.image_size)}, 0 to "
        f"255, to at most {fitted.settings.max_boxes} boxes of "
        f"{counted(len(about.class_names), 'class', 'classes')}.\n"
        f"Parity: {stitching.Parity(**about.parity)}."
    )
    result(as_json, {"model": str(out), "hit": is_hit} | about.to_dict(), text)


def predict(
    model: Path,
    images: Sequence[str],
    out: Optional[Path],
    min_score: Optional[float],
    root: Optional[Path],
    as_json: bool,
) -> None:
    """Find boxes on images, into a file or a table."""
    from featcache.detection import writing
    from featcache.detection.model import load_detector

    loaded = load_detector(model)
    if out is not None:
        writing.check_out(out, [*images, loaded.card.source])
    every = loaded.predict(list(images), min_score=min_score, root=root)
    lost = [one for one in every if one.error]
    for one in lost[:SHOWN_UNREADABLE]:
        say(one_line(f"unreadable: {one.path}: {one.error}"))
    if len(lost) > SHOWN_UNREADABLE:
        say(f"unreadable: {len(lost) - SHOWN_UNREADABLE} more.")
    if out is not None:
        writing.write(every, loaded.card.class_names, out)
    n_boxes = sum(len(one.boxes) for one in every)
    if as_json:
        counts = {"images": len(every), "unreadable": len(lost), "boxes": n_boxes}
        more: dict[str, Any] = {"file": str(out)}
        if out is None:
            more = {"predictions": [one.to_dict() for one in every]}
        result(True, {"task": loaded.card.task} | counts | more, "")
        return
    print_table(_table(every[:SHOWN]))
    if len(every) > SHOWN:
        typer.echo(f"and {len(every) - SHOWN} more; {'all are in the file' if out else '--out'}.")
    kept = f"Wrote {out}: " if out else ""
    typer.echo(
        f"{kept}{counted(n_boxes, 'box', 'boxes')} on {counted(len(every), 'image')}, "
        f"{len(lost)} unreadable."
    )


def _table(every: Sequence[Detected]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "score", "x, y, width, height")
    for one in every:
        boxes = one.boxes
        nothing = f"unreadable: {one.error}" if one.error else "nothing"
        table.add_row(
            Text(one.path, overflow="fold"),
            Text("\n".join(box["label"] for box in boxes) or nothing),
            "\n".join(f"{box['score']:.3f}" for box in boxes),
            "\n".join(", ".join(f"{side:.0f}" for side in box["box"]) for box in boxes),
        )
    return table


def evaluate(
    model: Path,
    source: Optional[str],
    split: Optional[str],
    root: Optional[Path],
    out: Optional[Path],
    as_json: bool,
) -> None:
    """Measure a detector on images with boxes."""
    from featcache.core import atomic
    from featcache.core.escapes import all_escaped
    from featcache.detection.evaluating import evaluate_detector

    done = evaluate_detector(model, source, split=split, root=root)
    for id_, reason in list(done.unreadable.items())[:SHOWN_UNREADABLE]:
        say(one_line(f"unreadable: {id_}: {reason}"))
    if out is not None:
        atomic.write_json(out, all_escaped(done.to_dict()))
    if as_json:
        result(True, done.to_dict(), "")
        return
    print_table(done)
    if out is not None:
        typer.echo(f"Wrote {out}")


def export(
    model: Path,
    formats: Sequence[str],
    source: Optional[str],
    out: Optional[Path],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a detector as ONNX, and say how it compares."""
    from featcache.detection.exporting import export_detector

    if list(formats) != ["onnx"]:
        raise SpecError(f"A detector is exported as onnx; got {', '.join(formats)}.")
    done = export_detector(model, source=source, out=out, overwrite=overwrite)
    result(as_json, done.to_dict(), str(done))
