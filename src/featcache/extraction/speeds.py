"""How fast backbones were in the extractions of a cache folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from featcache import store
from featcache.core.checks import check_path
from featcache.core.errors import StoreError
from featcache.core.spec import ExtractionSpec
from featcache.networks.known import Backbone, known, spec_name
from featcache.store import working_copy

KEY = "images_per_second"  # of provenance
FEWEST = 100  # images: fewer say more about starting up than about a network


def noted(n_images: int, seconds: float) -> dict[str, Any]:
    """Return what provenance keeps of how fast a run was."""
    return {KEY: round(n_images / seconds, 1)} if n_images >= FEWEST and seconds > 0 else {}


def backbones(cache_dir: Union[str, os.PathLike[str]] = "cache") -> list[Backbone]:
    """Return every network that has a name, with what it is, costs and is called.

    Parameters
    ----------
    cache_dir : folder of features whose extractions say how many images a second each did, on the
        machine they ran on; at its own size, in float32. It need not exist.

    Returns
    -------
    Each with its name, family, parameters, image_size (pixels a side), features, multiply_adds (of
    one image), licence, asks_for_consent, source, is_here, and images_per_second or None.

    Raises
    ------
    SpecError
        When `cache_dir` is no path.
    """
    speeds = _speeds(working_copy.pulled(check_path("cache_dir", cache_dir)))
    return [
        replace(one, images_per_second=speeds.get((spec_name(one.name), one.image_size)))
        for one in known()
    ]


def _speeds(cache: Path) -> Mapping[tuple[str, int], float]:
    """Return the best images/s by backbone and side."""
    found: dict[tuple[str, int], float] = {}
    for path in sorted(cache.glob("*/*.h5")):
        try:
            features = store.Features(path)
            spec, speed = features.spec, features.provenance.get(KEY)
        except StoreError:
            continue  # `info` says which files are damaged
        if isinstance(speed, (int, float)) and _is_plain(spec):
            key = spec.backbone, spec.image_size[0]
            found[key] = max(float(speed), found.get(key, 0.0))
    return found


def _is_plain(spec: ExtractionSpec) -> bool:
    height, width = spec.image_size
    return height == width and spec.views == 1 and spec.precision == "float32" and not spec.layer
