"""The card of a model: the JSON file beside a .keras file that says what it is.

`flowers.keras` has `flowers.json`. The model runs in plain Keras without it; the card adds class
names, how images must be sized, and what was measured.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache import __version__
from featcache.core import atomic
from featcache.core.checks import check_choice
from featcache.core.errors import StitchError
from featcache.core.keys import digest_json
from featcache.core.spec import MAX_PIXELS, ExtractionSpec
from featcache.core.tasks import DEFAULT_TASK, PROBABILITIES, SCORES, TASKS, VALUES
from featcache.core.versions import version
from featcache.data import splits

CARD_VERSION = 1
OUTPUTS = (PROBABILITIES, SCORES, VALUES)


@dataclass(frozen=True)
class Card:
    """What goes with a stitched model."""

    class_names: tuple[str, ...]  # of the output's columns: classes, labels or targets
    output: str  # probabilities, scores or values
    spec: ExtractionSpec
    head: str
    params: dict[str, Any]
    source: str  # where the images came from
    source_options: dict[str, str]  # with `source`, open them again
    seed: int  # of the held-out part
    test_accuracy: float | None  # on the held-out part, of the selected head alone
    parity: dict[str, Any]
    model_digest: str = ""  # BLAKE2b-128 of the .keras file
    head_digest: str = ""  # BLAKE2b-128 of the head's file
    calibration: dict[str, Any] | None = None  # map from the head's outputs to probabilities
    finetuned: dict[str, Any] | None = None
    task: str = DEFAULT_TASK  # one of TASKS
    # every metric on the held-out part, as test_accuracy; one that is undefined is read as None
    test: Mapping[str, float | None] | None = None
    distilled: dict[str, Any] | None = None  # the head that taught this one, and their agreement
    provenance: dict[str, Any] | None = None  # library versions and date of stitching
    size: dict[str, Any] | None = None  # `ModelSize`; None in cards of before
    threshold: dict[str, Any] | None = None  # `heads.anomaly.Threshold`, of a task of one class
    # of a model that says unknown, the last of its classes: by which score, above which threshold
    open_set: dict[str, Any] | None = None
    # larger images are unreadable; left out of the file at its default, as cards were before
    max_pixels: int = MAX_PIXELS
    card_version: int = CARD_VERSION

    @property
    def learnt_names(self) -> tuple[str, ...]:
        """`class_names` without unknown, which no image taught."""
        return self.class_names if self.open_set is None else self.class_names[:-1]

    @property
    def changed_layers(self) -> tuple[str, ...]:
        """Backbone layers that fine-tuning changed, sorted by name."""
        return () if self.finetuned is None else tuple(self.finetuned["changed"])

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON types, fingerprint included; NaN is null."""
        values = asdict(self) | {"spec": self.spec.to_dict(), "fingerprint": self.spec.fingerprint}
        if self.max_pixels == MAX_PIXELS:
            del values["max_pixels"]
        for name in ("threshold", "open_set"):
            if values[name] is None:
                del values[name]
        plain: dict[str, Any] = atomic.plain(values)
        return plain | {"digest": _digest(plain)}

    def write(self, model: Path) -> None:
        """Write the card beside a model file."""
        atomic.write_json(path_of(model), self.to_dict())


def _digest(values: dict[str, Any]) -> str:
    """Return the digest of a card's own JSON but for where things lay: they may have moved."""
    apart = ("digest", "fingerprint", "source", "source_options", "provenance")
    return digest_json({name: value for name, value in values.items() if name not in apart})


def versions() -> dict[str, str]:
    """Return what a model is made with, for its provenance: the date and the libraries."""
    packages = ("keras", "tensorflow", "numpy", "scikit-learn")
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "featcache": __version__,
        **{package: version(package) for package in packages},
    }


def is_card(file: Path) -> bool:
    """Return whether a JSON file is a card of any version."""
    try:
        return "card_version" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_types(values: dict[str, Any]) -> None:
    """Raise TypeError naming the first field that is not of its kind."""
    kinds = {
        "class_names": list,
        "params": dict,
        "source_options": dict,
        "parity": dict,
        "seed": int,
        **dict.fromkeys(("output", "head", "source", "model_digest", "head_digest"), str),
    }
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    for name in (
        "calibration",
        "finetuned",
        "test",
        "distilled",
        "provenance",
        "size",
        "threshold",
        "open_set",
    ):
        if not isinstance(values.get(name), dict | None):
            raise TypeError(f"{name} is no dict")
    if not all(isinstance(one, str) for one in values["source_options"].values()):
        raise TypeError("source_options are no texts")
    max_pixels = values.get("max_pixels", MAX_PIXELS)
    if type(max_pixels) is not int or max_pixels < 1:
        raise TypeError("max_pixels is no number of pixels")
    splits.check_seed(values["seed"])
    check_choice("task", values.get("task", DEFAULT_TASK), tuple(TASKS))
    check_choice("output", values["output"], OUTPUTS)
    if not all(isinstance(name, str) for name in values["class_names"]):
        raise TypeError("class_names is no list of names")
    if len(set(values["class_names"])) < len(values["class_names"]):
        raise TypeError("class_names has a name twice")


def path_of(model: Path) -> Path:
    """Return where the card of a model file lies."""
    return model.with_suffix(".json")


def read(model: Path) -> Card:
    """Return the card of a model file.

    Raises
    ------
    StitchError
        When the model or its card is missing, or the card is damaged, was changed, or is of another
        version.
    """
    if not model.is_file():
        raise StitchError(f"Model '{model}' does not exist. Run `featcache stitch` first.")
    file = path_of(model)
    if not file.is_file():
        raise StitchError(
            f"Model '{model}' has no card '{file.name}' beside it, so its class names are unknown. "
            f"Put the card there, or stitch again."
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        # cards did not always have a digest
        found, digest = _digest(values), values.pop("digest", None)
        fingerprint = values.pop("fingerprint")
        version = values["card_version"]
        if version != CARD_VERSION:
            raise StitchError(
                f"Card '{file}' has version {version}; this featcache reads {CARD_VERSION}."
            )
        _check_types(values)
        values["spec"] = ExtractionSpec.from_dict(values["spec"])
        values["class_names"] = tuple(values["class_names"])
        described = Card(**values)
        if digest not in (None, found) or fingerprint != described.spec.fingerprint:
            raise StitchError(
                f"Card '{file}' was changed since its model was made, so it may not say what the "
                f"model does. Put back what it said, or stitch again."
            )
        return described
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).rstrip(".")
        raise StitchError(f"Card '{file}' is damaged: {reason}. Stitch again.") from error
