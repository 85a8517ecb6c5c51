"""The verb stitch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli import detection
from featcache.cli.options import RARE, CacheDir, Json, Overwrite, app, by, result, say
from featcache.core.checks import check_choice
from featcache.core.errors import SpecError
from featcache.core.tasks import TASKS
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.models.card import Card


@app.command()
def stitch(
    heads: Annotated[
        Optional[Path], typer.Argument(help="Folder of fit-heads. (the newest in the cache folder)")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The .keras file to write. (beside the heads)")
    ] = None,
    head: Annotated[Optional[str], typer.Option(help="Which head. (the best)")] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil", help="Of a forest: stitch a dense head that learnt from it."),
    ] = False,
    input_: Annotated[
        str,
        typer.Option(
            "--input",
            help="image; or bytes: also a SavedModel that takes encoded files.",
            rich_help_panel=RARE,
        ),
    ] = "image",
    source: Annotated[
        Optional[str], typer.Option(help="The images, if they are elsewhere now.")
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Join backbone and head into one Keras model, and check it on the images."""
    from featcache import store
    from featcache.detection import detector
    from featcache.heads.anomaly import Threshold
    from featcache.heads.open_set import kept
    from featcache.models import stitching
    from featcache.scoring import leaderboard
    from featcache.store import working_copy

    check_choice("input", input_, ("image", "bytes"))
    if heads is None:
        heads = store.newest_heads(working_copy.pulled(cache_dir))
        say(f"Took the newest heads: {heads}")
    heads = working_copy.pulled(heads)
    if out is None and working_copy.root_of(heads) is not None:
        raise SpecError("Heads in a bucket have no folder beside them for the model. Give --out.")
    if detector.is_folder(heads):
        given = {"head": head, "distil": distil, "input": None if input_ == "image" else input_}
        detection.refuse(given, "leave it out")
        detection.stitch(heads, out, source, overwrite, as_json)
        return
    board = leaderboard.load(heads)
    fitted = board[head] if head else board.best
    if head is None:
        say(f"Took the best head: {fitted.name}")
    if out is None:
        out = heads.with_suffix(".keras")
        if overwrite or stitching.read_if_same(fitted, out, distil) is None:
            out = store.place_for(out, cache_dir)
    done = stitching.run(fitted, out, source=source, distil=distil, overwrite=overwrite)
    about = done.card
    task = TASKS[about.task]
    values = {
        "model": str(done.path),
        "labels": str(stitching.labels_path(done.path)),
        "hit": done.hit,
    } | about.to_dict()
    lines = [
        f"{'Found' if done.hit else 'Wrote'} {done.path}: RGB images of "
        f"{by(about.spec.image_size)}, 0 to 255, to {about.output} of "
        f"{counted(len(about.class_names), task.noun, task.nouns)}.",
        f"Parity: {stitching.Parity(**about.parity)}.",
    ]
    if about.size is not None:
        lines.append(f"Size: {stitching.ModelSize(**about.size)}, which fine-tuning can change.")
    if (strangers := about.open_set) is not None:
        threshold = strangers["threshold"]
        lines.append(
            f"Unknown: {strangers['score']} above {threshold['value']:.4g}, a threshold "
            f"{kept(Threshold(**threshold))}."
        )
    if about.distilled is not None:
        lines.extend(_distilled(about, about.distilled, board.metric))
    if input_ == "bytes":
        from featcache.models import export as exporting

        saved = exporting.export(done.path, "saved-model", source=source, overwrite=overwrite)
        values["saved_model"] = str(saved.path)
        lines.append(
            f"SavedModel {saved.path}: encoded files as well, same answer for "
            f"{saved.agreement:.1%} of images, largest difference {saved.largest_difference:.1e}."
        )
    result(as_json, values, "\n".join(lines))


def _distilled(about: Card, distilled: dict[str, Any], metric: str) -> list[str]:
    """Say how far a student says what its teacher says, and how well each does."""
    from featcache.models.stitching.distilling import StudentAgreement

    teacher = distilled["teacher"]
    lines = [f"Distilled from {teacher}: {StudentAgreement(**distilled['agreement'])}."]
    if about.test is not None:
        theirs, ours = distilled["teacher_test"][metric], about.test[metric]
        lines.append(f"Held out, {metric}: {teacher} {_shown(theirs)}, this model {_shown(ours)}.")
    return lines


def _shown(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.3f}"
