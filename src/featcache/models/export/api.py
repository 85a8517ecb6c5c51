"""A stitched model in other formats, each run on real images and compared with the model.

A file that does not give what the model gives is removed; the figures are kept beside the model in
`NAME.exports.json`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.core import atomic, progress
from featcache.core.checks import check_number, whole_number, with_checked_arguments
from featcache.core.errors import DiskError, FeatcacheError, SpecError, StitchError
from featcache.core.escapes import escaped
from featcache.core.tasks import TASKS
from featcache.core.text import counted
from featcache.models import card
from featcache.models.export import comparing, writers
from featcache.models.export.exported import Exported, ExportRecords, size_bytes
from featcache.models.export.writers import FORMATS
from featcache.models.load import load_keras, read_card

MAX_IMAGES = 500  # to compare on


@with_checked_arguments
def export(
    model: str | os.PathLike[str],
    format: str,
    *,
    source: Any = None,
    out: str | os.PathLike[str] | None = None,
    min_agreement: float | None = None,
    max_images: int = MAX_IMAGES,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Exported:
    """Write a stitched model in another format, and return how the file agrees with it.

    Parameters
    ----------
    model : a stitched .keras file.
    format : saved-model, onnx, tflite, tflite-float16, tflite-int8 or openvino.
    source : images to compare on, as `open_source` takes them; None is where the model's features
        came from. tflite-int8 takes the ranges of its integers from 200 of the training part.
    out : the file, or the folder for saved-model and openvino; None is beside the model.
    min_agreement : share of images that must get the same class, the same labels, or values within
        the format's tolerance; None is 1, and 0.98 for tflite-int8.
    max_images : to compare on, at most; those that were held out come first.
    overwrite : write and compare also what is there already of this very model, and replace a
        file that is not its export.

    Raises
    ------
    SpecError
        When an option is wrong, or what the format needs is not installed.
    StitchError
        When the model cannot be loaded or written in this format, or the file does not give the
        same; it is removed then.
    SourceError
        When the images are gone.
    """
    (done,), failed = export_all(
        model,
        [format],
        source=source,
        out=out,
        min_agreement=min_agreement,
        max_images=max_images,
        overwrite=overwrite,
        show_progress=show_progress,
        stop=True,
    )
    assert not failed
    return done


def export_all(
    model: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    source: Any = None,
    out: str | os.PathLike[str] | None = None,
    min_agreement: float | None = None,
    max_images: int = MAX_IMAGES,
    overwrite: bool = False,
    show_progress: bool = True,
    stop: bool = False,
) -> tuple[list[Exported], dict[str, FeatcacheError]]:
    """Do what `export` does for several formats; return also why those that failed did.

    `stop` raises the first failure instead.
    """
    path = Path(model)
    how = {name: writers.check(name) for name in formats}
    _check(how, out, min_agreement, max_images)
    about = read_card(path)
    kept = ExportRecords(path, about, source)
    targets = {
        name: Path(out) if out is not None else path.with_name(path.stem + one.suffix)
        for name, one in how.items()
    }
    least = {
        name: one.least_agreement if min_agreement is None else min_agreement
        for name, one in how.items()
    }
    there: dict[str, Exported] = {}
    for name, one in how.items():
        target = targets[name]
        place = atomic.real(target)
        atomic.sweep(place.parent, f"{place.name}.")
        _check_target(target, one)
        if overwrite or not target.exists():
            continue
        if not kept.is_own(name, target):
            raise SpecError(
                f"'{target}' is there and was not exported from '{path}', or was changed "
                f"since. Choose another --out, or replace it with --overwrite."
            )
        if (known := kept.find(name, target, least[name])) is not None:
            there[name] = known
    done: list[Exported] = []
    failed: dict[str, FeatcacheError] = {}
    network = images = None
    for name in how:
        if name in there:
            done.append(there[name])
            continue
        if network is None or images is None:
            network = load_keras(path, about)
            progress.note("Reading images to compare on.", show_progress)
            needs_training = any(other.quantised for other in how.values())
            images = comparing.sample(network, about, source, max_images, needs_training)
        progress.note(f"Writing and running {name}.", show_progress)
        try:
            made = _made(name, network, about, targets[name], images, least[name])
        except FeatcacheError as error:
            if stop:
                raise
            failed[name] = error
            continue
        try:
            kept.add(made)
        except DiskError as error:
            progress.note(f"The figures of {name} are not kept. {error}", show_progress)
        done.append(made)
    return done, failed


def _check(
    how: dict[str, writers.Format], out: Any, min_agreement: float | None, max_images: int
) -> None:
    if not how:
        raise SpecError(f"format names nothing. Name one of {', '.join(FORMATS)}, or all.")
    if min_agreement is not None:
        check_number("min_agreement", min_agreement, "lie in 0 to 1", lambda share: 0 <= share <= 1)
    whole_number("max_images", max_images, 1)
    if out is not None and len(how) > 1:
        raise SpecError(f"out names one file, and {len(how)} formats are asked for; leave it out.")


def _check_target(path: Path, one: writers.Format) -> None:
    whole = os.path.abspath(path)
    if escaped(whole) != whole:
        raise SpecError(
            f"'{path}' is or lies in a folder whose name is no UTF-8, which the libraries that "
            f"write and run exports cannot open. Choose another --out."
        )
    if not path.parent.is_dir():
        raise SpecError(f"Folder '{path.parent}' for '{path.name}' does not exist.")
    inside = {"saved-model": "saved_model.pb", "openvino": "model.xml"}.get(one.kind)
    if inside is None and path.suffix != one.ending:
        raise SpecError(f"The file must end in {one.ending}; got '{path}'.")
    is_ours = path.is_file() if inside is None else (path / inside).is_file()
    if path.exists() and not is_ours:
        raise SpecError(f"'{path}' is there and is no {one.kind}; choose another --out.")


def _made(
    name: str,
    network: Any,
    about: card.Card,
    target: Path,
    images: comparing.Sample,
    least: float,
) -> Exported:
    """Write, run, compare; the file takes its place only if it agrees."""
    how = FORMATS[name]
    place = atomic.real(target)
    with atomic.temporary(place) as folder:
        folder.mkdir()
        inside = folder / f"export{how.ending}"  # converters look at the ending
        started = time.monotonic()
        writers.write(name, network, about, inside, images.representative)
        seconds = time.monotonic() - started
        asked = images.files if how.kind == "saved-model" else {}
        got, of_files = comparing.outputs_of(how.kind, inside, images.images, list(asked.values()))
        found = comparing.ExportComparison.of(images.outputs, got, about, how)
        scores = images.scores(got, about)
        _demand(name, found, least, about, scores)
        encoded = None
        if asked:
            one = comparing.ExportComparison.of(images.outputs[list(asked)], of_files, about, how)
            _demand("saved-model, given encoded files,", one, least, about)
            encoded = asdict(one) | {"n_not_applicable": len(images.images) - len(asked)}
        atomic.put(inside, place, how.is_ours)
    return Exported(
        path=target,
        format=name,
        n_images=found.n_images,
        agreement=found.agreement,
        n_ties=found.n_ties,
        largest_difference=found.largest_difference,
        mean_difference=found.mean_difference,
        size_bytes=size_bytes(target, how),
        seconds=seconds,
        encoded=encoded,
        scores=scores,
    )


def _demand(
    name: str,
    found: comparing.ExportComparison,
    least: float,
    about: card.Card,
    scores: dict[str, Any] | None = None,
) -> None:
    if found.agreement >= least:
        return
    cost = ""
    if scores is not None:
        cost = f", {scores['metric']} {scores['model']:.3f} became {scores['export']:.3f}"
    raise StitchError(
        f"The export as {name} gives the same {TASKS[about.task].answer} as the model for "
        f"{found.agreement:.1%} of {counted(found.n_images, 'image')}, expected {least:.1%} "
        f"(largest "
        f"difference {found.largest_difference:.1e}{cost}). The file was removed; use another "
        f"format, or accept it with --min-agreement."
    )
