from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from featcache.core.errors import SpecError
from featcache.core.spec import ExtractionSpec

SPEC = ExtractionSpec(
    backbone="mobilenet-v2", weights="00ff", image_size=(224, 224), preprocessing="tf"
)
OTHER_VALUES = {
    "backbone": "vgg16",
    "weights": "00fe",
    "image_size": (224, 225),
    "preprocessing": "caffe",
    "layer": "block_16_project_BN",
    "pooling": "max",
    "resize": "antialias",
    "crop": "center 0.875",
    "precision": "bfloat16",
    "dtype": "float16",
    "views": {"views": 2, "augment": ("flip",)},
    "background": "#000000",
    "decoder": "fast",
    "decode_scale": True,
    "value_range": (0.0, 4095.0),
    "augment": {"views": 2, "augment": ("crop",)},
    "format_version": 2,
}


def test_golden_fingerprint():
    # Changes only with FORMAT_VERSION: another value here orphans every cache in the world.
    assert SPEC.fingerprint == "f55b0d331a14689de45874b171ad4a02"


@pytest.mark.parametrize("name", [field.name for field in fields(ExtractionSpec)])
def test_every_field_changes_the_fingerprint(name):
    other = OTHER_VALUES[name]
    changed = replace(SPEC, **(other if isinstance(other, dict) else {name: other}))
    flipped = replace(SPEC, views=2, augment=("flip",))
    assert changed.fingerprint != (flipped if name == "augment" else SPEC).fingerprint


def test_round_trip():
    assert ExtractionSpec.from_dict(SPEC.to_dict()) == SPEC


@pytest.mark.parametrize(
    "name", ["precision", "views", "decode_scale", "layer", "value_range", "crop"]
)
def test_round_trip_of_what_differs(name):
    other = OTHER_VALUES[name]
    changed = replace(SPEC, **(other if isinstance(other, dict) else {name: other}))
    assert ExtractionSpec.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_clean_is_the_spec_without_views():
    assert replace(SPEC, views=3, augment=("flip", "crop")).clean == SPEC
    assert SPEC.clean == SPEC


def test_a_later_field_at_its_default_leaves_fingerprints_as_they_were():
    assert "background" not in SPEC.to_dict()
    black = replace(SPEC, background="#000000")
    assert ExtractionSpec.from_dict(black.to_dict()) == black


def test_a_range_has_one_fingerprint_however_it_is_given():
    said = [(0, 4095), [-0.0, 4095.0], np.array([0, 4095], np.int64)]
    specs = [replace(SPEC, value_range=one) for one in said]
    assert {one.fingerprint for one in specs} == {replace(SPEC, value_range=(0, 4095)).fingerprint}
    assert SPEC.differences(specs[0]) == ["value_range was 0 to 4095, is the default"]


def test_differences_name_field_and_both_values():
    other = replace(SPEC, image_size=(160, 160), layer="x", weights="a" * 32)
    assert SPEC.differences(other) == [
        "weights was aaaaaaaa…, is 00ff",
        "image_size was 160 x 160, is 224 x 224",
        "layer was x, is the default",
    ]
    means = [replace(SPEC, preprocessing=f"mean-std {mean} 0 0 1 1 1 of 1") for mean in (0, 0.5)]
    (told,) = means[0].differences(means[1])
    assert told.startswith("preprocessing was mean-std 0.5 0 0 1")


def test_unknown_field_is_refused():
    with pytest.raises(SpecError, match="colour"):
        ExtractionSpec.from_dict(SPEC.to_dict() | {"colour": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pooling", "mean"),
        ("resize", "area"),
        ("dtype", "float64"),
        ("image_size", (0, 10)),
        ("background", "red"),
        ("value_range", (5, 1)),
        ("value_range", (0, float("inf"))),
        ("value_range", (1.0, 2.0, 3.0)),
        ("value_range", 4095),
    ],
)
def test_bad_value_names_the_parameter_and_the_value(name, value):
    with pytest.raises(SpecError, match=name) as caught:
        replace(SPEC, **{name: value})
    assert str(value).strip("()").split(",")[0] in str(caught.value)
