"""Which feature files an extraction is asked for, as names; nothing is looked up or run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Union

from featcache.core.checks import bad, check_choice
from featcache.core.errors import SpecError
from featcache.core.spec import AUGMENTATIONS
from featcache.networks import backbones, registry

Names = Union[str, Sequence[str], None]


def _names(names: Names) -> list[str | None]:
    """Return names without repetitions; None is one of them."""
    if isinstance(names, Sequence) and not all(isinstance(n, (str, type(None))) for n in names):
        raise bad("backbone and layer", "be names", repr(list(names)))
    return [names] if names is None or isinstance(names, str) else list(dict.fromkeys(names))


def combined(
    backbone: Names, layer: Names, weights: str | None
) -> list[tuple[str | None, str | None]]:
    """Return backbone and layer of each file to be made."""
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
        if name is not None:
            registry.find(name)  # its error comes before another one's weights are fetched
    return [(name, tap) for name in names for tap in layers]


def different(every: Iterable[backbones.Resolved]) -> list[backbones.Resolved]:
    """Return what is resolved once where two names stand for the same, as None and the default."""
    return list({one.spec: one for one in every}.values())


def augmentations(augment: Names, views: int) -> tuple[str, ...]:
    """Return augmentations in the order in which they are listed in `AUGMENTATIONS`."""
    if augment is None:
        return AUGMENTATIONS if views > 1 else ()
    names = augment.split(",") if isinstance(augment, str) else list(augment)
    for name in names:
        check_choice("augment", name, AUGMENTATIONS)
    if views == 1:
        raise SpecError(
            f"views is 1, the clean image alone, so there is nothing to augment by "
            f"{', '.join(names)}. Ask for 2 views or more."
        )
    return tuple(name for name in AUGMENTATIONS if name in names)
