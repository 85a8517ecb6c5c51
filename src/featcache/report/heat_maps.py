"""The images that a head of anomalies finds farthest off, each with where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache import store
from featcache.core.errors import FeatcacheError
from featcache.core.overlay import overlay
from featcache.core.spec import MAX_PIXELS
from featcache.data import loading, openers
from featcache.data.listing import list_images
from featcache.heads.anomaly import AnomalyHead
from featcache.heads.anomaly.base import ANOMALY
from featcache.report import pictures, sections
from featcache.report.material import Material
from featcache.report.rendering import Values

N_SHOWN, SIDE = 24, 160


def farthest(material: Material) -> list[Values]:
    """Return the images with the highest scores, the highest first, with their heat maps.

    Of images that were learnt from the score is of the fold's head, which had not seen them, and
    the heat map of the head that ships; of images that are gone there is none.
    """
    places = np.argsort(-material.outputs[:, ANOMALY], kind="stable")[:N_SHOWN]
    head = material.board.best.head
    drawn: dict[int, str] = {}
    if isinstance(head, AnomalyHead) and head.has_heat_maps and material.features is not None:
        drawn = _drawn(head, material.features, material.rows[places].tolist())
    return [
        sections.picture(material, place)
        | {"above": f"{material.outputs[place, ANOMALY]:+.3g}"}
        | {"heat_map": drawn.get(int(material.rows[place]), "")}
        for place in places.tolist()
    ]


def _drawn(head: AnomalyHead, features: store.Features, rows: Sequence[int]) -> dict[int, str]:
    """Return pictures of images with their heat maps, by row of the feature file."""
    from PIL import Image

    try:
        source = openers.reopen(features.provenance)
    except (FeatcacheError, OSError):
        return {}  # the page says that there are no pictures
    number = {id_: place for place, id_ in enumerate(source.ids)}
    there = [row for row in rows if features.ids[row] in number]
    source = source.take(np.array([number[features.ids[row]] for row in there], int))
    listing = list_images(source, int(features.provenance.get("max_pixels", MAX_PIXELS)))
    same = (listing.digests == features.digests[there]).all(axis=1)
    pixels, is_read = loading.read(
        listing, np.arange(len(there)), spec=features.spec.clean, batch_size=N_SHOWN
    )
    found = {}
    for place in np.flatnonzero(same & is_read).tolist():
        (heat,) = head.heat_maps(features.read_rows([there[place]]))
        large = Image.fromarray(heat).resize(pixels.shape[2:0:-1], Image.Resampling.BILINEAR)
        image = np.clip(pixels[place].round(), 0, 255).astype(np.uint8)
        over = overlay(image, np.asarray(large), head.threshold)
        found[there[place]] = pictures.encode(over, SIDE)
    return found
