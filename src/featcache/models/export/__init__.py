"""A stitched model in other formats, each run on real images and compared with the model."""

from featcache.models.export.api import export, export_all
from featcache.models.export.exported import Exported, table
from featcache.models.export.writers import FORMATS

__all__ = [
    "FORMATS",
    "Exported",
    "export",
    "export_all",
    "table",
]
