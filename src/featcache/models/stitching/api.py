"""Join a backbone and a fitted head into one ordinary Keras model, and prove that it is the same.

The model takes RGB images, 0 to 255, at the spec's size and is made of stock Keras layers only, so
`keras.models.load_model` opens it where featcache is not installed. No file is written unless the
whole model gives, on real images, what the head gives on the cached features.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache import heads, store
from featcache.core import atomic, float32, progress
from featcache.core.checks import bad, with_checked_arguments
from featcache.core.errors import StitchError, StoreError
from featcache.core.keys import digest_file
from featcache.core.one_class import learnt_as
from featcache.core.tasks import TASKS, TargetKind
from featcache.data import sources, splits
from featcache.heads.anomaly import AnomalyHead
from featcache.heads.open_set import OpenSet
from featcache.models import card, judged_on
from featcache.models.stitching import distilling
from featcache.models.stitching.building import build
from featcache.models.stitching.parity import (
    Parity,
    check_parity,
)
from featcache.models.stitching.saving import check_out, labels_path, labels_text, save
from featcache.models.stitching.size import ModelSize, size_of
from featcache.scoring import leaderboard

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Stitched:
    """A model file with its card."""

    path: Path
    card: card.Card
    hit: bool  # the file was there already, made from the same head


@with_checked_arguments
def stitch(
    head: leaderboard.FittedHead,
    out: str | os.PathLike[str] | None = None,
    *,
    source: Any = None,
    distil: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> keras.Model:
    """Return one Keras model, images in, classes out, after its parity check.

    Parameters
    ----------
    head : for example `board.best` or `board["logreg"]`.
    out : .keras file to save it in, with its card and labels beside it; None saves nothing.
    source : the images the features were made from, as `open_source` takes them; None is where
        they were then.
    distil : for a head that cannot become Keras layers: a dense head learns what it says, and is
        stitched in its place. How far they agree is in the card.
    overwrite : replace also a file that was changed since it was stitched.

    Raises
    ------
    SpecError
        When `out` is no place for a model, or there is nothing to distil.
    StitchError
        When the head cannot become Keras layers, the backbone is no longer that of the features,
        the model does not predict what the head predicts, or the images are gone.
    """
    if not isinstance(head, leaderboard.FittedHead):
        raise bad("head", "be one of a leaderboard, as `board.best`", head)
    if out is not None:
        check_out(Path(out), overwrite)
    features = _features_of(head, distil)
    part = _distilled(head, features) if distil else _Part.of(head)
    if (strangers := head.board.open_set) is not None and head.open_set is None:
        progress.note(
            f"Of '{head.board.folder}' only {strangers['head']} says unknown; {head.name} gives "
            f"every image one of its classes.",
            show_progress,
        )
    model = build(part.head, part.name, features)
    used = None if source is None else judged_on.open_of_features(features, source).samples
    parity = check_parity(model, part.head, features, used, show_progress)
    if not parity.holds:
        raise StitchError(
            f"The stitched model does not predict what {part.name} does on the cached features: "
            f"{parity}. No file was written; extract again with these library versions."
        )
    if out is not None:
        save(model, Path(out), _card(head, part, features, parity, used, size_of(model)))
    return model


def run(
    head: leaderboard.FittedHead,
    out: Path,
    *,
    distil: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Stitched:
    """Stitch into a file, unless it was already made from this very head."""
    check_out(out, overwrite)
    if not overwrite and (known := read_if_same(head, out, distil)) is not None:
        return Stitched(out, known, hit=True)
    stitch(head, out, distil=distil, overwrite=overwrite, **options)
    return Stitched(out, card.read(out), hit=False)


@dataclass(frozen=True)
class _Part:
    """The head that goes into the model, and what the card says of it."""

    head: heads.Head
    name: str
    params: dict[str, Any]
    calibration: dict[str, Any] | None
    test: dict[str, float] | None
    distilled: dict[str, Any] | None = None

    @classmethod
    def of(cls, fitted: leaderboard.FittedHead) -> _Part:
        known, strangers = fitted.result, fitted.open_set
        # the metrics of what ships, which may call an image unknown
        test = known.test if strangers is None else strangers["test"]
        return cls(fitted.head, fitted.name, known.params, known.calibration, test)


def _distilled(fitted: leaderboard.FittedHead, features: store.Features) -> _Part:
    student = distilling.distil(fitted, features)
    about = student.to_dict()
    return _Part(student.head, "dense", student.params, None, student.test, about)


def _features_of(fitted: leaderboard.FittedHead, distil: bool) -> store.Features:
    """Return the feature file of a head that can be stitched to a backbone."""
    board, known = fitted.board, fitted.features
    if known.path is None or known.spec is None:
        raise StitchError(
            f"The heads in '{board.folder}' were fitted on plain arrays, so there is no "
            f"backbone to join them with. Extract features from images, and fit heads on that file."
        )
    if not (_stitches(fitted.name, board.task) or distil):
        able = [result.name for result in board.results if _stitches(result.head, board.task)]
        others = ", ".join(name for name in able if name != heads.FLOOR)
        raise StitchError(
            f"The head {fitted.name} cannot become Keras layers. Stitch another (--head): "
            f"{others or 'none of this comparison can'}; or have a dense head learn what it says "
            f"(--distil)."
        )
    features = store.Features(known.path)
    if features.content != known.content:
        raise StitchError(
            f"The heads in '{board.folder}' were fitted before '{features.path}' changed "
            f"(fingerprint then {known.spec.fingerprint}, now {features.fingerprint}). "
            f"Run `featcache fit-heads` again."
        )
    about = features.annotations
    if TASKS[board.task].kind is TargetKind.NUMBERS:
        said = float32.complaint(about.output_names, about.y[about.is_known])
        if said:
            raise StitchError(f"{said}; extract again, which computes nothing anew, and fit heads.")
    return features


def _stitches(name: str, task: str) -> bool:
    return heads.catalogue_of(task).get(name, heads.Own).stitches


def _card(
    fitted: leaderboard.FittedHead,
    part: _Part,
    features: store.Features,
    parity: Parity,
    used: sources.Source | None,
    size: ModelSize,
) -> card.Card:
    board, names = fitted.board, fitted.class_names
    learnt = learnt_as(features.annotations, board.task, board.class_names)
    part_of = splits.parts(learnt, features.digests, board.seed)
    if TASKS[board.task].kind is TargetKind.CLASS:
        names = tuple(names[label] for label in part.head.classes_)
    return card.Card(
        class_names=names,
        output=part.head.output,
        spec=features.spec,
        head=part.name,
        params=part.params,
        calibration=part.calibration,
        source=used.origin if used else features.provenance["source"],
        source_options=dict(used.options) if used else features.provenance["source_options"],
        seed=board.seed,
        test_accuracy=(part.test or {}).get("accuracy"),
        parity=asdict(parity),
        size=asdict(size),
        head_digest=digest_file(fitted.path),
        task=board.task,
        test=part.test,
        distilled=part.distilled,
        provenance=card.versions()
        | {
            "weights": features.provenance["weights"],  # fine-tuning makes such features again
            "taught": splits.taught(features.digests[part_of["train"] | part_of["val"]]),
        },
        max_pixels=judged_on.max_pixels_of(features),
        threshold=_threshold(part.head),
        open_set=_open_set(fitted) if isinstance(part.head, OpenSet) else None,
    )


def _threshold(head: heads.Head) -> dict[str, Any] | None:
    """Return from which score on a head of one class calls an image an anomaly, and its promise."""
    found = head.threshold_ if isinstance(head, AnomalyHead) else None
    return None if found is None else asdict(found)


def _open_set(fitted: leaderboard.FittedHead) -> dict[str, Any] | None:
    """Return what a card says of strangers: all but the file, and the classes one by one."""
    apart = ("head", "file", "test", "groups", "scores")
    if (about := fitted.open_set) is None:
        return None
    areas = {key: one for key, one in about["scores"][about["score"]].items() if key != "each"}
    plain: dict[str, Any] = atomic.plain(
        {key: one for key, one in about.items() if key not in apart} | areas
    )
    return plain


def read_if_same(fitted: leaderboard.FittedHead, out: Path, distil: bool) -> card.Card | None:
    """Return the card of a model that was stitched from this head and not touched since."""
    try:
        known = card.read(out)
        labels = labels_path(out).read_text(encoding="utf-8")
    except (StitchError, OSError, ValueError):
        return None
    # what a student was taught by stands in the card in place of its own settings
    about = known.distilled or {"params": known.params, "calibration": known.calibration}
    same = (
        known.finetuned is None
        and (known.distilled is not None) == distil
        and known.spec == fitted.features.spec
        and known.class_names == fitted.class_names
        and known.open_set == _open_set(fitted)
        and about["params"] == fitted.result.params
        and about["calibration"] == fitted.result.calibration
        and known.head_digest == digest_file(fitted.path)
        and known.model_digest == digest_file(out)
        and labels == labels_text(known)
        and known.max_pixels == _max_pixels(fitted, known)
    )
    return known if same else None


def _max_pixels(fitted: leaderboard.FittedHead, known: card.Card) -> int:
    """Return the limit of the features' images, which cards did not always keep."""
    path = fitted.features.path
    try:
        return known.max_pixels if path is None else judged_on.max_pixels_of(store.Features(path))
    except StoreError:  # the features are gone; nothing says otherwise
        return known.max_pixels
