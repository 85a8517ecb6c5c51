"""Join a backbone and a fitted head into one ordinary Keras model, and prove that it is the same.

The model takes RGB images, 0 to 255, at the spec's size and is made of stock Keras layers only, so
`keras.models.load_model` opens it where featcache is not installed. No file is written unless the
whole model gives, on real images, what the head gives on the cached features.
"""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import (
    backbones,
    card,
    files,
    heads,
    images,
    leaderboard,
    progress,
    quiet,
    sources,
    store,
    weights_memo,
)
from featcache.errors import SourceError, SpecError, StitchError
from featcache.spec import MAX_PIXELS, ExtractionSpec

if TYPE_CHECKING:
    import keras

MAX_PARITY_IMAGES = 2000
# Largest difference allowed, relative to the largest value (at least 1). Features stored in half
# precision carry a relative error of 5e-4 each, which the head adds up; features computed in lower
# precision are of another network, so to speak: the class must be the same, the values only near.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
BATCH_SIZE = 32


@dataclass(frozen=True)
class Parity:
    """Agreement of the whole model with the head on cached features."""

    n_images: int
    n_same_class: int
    n_ties: int  # images whose class differs, but hangs on a value within the tolerance of zero
    largest_difference: float
    tolerance: float
    layer: str  # where values were compared
    n_left_out: int  # cached images that are gone or have changed since

    @property
    def holds(self) -> bool:
        """Same class for every image, and every value within tolerance."""
        same = self.n_same_class + self.n_ties == self.n_images
        return same and self.largest_difference <= self.tolerance

    def __str__(self) -> str:
        ties = f" and {self.n_ties} tie(s) within tolerance" if self.n_ties else ""
        left_out = f"; {self.n_left_out} changed or missing left out" if self.n_left_out else ""
        return (
            f"same class for {self.n_same_class}{ties} of {self.n_images} images, largest "
            f"difference {self.largest_difference:.1e} (tolerance {self.tolerance:.1e}){left_out}"
        )


@dataclass(frozen=True)
class Stitched:
    """A model file with its card."""

    path: Path
    card: card.Card
    hit: bool  # the file was there already, made from the same head


def stitch(
    head: leaderboard.FittedHead,
    out: str | os.PathLike[str] | None = None,
    *,
    source: Any = None,
    device: str = "auto",
    show_progress: bool = True,
) -> keras.Model:
    """Return one Keras model, images in, classes out, after its parity check.

    Parameters
    ----------
    head : for example `board.best` or `board["logreg"]`.
    out : .keras file to save it in, with its card beside it; None saves nothing.
    source : the images the features were made from, as `open_source` takes them; None is where
        they were then.

    Raises
    ------
    StitchError
        When the model does not predict what the head predicts, or the images are gone.
    """
    if out is not None:
        check_out(Path(out))
    features = _features_of(head)
    model = _build(head, features)
    used = None if source is None else sources.open_source(source)
    parity = check_parity(model, head, features, used, show_progress)
    if not parity.holds:
        raise StitchError(
            f"The stitched model does not predict what {head.name} does on the cached features: "
            f"{parity}. No file was written; extract again with these library versions."
        )
    if out is not None:
        save(model, Path(out), _card(head, features, parity, used))
    return model


def _features_of(fitted: leaderboard.FittedHead) -> store.Features:
    """Return the feature file of a head that can be stitched to a backbone."""
    board, known = fitted.board, fitted.features
    if known.path is None or known.spec is None:
        raise StitchError(
            f"The heads in '{board.folder}' were fitted on plain arrays, so there is no "
            f"backbone to join them with. Extract features from images, and fit heads on that file."
        )
    if board.task != "classification":
        raise StitchError(
            f"The heads in '{board.folder}' are for {board.task}; those of one class an "
            f"image can be stitched."
        )
    kind = heads.CATALOGUE.get(fitted.name, heads.Own)
    if not kind.stitches:
        able = ", ".join(
            result.name
            for result in board.results
            if heads.CATALOGUE.get(result.head, heads.Own).stitches and result.head != "dummy"
        )
        raise StitchError(
            f"The head {fitted.name} cannot become Keras layers. Stitch another (--head): "
            f"{able or 'none of this comparison can'}."
        )
    features = store.Features(known.path)
    if features.content != known.content:
        raise StitchError(
            f"The heads in '{board.folder}' were fitted before '{features.path}' changed "
            f"(fingerprint then {known.spec.fingerprint}, now {features.fingerprint}). "
            f"Run `featcache fit-heads` again."
        )
    return features


