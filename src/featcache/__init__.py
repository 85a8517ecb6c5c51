"""featcache: extract once, train heads in seconds, ship one model.

>>> import featcache as fc
>>> features = fc.extract("photos/", backbone="mobilenet-v2")  # doctest: +SKIP
>>> board = fc.fit_heads(features)  # doctest: +SKIP
>>> model = fc.stitch(board.best, out="photos.keras")  # doctest: +SKIP

The public names are loaded on first use, so that importing featcache is quick and never imports
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featcache.core.errors import FeatcacheError
    from featcache.core.spec import ExtractionSpec
    from featcache.data.openers import open_source
    from featcache.data.sources import Source
    from featcache.detection import (
        Detector,
        evaluate_detector,
        export_detector,
        fit_detector,
        load_detector,
        stitch_detector,
    )
    from featcache.extraction import extract, extract_all
    from featcache.extraction.embedder import Embedder
    from featcache.extraction.speeds import backbones
    from featcache.finetuning import finetune
    from featcache.inference.evaluate import Evaluation, evaluate
    from featcache.inference.predict import Model, load
    from featcache.inference.search import search
    from featcache.models.export import export
    from featcache.models.stitching import stitch
    from featcache.scoring.leaderboard import FittedHead, Leaderboard
    from featcache.selection.fit_heads import fit_heads
    from featcache.store import Features

_HOME = {
    "Detector": "detection",
    "Embedder": "extraction.embedder",
    "Evaluation": "inference.evaluate",
    "ExtractionSpec": "core.spec",
    "FeatcacheError": "core.errors",
    "Features": "store",
    "FittedHead": "scoring.leaderboard",
    "Leaderboard": "scoring.leaderboard",
    "Model": "inference.predict",
    "Source": "data.sources",
    "backbones": "extraction.speeds",
    "evaluate": "inference.evaluate",
    "evaluate_detector": "detection",
    "export": "models.export",
    "export_detector": "detection",
    "extract": "extraction",
    "extract_all": "extraction",
    "finetune": "finetuning",
    "fit_detector": "detection",
    "fit_heads": "selection.fit_heads",
    "load": "inference.predict",
    "load_detector": "detection",
    "open_source": "data.openers",
    "search": "inference.search",
    "stitch": "models.stitching",
    "stitch_detector": "detection",
}

__all__ = [
    "Detector",
    "Embedder",
    "Evaluation",
    "ExtractionSpec",
    "FeatcacheError",
    "Features",
    "FittedHead",
    "Leaderboard",
    "Model",
    "Source",
    "backbones",
    "evaluate",
    "evaluate_detector",
    "export",
    "export_detector",
    "extract",
    "extract_all",
    "finetune",
    "fit_detector",
    "fit_heads",
    "load",
    "load_detector",
    "open_source",
    "search",
    "stitch",
    "stitch_detector",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute '{name}'")
    return getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
