"""What determines the numbers: the extraction spec and its fingerprint.

This room holds declared facts only. It never looks at a live model, a file or the machine; where
and with which library versions something ran is provenance and is recorded elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Optional, Union

from featcache.core.checks import (
    bad,
    check_choice,
    check_text,
    check_texts,
    number_range,
    range_text,
    whole_number,
)
from featcache.core.errors import SpecError
from featcache.core.geometry import NONE, RESIZES, Geometry, check_crop
from featcache.core.options import declared, option, options_of
from featcache.core.text import file_name

FORMAT_VERSION = 1

DECODERS = ("exact", "fast", "gpu")
POOLINGS = ("avg", "max", "flatten", "gram", "none", "cls", "cls+avg", "attention", "tokens")
DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "bfloat16", "float16")
MAX_VIEWS = 100  # all are made of an image at once
AUGMENTATIONS = ("flip", "crop", "color")
BACKGROUND = "#ffffff"
MAX_PIXELS = 178_956_970  # Pillow's limit against decompression bombs
BROUGHT = ("weights", "image_size", "preprocessing")  # by a backbone
PANEL = "What changes the numbers"  # of the command line's help


@dataclass(frozen=True)
class ExtractionSpec:
    """Everything that changes the numbers in a feature file, and nothing else.

    A field made by `option` is also an option of `extract`; a new one needs its line here and
    whatever it does to the images or the network. See `core.options`.

    Raises
    ------
    SpecError
        When a field has a value outside its allowed set.
    """

    backbone: str  # a name of the registry, or that of a .keras file or of a model
    weights: str = field(  # BLAKE2b-128 of the weights, hex
        metadata=declared(
            "imagenet",
            "imagenet, random, or a weights file or .keras backbone.",
            "imagenet, random, or the path of a weights file or of a .keras backbone.",
            panel=PANEL,
            kind=Union[str, os.PathLike[str]],
            typed=str,
        )
    )
    image_size: tuple[int, int] = field(  # height, width in pixels, after resizing
        metadata=declared(
            None,
            "Side in pixels. (the backbone's own)",
            "pixels, one number or (height, width); None is the backbone's own size.",
            panel=PANEL,
            kind=Union[int, tuple[int, int], None],
            typed=Optional[int],
        )
    )
    preprocessing: str  # a name of `registry.PREPROCESSING`
    layer: Optional[str] = option(
        None,
        "Take this layer's output; x+y two side by side, x,y in two files; of ViTs 11 or last4.",
        "name of the layer whose output is taken; None is the backbone's output. x+y takes several "
        "side by side, maps as large as the largest. Of a vision transformer also the number of a "
        "block, from 0 on, or last4 for the last four; both with the last normalisation.",
        panel=PANEL,
        has_several=True,
    )
    pooling: str = option(
        "avg",
        "avg, max, flatten, gram; cls, cls+avg, attention; none, tokens. (the backbone's own)",
        "how a map or tokens become a vector: avg, max, flatten, or gram (which channels go "
        "together: style); of vision transformers also cls (the class token), cls+avg, or "
        "attention where the network has that; mean and maximum are of patches. none keeps maps "
        "(n, height, width, channels), for heads of anomalies, tokens all tokens. None is theirs.",
        panel=PANEL,
        asked=None,
        kind=Optional[str],
        typed=Optional[str],
        allowed=POOLINGS,
    )
    resize: str = option(
        "bilinear",
        "bilinear as Keras does, antialias, bicubic; letterbox: undistorted. (the backbone's own)",
        "bilinear (as Keras does), antialias (of all pixels, as Pillow does: better for large "
        "photographs, slower), bicubic (likewise), or letterbox: antialias in the proportions that "
        "an image has, with grey beside it. None is its authors', bilinear for most.",
        panel=PANEL,
        asked=None,
        kind=Optional[str],
        typed=Optional[str],
        allowed=RESIZES,
    )
    crop: str = option(
        NONE,
        "none, or center: the middle of each image, as the original takes it.",
        "none stretches all of an image to the size. center takes from the middle the largest part "
        "of its proportions, and of that the share that the backbone's authors take.",
        panel=PANEL,
        is_later=True,
    )
    background: str = option(  # #rrggbb
        BACKGROUND,
        "Colour under transparent pixels.",
        "colour under transparent pixels, a name or #rrggbb.",
        panel=PANEL,
        asked="white",
        is_later=True,
    )
    value_range: Optional[tuple[float, float]] = option(
        None,
        "Black and white of images of more than 8 bits.",
        "the values (low, high) that are black and white in images of one channel and more than "
        "8 bits, as (0, 4095) of 12 bits in files of 16. None is what the file says, and 0 to 1 of "
        "floats that lie there; others cannot be used.",
        panel=PANEL,
        is_later=True,
    )
    decoder: str = option(
        "exact",
        "JPEGs: exact, fast (libjpeg's quick transform), or gpu.",
        "exact decodes JPEGs as Pillow does; fast by libjpeg's quick transform; gpu by the GPU.",
        panel=PANEL,
        allowed=DECODERS,
        is_later=True,
    )
    decode_scale: bool = option(
        False,
        "Decode large JPEGs at 1/2 to 1/8.",
        "decode JPEGs at 1/2, 1/4 or 1/8 as long as they keep at least twice the size.",
        panel=PANEL,
        flag="--decode-scale",
        is_later=True,
    )
    views: int = option(
        1,
        "Embeddings per image: the clean one, the rest augmented.",
        "embeddings per image: the clean one and augmented ones, for heads to train on.",
        panel=PANEL,
        least=1,
        most=MAX_VIEWS,
    )
    augment: tuple[str, ...] = option(  # of AUGMENTATIONS, in that order
        (),
        "How: flip,crop,color. (all three)",
        "how, of flip, crop and color; None is all of them where there are views.",
        panel=PANEL,
        asked=None,
        kind=Union[str, Sequence[str], None],
        typed=Optional[str],
        has_several=True,
        is_later=True,
    )
    precision: str = option(
        "float32",
        "Computed in float32, bfloat16 or float16.",
        "float32, bfloat16 or float16, in which the backbone computes; other numbers, faster where "
        "the machine has it.",
        panel=PANEL,
        allowed=PRECISIONS,
    )
    dtype: str = option(
        "float32",
        "Stored as float32 or float16.",
        "float32 or float16, as stored.",
        panel=PANEL,
        allowed=DTYPES,
    )
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for one in NUMBERS.values():
            one.checked(getattr(self, one.name))
        check_crop(self.crop, self.resize)
        # of pooling and resize, what else they may not be is checked already: None, which is asked
        for name in ("backbone", "weights", "preprocessing", "background", "pooling", "resize"):
            check_text(name, getattr(self, name))
        if self.layer is not None:
            check_text("layer", self.layer, "be the name of a layer")
        if not isinstance(self.augment, tuple):
            raise bad("augment", "be a tuple of names", self.augment)
        whole_number("format_version", self.format_version, 1)
        for name in check_texts("augment", self.augment):
            check_choice("augment", name, AUGMENTATIONS)
        if self.views < 1 or (self.views > 1) != bool(self.augment):
            raise SpecError(
                f"views is {self.views} and augment is {', '.join(self.augment) or 'nothing'}; "
                f"expected 1 and nothing, or more and how to make them."
            )
        if not re.fullmatch("#[0-9a-f]{6}", self.background):
            raise bad("background", "be a colour as #rrggbb", self.background)
        if self.value_range is not None:
            # as floats, however they were given, so that one range has one fingerprint
            object.__setattr__(self, "value_range", number_range("value_range", self.value_range))
        sides = self.image_size
        if not (isinstance(sides, tuple) and len(sides) == 2 and min(map(_pixels, sides)) > 0):
            raise bad("image_size", "be a positive number of pixels, or height and width", sides)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types, without later ones at their default."""
        values = asdict(self)
        for one in fields(self):
            if one.metadata.get("is_later") and values[one.name] == one.default:
                del values[one.name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExtractionSpec:
        """Return the spec that `to_dict` described.

        Raises
        ------
        SpecError
            When a field is missing or unknown.
        """
        if not isinstance(values, dict):
            raise bad("values", "be what to_dict gave", values)
        names = {one.name for one in fields(cls)}
        later = {one.name for one in fields(cls) if one.metadata.get("is_later")}
        if odd_names := (names ^ set(values)) - (later - set(values)):
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
            f"{one.name} was {_shown(getattr(other, one.name))}, "
            f"is {_shown(getattr(self, one.name))}"
            for one in fields(self)
            if getattr(other, one.name) != getattr(self, one.name) and one.name not in brought
        ]

    @property
    def fingerprint(self) -> str:
        """BLAKE2b-128 of the canonical JSON, 32 hex digits."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    @property
    def geometry(self) -> Geometry:
        """How images get the network's size."""
        return Geometry(self.image_size, self.resize, self.crop)

    @property
    def clean(self) -> ExtractionSpec:
        """The same spec for the clean images alone: it says what rows of any view can be shared."""
        return replace(self, views=1, augment=())

    @property
    def short_name(self) -> str:
        """File name without ending: backbone and the fingerprint's first eight digits."""
        return f"{file_name(self.backbone)}-{self.fingerprint[:8]}"


NUMBERS = options_of(ExtractionSpec)  # what a user may say of what changes the numbers


def _pixels(side: object) -> int:
    return side if isinstance(side, int) and not isinstance(side, bool) else 0


def _shown(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        return range_text(value)
    if isinstance(value, tuple):
        numbers = all(isinstance(one, int) for one in value)
        return (" x " if numbers else ",").join(map(str, value)) or "nothing"
    text = "the default" if value is None else str(value)
    return f"{text[:8]}…" if re.fullmatch("[0-9a-f]{24,}", text) else text  # a digest