def run(
    head: leaderboard.FittedHead, out: Path, *, overwrite: bool = False, **options: Any
) -> Stitched:
    """Stitch into a file, unless it was already made from this very head."""
    check_out(out)
    if not overwrite and (known := _read_if_same(head, out)) is not None:
        return Stitched(out, known, hit=True)
    stitch(head, out, **options)
    return Stitched(out, card.read(out), hit=False)


def check_parity(
    model: keras.Model,
    fitted: leaderboard.FittedHead,
    features: store.Features,
    source: Any = None,
    show_progress: bool = True,
) -> Parity:
    """Compare the whole model on images with the head on cached features.

    Every cached image is used where there are at most 2,000, else 2,000 spread over them.

    Raises
    ------
    StitchError
        When none of the cached images is there unchanged.
    """
    keras = quiet.keras()
    head = fitted.head
    wanted = np.arange(len(features))
    if len(wanted) > MAX_PARITY_IMAGES:
        wanted = np.linspace(0, len(wanted) - 1, MAX_PARITY_IMAGES).round().astype(int)
    samples, scanned, rows_of = _unchanged(features, wanted, source)

    probe = keras.Model(model.inputs[0], [model.get_layer(head.parity_layer).output, model.output])
    # Keras's own predict would compile with XLA, which is slow on CPUs
    run = quiet.tensorflow().function(lambda batch: probe(batch, training=False))
    values: dict[int, np.ndarray] = {}
    outputs: dict[int, np.ndarray] = {}
    failures: dict[int, str] = {}
    with progress.bar("Parity", len(samples), "images", show_progress) as advance:
        for numbers, batch in images.batches(
            samples,
            scanned,
            range(len(samples)),
            spec=features.spec,
            batch_size=BATCH_SIZE,
            failures=failures,
        ):
            first, second = (part.numpy() for part in run(batch))
            values.update(zip(numbers.tolist(), first, strict=True))
            outputs.update(zip(numbers.tolist(), second, strict=True))
            advance(len(numbers))
    if not values:
        raise StitchError(
            f"None of the cached images is in '{samples.origin}' unchanged, so the stitched "
            f"model cannot be checked. Give the folder they were extracted from (--source), or "
            f"extract again."
        )
    done = sorted(values)
    X = features.X[rows_of[done]]
    expected = head.parity_values(X)
    got = np.stack([values[number] for number in done])
    tolerance = tolerance_of(features.spec) * max(1.0, float(np.abs(expected).max()))
    same = np.stack([outputs[number] for number in done]).argmax(1) == head.outputs(X).argmax(1)
    return Parity(
        n_images=len(done),
        n_same_class=int(same.sum()),
        n_ties=int((~same & head.hangs_on_a_tie(X, tolerance)).sum()),
        largest_difference=float(np.abs(expected - got).max()),
        tolerance=tolerance,
        layer=head.parity_layer,
        n_left_out=len(wanted) - len(done),
    )


def tolerance_of(spec: ExtractionSpec) -> float:
    """Return the relative difference that the precision of the features allows."""
    return max(TOLERANCE[spec.dtype], TOLERANCE[spec.precision])


