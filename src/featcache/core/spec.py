"""What determines the numbers: the extraction spec and its fingerprint.

This room holds declared facts only. It never looks at a live model, a file or the machine; where
and with which library versions something ran is provenance and is recorded elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from featcache.core.checks import bad, check_choice
from featcache.core.errors import SpecError

FORMAT_VERSION = 1

POOLINGS = ("avg", "max", "flatten", "none")
RESIZES = ("bilinear", "antialias")
DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "bfloat16", "float16")
MAX_VIEWS = 100  # all are made of an image at once
AUGMENTATIONS = ("flip", "crop", "color")
BACKGROUND = "#ffffff"
MAX_PIXELS = 178_956_970  # Pillow's limit against decompression bombs
BROUGHT = ("weights", "image_size", "preprocessing")  # by a backbone
# Fields that came after the first feature files were written. At their default they are left out
# of the canonical JSON, so that a new field makes no file that is there already a miss.
LATER = ("background", "decode_scale", "augment")


@dataclass(frozen=True)
class ExtractionSpec:
    """Everything that changes the numbers in a feature file, and nothing else.

    Raises
    ------
    SpecError
        When a field has a value outside its allowed set.
    """

    backbone: str  # name in the registry, of a .keras file or of a Keras model
    weights: str  # BLAKE2b-128 of the weights, hex
    image_size: tuple[int, int]  # height, width in pixels, after resizing
    preprocessing: str  # key of registry.PREPROCESSING
    layer: str | None = None  # tapped layer; None is the backbone's output
    pooling: str = "avg"  # one of POOLINGS
    resize: str = "bilinear"  # one of RESIZES
    precision: str = "float32"  # numeric class of the forward pass, one of PRECISIONS
    dtype: str = "float32"  # stored dtype, one of DTYPES
    views: int = 1  # embeddings per image; the first is the clean image, 1 is that alone
    background: str = BACKGROUND  # colour under transparent pixels, #rrggbb
    decode_scale: bool = False  # large JPEGs are decoded at 1/2, 1/4 or 1/8
    augment: tuple[str, ...] = ()  # how the other views are made, of AUGMENTATIONS
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name, allowed in (
            ("pooling", POOLINGS),
            ("resize", RESIZES),
            ("dtype", DTYPES),
            ("precision", PRECISIONS),
        ):
            check_choice(name, getattr(self, name), allowed)
        for name in self.augment:
            check_choice("augment", name, AUGMENTATIONS)
        if self.views < 1 or (self.views > 1) != bool(self.augment):
            raise SpecError(
                f"views is {self.views} and augment is {', '.join(self.augment) or 'nothing'}; "
                f"expected 1 and nothing, or more and how to make them."
            )
        if not re.fullmatch("#[0-9a-f]{6}", self.background):
            raise bad("background", "be a colour as #rrggbb", f"'{self.background}'")
        sides = self.image_size
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise bad("image_size", "be a positive number of pixels, or height and width", sides)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types, without later ones at their default."""
        values = asdict(self)
        for field in fields(self):
            if field.name in LATER and values[field.name] == field.default:
                del values[field.name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExtractionSpec:
        """Return the spec that `to_dict` described.

        Raises
        ------
        SpecError
            When a field is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if odd_names := (names ^ set(values)) - (set(LATER) - set(values)):
            odd = ", ".join(sorted(odd_names))
            raise SpecError(
                f"This is no extraction spec of this version; fields that differ: {odd}."
            )
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**given)

    def differences(self, other: ExtractionSpec) -> list[str]:
        """Return a phrase for each field in which `other`, an earlier spec, differs from this.

        What another backbone brings with it, its weights, size and preprocessing, is left out.
        """
        brought = BROUGHT if other.backbone != self.backbone else ()
        return [
            f"{field.name} was {_shown(getattr(other, field.name))}, "
            f"is {_shown(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(other, field.name) != getattr(self, field.name) and field.name not in brought
        ]

    @property
    def fingerprint(self) -> str:
        """BLAKE2b-128 of the canonical JSON, 32 hex digits."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    @property
    def clean(self) -> ExtractionSpec:
        """The same spec for the clean images alone: it says what rows of any view can be shared."""
        return replace(self, views=1, augment=())

    @property
    def short_name(self) -> str:
        """File name without ending: backbone and the fingerprint's first eight digits."""
        return f"{self.backbone}-{self.fingerprint[:8]}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        numbers = all(isinstance(one, int) for one in value)
        return (" x " if numbers else ",").join(map(str, value)) or "nothing"
    text = "the default" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:8]}…"  # a digest
