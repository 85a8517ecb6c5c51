"""Source x backbones -> feature files: what is missing is computed, once."""

from featcache.extraction.api import (
    CHECKS,
    DEFAULT_CACHE,
    DEFAULT_SOURCE,
    Extraction,
    extract,
    extract_all,
    extract_network,
    run,
    run_all,
)

__all__ = [
    "CHECKS",
    "DEFAULT_CACHE",
    "DEFAULT_SOURCE",
    "Extraction",
    "extract",
    "extract_all",
    "extract_network",
    "run",
    "run_all",
]
