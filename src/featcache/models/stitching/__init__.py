"""Join a backbone and a fitted head into one Keras model, and prove that it is the same."""

from featcache.models.stitching.api import Stitched, run, stitch
from featcache.models.stitching.building import features_of
from featcache.models.stitching.parity import (
    BATCH_SIZE,
    MAX_PARITY_IMAGES,
    TOLERANCE,
    Expected,
    Parity,
    check_parity,
    compare,
    measure,
    tolerance_of,
)
from featcache.models.stitching.saving import check_out, labels_path, save

__all__ = [
    "BATCH_SIZE",
    "MAX_PARITY_IMAGES",
    "TOLERANCE",
    "Expected",
    "Parity",
    "Stitched",
    "check_out",
    "check_parity",
    "compare",
    "features_of",
    "labels_path",
    "measure",
    "run",
    "save",
    "stitch",
    "tolerance_of",
]
