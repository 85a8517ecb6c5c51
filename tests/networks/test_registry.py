from __future__ import annotations

import pytest

from featcache.core.errors import SpecError
from featcache.networks import backbones, measures, registry
from featcache.networks.published import PUBLISHED


def test_names_are_kebab_case():
    assert all(name == name.lower() and "_" not in name for name in registry.CATALOGUE)


def test_no_two_families_have_a_name_or_a_scheme_of_preprocessing_in_common():
    assert len(registry.CATALOGUE) == sum(len(one.entries) for one in registry.PROVIDERS)
    n_own = sum(len(one.preprocessing) for one in registry.PROVIDERS)
    assert len(registry.PREPROCESSING) == len(registry.COMMON) + n_own


def test_every_network_has_a_preprocessing_that_there_is():
    schemes = {registry.find(name).preprocessing for name in registry.CATALOGUE}
    assert schemes <= set(registry.PREPROCESSING)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet", "resnet50"), ("MobileNetV2", "mobilenet"), ("xyzzy", "For")]
)
def test_unknown_name_says_the_nearest(name, nearest):
    with pytest.raises(SpecError, match=nearest):
        backbones.resolve(name)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (".", r"The folder '\.' has no config.json, so it is no backbone"),
        (
            "of/dinov2",
            r"no folder 'of/dinov2'\. If it is on the Hugging Face Hub, say hf:of/dinov2",
        ),
        ("https://huggingface.co/a/b", r"If it is on the Hugging Face Hub, say hf:a/b\."),
        ("./no/folder", r"There is no folder '\./no/folder'\. `featcache backbones`"),
    ],
)
def test_a_path_that_is_no_backbone_says_why(path, why):
    with pytest.raises(SpecError, match=why):
        backbones.resolve(path)


def test_a_family_of_ones_own_is_found_by_its_names(two_backbones):
    for name, side in zip(two_backbones, (40, 56), strict=True):
        resolved = backbones.resolve(name, weights="random")
        assert resolved.spec.image_size == (side, side)
        assert resolved.backbone.name == name


def test_every_network_with_a_name_is_measured():
    names = [*registry.CATALOGUE, *PUBLISHED]
    assert all(measures.of(name).parameters > 0 for name in names)
