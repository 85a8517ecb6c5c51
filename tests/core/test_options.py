"""Options that are declared once."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace

import pytest

import featcache as fc
from featcache.core.errors import SpecError
from featcache.core.options import option, options_of, taken, with_options
from featcache.core.running import EVERY, RUNNING, Running
from featcache.core.spec import NUMBERS, ExtractionSpec


@dataclass(frozen=True)
class Baking:
    """Options of a test."""

    minutes: int = option(30, "How long.", "minutes in the oven.", least=1, most=90)
    mode: str = option("fan", "How.", allowed=("fan", "grill"))
    n_trays: int = 1  # no option


BAKING = options_of(Baking)


def test_only_what_says_so_is_an_option():
    assert list(BAKING) == ["minutes", "mode"]
    assert BAKING["minutes"].kind is int


def test_values_are_checked_and_the_rest_are_defaults():
    assert taken(BAKING, {"minutes": 5}, "bake") == {"minutes": 5, "mode": "fan"}
    with pytest.raises(SpecError, match="minutes must be a whole number, 1 to 90; got 91"):
        taken(BAKING, {"minutes": 91}, "bake")
    with pytest.raises(SpecError, match="mode must be one of fan, grill; got 'gas'"):
        taken(BAKING, {"mode": "gas"}, "bake")
    with pytest.raises(SpecError, match=r"bake knows no option 'minute'.* Did you mean minutes\?"):
        taken(BAKING, {"minute": 1}, "bake")


def test_a_function_has_the_signature_and_the_documentation_of_its_options():
    @with_options(BAKING)
    def bake(cake, **options):
        """Bake.

        {options}
        """
        return cake, options

    assert str(inspect.signature(bake)) == "(cake, *, minutes: int = 30, mode: str = 'fan')"
    assert "minutes : minutes in the oven." in bake.__doc__
    assert bake("pie", mode="grill") == ("pie", {"mode": "grill"})


def test_a_new_field_of_the_spec_makes_no_file_a_miss():
    """All fields that the first files did not have are left out at their defaults."""
    first = {"backbone", "weights", "image_size", "preprocessing", "layer", "pooling", "resize"}
    first |= {"precision", "dtype", "views", "format_version"}
    later = {one.name for one in fields(ExtractionSpec)} - first
    spec = ExtractionSpec("tiny", "00", (32, 32), "tf")
    assert spec.fingerprint == "e22d923b5615177b4006347fcead2d19"
    assert set(spec.to_dict()) == first
    changed = {"background": "#000000", "decode_scale": True, "decoder": "fast"}
    changed |= {"value_range": (0, 1), "crop": "center 0.875"}
    assert later <= set(replace(spec, views=2, augment=("flip",), **changed).to_dict())


def test_signature_command_line_and_embedder_have_every_option():
    from typer.main import get_command

    from featcache.cli import app

    signature = inspect.signature(fc.extract).parameters
    assert {name: one.default for name, one in EVERY.items()}.items() <= {
        name: one.default for name, one in signature.items()
    }.items()
    verb = get_command(app).commands["extract"]
    typed = {one.name for one in verb.params}
    assert {name for name, one in EVERY.items() if one.typed is not None} <= typed
    assert set(RUNNING) | set(NUMBERS) == set(EVERY)
    own = set(fc.Embedder().get_params())
    left_out = {"views", "augment", "root", "target", "limit", "overwrite", "on_error", "wait"}
    left_out |= {"engine", "scheduler", "address", "executor", "assemble_up_to"}
    assert own == set(EVERY) - left_out | {"backbone"}


def test_how_to_run_is_frozen():
    with pytest.raises(AttributeError):
        Running().batch_size = 3
