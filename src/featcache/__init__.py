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
    from featcache.compare import fit_heads
    from featcache.embedder import Embedder
    from featcache.errors import FeatcacheError
    from featcache.evaluation import Evaluation, evaluate
    from featcache.exporting import export
    from featcache.extraction import extract, extract_all
    from featcache.finetuning import finetune
    from featcache.leaderboard import FittedHead, Leaderboard
    from featcache.predict import Model, load
    from featcache.sources import Source, open_source
    from featcache.spec import ExtractionSpec
    from featcache.stitching import stitch
    from featcache.store import Features

_HOME = {
    "Embedder": "embedder",
    "Evaluation": "evaluation",
    "ExtractionSpec": "spec",
    "FeatcacheError": "errors",
    "Features": "store",
    "FittedHead": "leaderboard",
    "Leaderboard": "leaderboard",
    "Model": "predict",
    "Source": "sources",
    "evaluate": "evaluation",
    "export": "exporting",
    "extract": "extraction",
    "extract_all": "extraction",
    "finetune": "finetuning",
    "fit_heads": "compare",
    "load": "predict",
    "open_source": "sources",
    "stitch": "stitching",
}

__all__ = [
    "Embedder",
    "Evaluation",
    "ExtractionSpec",
    "FeatcacheError",
    "Features",
    "FittedHead",
    "Leaderboard",
    "Model",
    "Source",
    "evaluate",
    "export",
    "extract",
    "extract_all",
    "finetune",
    "fit_heads",
    "load",
    "open_source",
    "stitch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute '{name}'")
    return getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
