"""Every network with a name: what it is, and whether its weights are on this machine."""

from __future__ import annotations

from dataclasses import dataclass

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
        about = (entry.family, entry.licence, False, provider.source)
        found.append(_described(name, *about, provider.has_weights(name)))
    for name, one in PUBLISHED.items():
        about = (one.family, one.licence, one.asks_for_consent, one.name)
        found.append(_described(name, *about, hub.is_here(one.name)))
    return found


def spec_name(name: str) -> str:
    """Return what specs call a network."""
    return PUBLISHED[name].repository.partition("/")[2] if name in PUBLISHED else name


def _described(
    name: str, family: str, licence: str, asks: bool, source: str, is_here: bool
) -> Backbone:
    counted = measures.of(name)
    return Backbone(
        name=name,
        family=family,
        parameters=counted.parameters,
        image_size=counted.image_size,
        features=counted.features,
        multiply_adds=counted.multiply_adds,
        licence=licence,
        asks_for_consent=asks,
        source=source,
        is_here=is_here,
    )
