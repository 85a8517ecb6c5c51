"""From cached maps to a fitted detector: trained, chosen by validation images, scored once."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from featcache import store
from featcache.core import atomic, disk, progress
from featcache.core.checks import bad, with_checked_arguments
from featcache.core.errors import HeadError, SpecError
from featcache.core.running import DEFAULT_CACHE
from featcache.data import splits
from featcache.detection import detector, maps, running, scoring, training
from featcache.detection.detector import Detector
from featcache.detection.settings import Settings
from featcache.selection import heads_folder


@with_checked_arguments
def fit_detector(
    features: Any,
    *,
    folder: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    overwrite: bool = False,
    report: bool = True,
    show_progress: bool = True,
    **settings: Any,
) -> Detector:
    """Return a detector fitted on cached maps of images with boxes; save it with a report.

    The same request on unchanged features is answered from the saved detector.

    Parameters
    ----------
    features : a feature file or its path, extracted with `--pooling none` from images with boxes;
        or several of the same images and backbone, one for each tapped layer.
    folder : where to save; None is beside the features, with the ending .heads. What others put
        into it stays.
    cache_dir : where it is saved if the features' folder may not be written to.
    overwrite : fit again even if nothing changed.
    report : write report.html into the folder.
    **settings : `Settings`, as `epochs=40`.

    Raises
    ------
    HeadError
        When the features are no maps with boxes, or a part has no box.
    StoreError
        When a feature file cannot be read.
    SpecError
        When a setting is wrong, or pycocotools is not installed.
    DiskError
        When it cannot be saved.
    """
    how = _settings(settings)
    opened = maps.opened(_files(features))
    parts = maps.parts_of(opened.files[0], how.seed)
    contents = tuple(one.content for one in opened.files)
    scoring.pycocotools()  # where it is not installed, that is said before anything is trained
    request = {
        "features": list(contents),
        "settings": how.to_dict(),
        "versions": {name: version(name) for name in ("featcache", "keras", "pycocotools")},
    }
    place = _place(opened) if folder is None else Path(folder)
    known = None if overwrite else _known(place, Path(cache_dir), request)
    if known is None:
        if folder is None:
            place = store.place_for(place, Path(cache_dir))
        _check_place(place)
        with heads_folder.alone(place, show_progress):
            known = None if overwrite else _known(place, Path(cache_dir), request)
            if known is None:
                known = _fit(opened, parts, how, request, place, show_progress)
    if report and not (known.folder / detector.PAGE_FILE).exists():
        from featcache.detection.page import write_page

        write_page(known)
    return known


def _settings(given: dict[str, Any]) -> Settings:
    names = [one.name for one in dataclasses.fields(Settings)]
    if odd := sorted(set(given) - set(names)):
        raise SpecError(f"fit_detector knows no '{odd[0]}'; it knows {', '.join(names)}.")
    return Settings(**given)


def _files(features: Any) -> list[store.Features]:
    several = features if isinstance(features, (list, tuple)) else [features]
    if not several or not all(
        isinstance(one, (str, os.PathLike, store.Features)) for one in several
    ):
        raise bad("features", "be a feature file or its path, or a list of them", features)
    return [one if isinstance(one, store.Features) else store.Features(one) for one in several]


def _place(opened: maps.Maps) -> Path:
    first = opened.files[0].path
    if len(opened.files) == 1:
        return first.with_suffix(".heads")
    contents = "".join(one.content for one in opened.files)
    digest = hashlib.blake2b(contents.encode(), digest_size=4).hexdigest()
    return first.with_name(f"{len(opened.files)}-maps-{digest}.heads")


def _known(place: Path, cache_dir: Path, request: dict[str, Any]) -> Detector | None:
    """Return the saved detector of the same request, if it is whole."""
    places = [place]
    if not disk.is_writable(place.parent):
        places.append(store.stand_in(place, cache_dir))
    for one in places:
        try:
            found = detector.load(one)
        except (HeadError, SpecError):
            continue
        if found.request == request:
            return found
    return None


def _check_place(place: Path) -> None:
    real = atomic.real(place)
    others = sorted(one.name for one in real.iterdir()) if real.is_dir() else [real.name]
    if real.exists() and others and not detector.is_folder(real):
        raise SpecError(
            f"'{place}' is not a folder of a detector ({', '.join(others[:3])}), so none is saved "
            f"there. Name one that does not exist, or move what is there."
        )


def _fit(
    opened: maps.Maps,
    parts: dict[str, Any],
    how: Settings,
    request: dict[str, Any],
    place: Path,
    show_progress: bool,
) -> Detector:
    """Train, choose, score the held-out part once, and put the folder in place whole."""
    train, val, test = (parts[name] for name in ("train", "val", "test"))
    n_classes = len(opened.class_names)

    head = training.untrained(opened, train, how)
    run = running.with_suppression(head, opened, how)

    def judge() -> float:
        found = running.found_on(run, opened, val)
        return scoring.map50(found, opened.boxes.take(val), n_classes)

    with progress.bar("Training", how.epochs, "epochs", show_progress) as advance:
        trained = training.train(head, opened, train, how, judge, advance)
    found_val = running.found_on(run, opened, val)
    min_score, f1 = scoring.best_threshold(found_val, opened.boxes.take(val), n_classes)
    found = running.found_on(run, opened, test)
    first = opened.files[0]
    some = first.annotations.take(test)
    made = Detector(
        folder=place,
        features=tuple(one.path for one in opened.files),
        contents=tuple(one.content for one in opened.files),
        class_names=opened.class_names,
        settings=how,
        n_images={name: len(rows) for name, rows in parts.items()},
        epochs=tuple(trained.epochs),
        val_scores=trained.val_scores,
        best_epoch=trained.best_epoch,
        min_score=min_score,
        val_f1=f1,
        test=scoring.precision(
            found,
            opened.boxes.take(test),
            opened.class_names,
            how.iou,
            splits.units(first.digests[test], some.groups),
        ),
        request=request,
    )
    held_out = {first.ids[row]: one for row, one in zip(test.tolist(), found, strict=True)}
    with atomic.replacing(place, is_ours=lambda path: path.as_posix() in detector.OURS) as folder:
        folder.mkdir(parents=True)
        detector.write(made, head, held_out, folder)
    return made
