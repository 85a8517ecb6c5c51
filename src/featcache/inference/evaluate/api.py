"""How good a stitched model is on labelled images: the file as it ships, on images as they are.

Every image runs through the whole model; cached features are not used, for it is the file that is
judged. Nothing is trained or chosen here.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.checks import check_number, with_checked_arguments
from featcache.core.errors import SourceError, SpecError
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted
from featcache.data import splits
from featcache.inference import predict
from featcache.inference.evaluate import scoring, timing
from featcache.inference.evaluate.evaluation import Evaluation
from featcache.models import judged_on
from featcache.models.load import read_card
from featcache.models.taught import parts_of_model
from featcache.store import working_copy


@with_checked_arguments
def evaluate(
    model: str | os.PathLike[str],
    source: Any = None,
    *,
    split: str | None = None,
    at_least: float | None = None,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    cache_dir: str | os.PathLike[str] | None = predict.DEFAULT_CACHE,
    runtime: str = "auto",
    device: str = "auto",
    show_progress: bool = True,
) -> Evaluation:
    """Return metrics, confusion and the classes that lag behind of a stitched model.

    Parameters
    ----------
    model : the .keras file; its card lies beside it.
    source : labelled images, as `open_source` takes them; None is where the model's own came from.
        Classes are matched by name: it may have fewer than the model, but no others. To a model
        that says unknown, images of others count as unknown.
    split : test, train, val or all labelled images. None is test for the model's own source, which
        is the part that was held out when its head was chosen, and all for others.
    at_least : the accuracy that `Evaluation.assert_accuracy` asks for, 0 to 1.
    root, target : of a manifest, see `open_source`; targets are the model's if none are named.
    cache_dir : where the features of the model's own images say which of them it was trained on.
    runtime, device : see `Model`.

    Raises
    ------
    StitchError
        When the model or its card is missing or damaged, or they do not belong together.
    SourceError
        When the images are not there, not labelled, not readable, or for another model.
    SpecError
        When an option is wrong.
    """
    described = read_card(Path(model))
    _check_floor(at_least, described.task)
    images = judged_on.open_labelled(described, source, root, target)
    cache = None if cache_dir is None else working_copy.pulled(cache_dir)
    parts = parts_of_model(described, cache)
    loaded = predict.Model(model, device, runtime, cache)
    chosen = judged_on.choose(described, images, split, parts, show_progress)
    samples = chosen.images.samples
    outputs, digests, failures, seconds = _run(loaded, chosen, show_progress)
    good = np.array([row for row in range(len(outputs)) if row not in failures], int)
    if not len(good):
        raise SourceError(
            f"None of {counted(len(outputs), 'image')} of '{samples.origin}' could be read; the "
            f"first, '{samples.ids[0]}': {failures[0]}."
        )
    y, outputs = chosen.y[good], outputs[good]
    task, kind, names = described.task, described.output, described.class_names
    units = splits.units(digests[good], samples.take(good).annotations.groups)
    scores, intervals = scoring.scores(task, y, outputs, kind, units)
    each, counts = scoring.each(task, y, outputs, kind, names)
    taught = None if parts is None else parts["train"] | parts["val"]
    reasons = {samples.ids[row]: why for row, why in sorted(failures.items())}
    return Evaluation(
        model=os.fspath(model),
        source=samples.origin,
        part=chosen.part,
        task=task,
        output=kind,
        class_names=names,
        n_images=len(good),
        n_unlabelled=chosen.n_unlabelled,
        unreadable=chosen.unreadable | reasons,
        n_trained_on=None if taught is None else sum(d.tobytes() in taught for d in digests[good]),
        absent=chosen.absent,
        scores=scores,
        intervals=intervals,
        each=each,
        confusion=None if counts is None else counts.tolist(),
        weakest=scoring.weakest(task, each),
        slowest=_slowest(loaded, chosen, good),
        seconds=seconds,
        at_least=at_least,
        strangers=chosen.strangers,
    )


def _check_floor(at_least: float | None, task: str) -> None:
    if at_least is None:
        return
    if not TASKS[task].has_mistakes:
        raise SpecError(
            "A model of targets has no accuracy to ask for; evaluate prints its errors, and --json "
            "gives them."
        )
    check_number(
        "The accuracy to ask for", at_least, "be from 0 to 1", lambda share: 0 <= share <= 1
    )


def _run(
    loaded: predict.Model, chosen: judged_on.Chosen, show_progress: bool
) -> tuple[np.ndarray, np.ndarray, dict[int, str], float]:
    """Return outputs, digests, failures by row, and the seconds it took without compiling."""
    outputs, digests, n_done = [], [], 0
    failures: dict[int, str] = {}
    started = time.monotonic()
    with progress.bar("Evaluating", len(chosen.images.samples), "images", show_progress) as advance:
        for block in loaded.blocks(
            chosen.images.samples, use_cache=False, listing=chosen.listing, advance=advance
        ):
            failures |= {n_done + place: why for place, why in block.failures.items()}
            n_done += len(block.outputs)
            outputs.append(block.outputs)
            digests.append(block.digests)
    seconds = time.monotonic() - started - loaded.preparing_s
    return np.concatenate(outputs), np.concatenate(digests), failures, seconds


def _slowest(
    loaded: predict.Model, chosen: judged_on.Chosen, good: np.ndarray
) -> dict[str, Any] | None:
    """Return the class or label whose images take longest to read and decode."""
    task, names = TASKS[loaded.card.task], loaded.card.class_names
    if not task.has_mistakes:
        return None
    y = chosen.y[good]
    mine = y[:, None] == np.arange(len(names)) if task.kind is TargetKind.CLASS else y == 1
    timed = timing.decoding_ms(chosen.images, [good[column] for column in mine.T])
    if timed is None:
        return None
    known = [(ms, n, name) for (ms, n), name in zip(timed, names, strict=True) if n]
    if not known:
        return None
    ms, n_timed, name = max(known)
    return {
        "name": name,
        "ms": ms,
        "n_timed": n_timed,
        "typical_ms": float(np.median([ms for ms, _, _ in known])),
    }
