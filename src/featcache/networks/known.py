"""Every network with a name: what it is, and whether its weights are on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from featcache.networks import hub, measures, registry
from featcache.networks.published import PUBLISHED


@dataclass(frozen=True)
class Backbone:
    """A network that `extract` knows by name."""

    name: str
    family: str
    parameters: int  # without a classifier
    image_size: int  # pixels a side, its own
    features: int  # numbers an image
    multiply_adds: int  # of an image of that size
    licence: str  # of its weights; empty where its authors name none
    asks_for_consent: bool  # before its weights may be downloaded
    source: str  # of its weights: pip, Keras, or their name on the Hugging Face Hub
    is_here: bool  # whether they are on this machine
    images_per_second: float | None = None  # in the fastest extraction of a cache folder


def known() -> list[Backbone]:
    """Return every network with a name. TensorFlow is not imported."""
    found = []
    for name, provider in registry.CATALOGUE.items():
        entry = provider.entries[name]
        found.append(
            _described(
                name,
                family=entry.family,
                licence=entry.licence,
                asks_for_consent=False,
                source=provider.source,
                is_here=provider.has_weights(name),
            )
        )
    for name, one in PUBLISHED.items():
        found.append(
            _described(
                name,
                family=one.family,
                licence=one.licence,
                asks_for_consent=one.asks_for_consent,
                source=one.name,
                is_here=hub.is_here(one.name),
            )
        )
    return found


def spec_name(name: str) -> str:
    """Return what specs call a network."""
    return PUBLISHED[name].repository.partition("/")[2] if name in PUBLISHED else name


def _described(name: str, **about: Any) -> Backbone:
    counted = asdict(measures.of(name))
    del counted["file"]
    return Backbone(name=name, **counted, **about)
