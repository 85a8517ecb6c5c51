"""Join a backbone and a fitted head into one Keras model, and prove that it is the same."""

from featcache.models.stitching.api import Stitched, read_if_same, run, stitch
from featcache.models.stitching.building import extractor_of, features_of, word
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
    unchanged,
)
from featcache.models.stitching.saving import check_out, labels_path, save
from featcache.models.stitching.size import ModelSize, multiply_adds, n_parameters, size_of

__all__ = [
    "BATCH_SIZE",
    "MAX_PARITY_IMAGES",
    "TOLERANCE",
    "Expected",
    "ModelSize",
    "Parity",
    "Stitched",
    "check_out",
    "check_parity",
    "compare",
    "extractor_of",
    "features_of",
    "labels_path",
    "measure",
    "multiply_adds",
    "n_parameters",
    "read_if_same",
    "run",
    "save",
    "size_of",
    "stitch",
    "tolerance_of",
    "unchanged",
    "word",
]