def _unchanged(
    features: store.Features, wanted: np.ndarray, source: Any
) -> tuple[sources.Source, sources.Scan, np.ndarray]:
    """Return the images that are still the cached ones, their scan, and their rows."""
    origin = features.provenance["source"]
    try:
        samples = sources.reopen(features.provenance, source)
    except SourceError as error:
        if source is not None:
            raise
        raise SourceError(
            f"The images are no longer where they were extracted from, '{origin}'; the stitched "
            f"model is checked on them. Give their folder (--source)."
        ) from error
    place = {id_: row for row, id_ in enumerate(samples.ids)}
    there = [row for row in wanted.tolist() if features.ids[row] in place]
    samples = samples.take(np.array([place[features.ids[row]] for row in there], int))
    max_pixels = features.provenance.get("max_pixels", MAX_PIXELS)
    scanned = sources.scan(
        samples, functools.partial(images.plain_orientation, max_pixels=max_pixels)
    )
    same = np.flatnonzero((scanned.digests == features.digests[there]).all(axis=1))
    return samples.take(same), scanned.take(same), np.array(there, int)[same]


def _build(fitted: leaderboard.FittedHead, features: store.Features) -> keras.Model:
    keras = quiet.keras()
    spec = features.spec
    memo = features.path.parent.parent / weights_memo.FILE_NAME
    name, options = backbones.options_of(spec, features.provenance["weights"])
    resolved = backbones.resolve(name, memo=memo if memo.exists() else None, **options)
    if resolved.spec.fingerprint != spec.fingerprint:
        raise StitchError(
            f"The backbone's weights are not those of the features: '{features.path}' was made "
            f"with weights {spec.weights}, but {features.provenance['weights']} now has "
            f"{resolved.spec.weights}."
        )
    backbone = resolved.backbone or backbones.build(
        spec.backbone, resolved.weights, spec.image_size
    )
    extractor = backbones.frozen_extractor(backbone, spec)
    if extractor.output_shape[1] != features.shape[1]:
        raise StitchError(
            f"The backbone gives {extractor.output_shape[1]} features, "
            f"'{features.path}' has {features.shape[1]}."
        )
    outputs = fitted.head.to_keras_layers(extractor.output)
    return keras.Model(extractor.input, outputs, name=f"{_word(spec.backbone)}_{fitted.name}")


def _word(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def check_out(out: Path) -> None:
    """Raise SpecError where a model cannot be written to `out`."""
    if out.suffix != ".keras":
        raise SpecError(f"The model's file must end in .keras; got '{out}'.")
    if not out.parent.is_dir():
        raise SpecError(f"Folder '{out.parent}' for '{out.name}' does not exist.")
    beside = card.path_of(out)
    if beside.exists() and not card.is_card(beside):
        raise SpecError(
            f"The model's card would overwrite '{beside}', which is no card. Choose another --out."
        )


def _card(
    fitted: leaderboard.FittedHead,
    features: store.Features,
    parity: Parity,
    used: sources.Source | None,
) -> card.Card:
    return card.Card(
        class_names=tuple(fitted.board.class_names[label] for label in fitted.head.classes_),
        output=fitted.head.output,
        spec=features.spec,
        head=fitted.name,
        params=fitted.result.params,
        calibration=fitted.result.calibration,
        source=used.origin if used else features.provenance["source"],
        source_options=dict(used.options) if used else features.provenance["source_options"],
        seed=fitted.board.seed,
        test_accuracy=None if fitted.result.test is None else fitted.result.test["accuracy"],
        parity=asdict(parity),
        head_digest=weights_memo.digest_file(fitted.path),
    )


def save(model: keras.Model, out: Path, described: card.Card) -> None:
    """Write a model and its card; the model appears whole or not at all."""
    files.sweep(out.parent, f"{out.stem}.")
    temporary = out.with_name(f"{out.stem}.{os.getpid()}.tmp.keras")
    try:
        model.save(temporary)
        digest = weights_memo.digest_file(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    replace(described, model_digest=digest).write(out)


def _read_if_same(fitted: leaderboard.FittedHead, out: Path) -> card.Card | None:
    """Return the card of a model that was stitched from this head and not touched since."""
    try:
        known = card.read(out)
    except StitchError:
        return None
    same = (
        known.finetuned is None
        and known.spec == fitted.features.spec
        and known.class_names == fitted.board.class_names
        and known.params == fitted.result.params
        and known.calibration == fitted.result.calibration
        and known.head_digest == weights_memo.digest_file(fitted.path)
        and known.model_digest == weights_memo.digest_file(out)
    )
    return known if same else None
