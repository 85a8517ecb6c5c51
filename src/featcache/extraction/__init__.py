"""Source x backbones -> feature files: what is missing is computed, once."""

from featcache.core.running import DEFAULT_CACHE
from featcache.extraction.api import (
    DEFAULT_SOURCE,
    Extraction,
    extract,
    extract_all,
    extract_network,
    run,
    run_all,
)

__all__ = [
    "DEFAULT_CACHE",
    "DEFAULT_SOURCE",
    "Extraction",
    "extract",
    "extract_all",
    "extract_network",
    "run",
    "run_all",
]
