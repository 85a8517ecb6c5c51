"""Which feature files an extraction is asked for, as names; nothing is looked up or run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featcache.core import progress
from featcache.core.checks import bad
from featcache.core.errors import SpecError
from featcache.core.spec import ExtractionSpec
from featcache.extraction.options import Names
from featcache.extraction.output import open_if_good
from featcache.networks import backbones


def _names(names: Any) -> list[Any]:
    """Return names without repetitions; None is one of them, and a model is one name."""
    if is_name(names):
        return [as_text(names)]
    if not isinstance(names, (list, tuple)) or not all(is_name(name) for name in names):
        raise bad("backbone and layer", "be names", names)
    return list(dict.fromkeys(map(as_text, names)))


def as_text(name: Any) -> Any:
    """Return a path as text that is no name of the registry; anything else as it is."""
    if not isinstance(name, os.PathLike):
        return name
    text = os.fspath(name)
    return text if text.endswith(".keras") else os.path.join(text, "")


def is_name(name: Any, or_model: bool = True) -> bool:
    """Return whether it stands for one backbone or layer; None is the default's."""
    is_model = or_model and hasattr(name, "get_weights")  # of Keras
    is_path = or_model and isinstance(name, os.PathLike)  # of a folder
    return name is None or isinstance(name, str) or is_model or is_path


def combined(backbone: Any, layer: Names, weights: str | None) -> list[tuple[Any, str | None]]:
    """Return backbone, a name or a model, and layer of each file to be made."""
    names, layers = _names(backbone), _names(layer)
    if not names or not layers:
        raise SpecError("backbone and layer must name at least one; got an empty list.")
    if len(names) > 1 and layers != [None]:
        raise SpecError(
            f"layer names a layer of one backbone; {len(names)} are given. Extract each with its "
            f"own layers."
        )
    if len(names) > 1 and weights not in (None, "imagenet", "random"):
        raise SpecError(
            f"weights '{weights}' are of one backbone; {len(names)} are given. Extract each with "
            f"its own weights."
        )
    for name in names if len(names) > 1 else ():
        if isinstance(name, str):
            # its error comes before another one's weights are fetched
            backbones.named(name, "imagenet")
    return [(name, tap) for name in names for tap in layers]


def different(every: Iterable[backbones.Resolved]) -> list[backbones.Resolved]:
    """Return what is resolved once where two names stand for the same, as None and the default."""
    return list({one.spec: one for one in every}.values())


def nearest(spec: ExtractionSpec, others: Iterable[ExtractionSpec]) -> ExtractionSpec:
    """Return which of others differs least, one of the same backbone where it can be."""
    return min(
        others,
        key=lambda it: (len(spec.differences(it)), it.backbone != spec.backbone, it.short_name),
    )


def say_why(folder: Path, spec: ExtractionSpec, show: bool) -> None:
    """Say which field of the spec differs from that of the nearest file of the same source."""
    found = [one for file in sorted(folder.glob("*.h5")) if (one := open_if_good(file)) is not None]
    others = {one.spec for one in found}
    if not others or any(other.clean == spec.clean for other in others):
        return  # rows of the same spec are taken over, whatever the views
    what = spec.differences(nearest(spec, others))
    progress.note(f"No cached features: {'; '.join(what)}.", show)
