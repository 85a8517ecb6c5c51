"""Images to classes, labels or values with a stitched model.

In come files, folders, manifests, tar files or images from Python, out come predictions one by one,
in their order. An image that cannot be read keeps its place and says why.
"""

from featcache.predict.loading import load_keras, read_card
from featcache.predict.model import DEFAULT_CACHE, Block, Model, load
from featcache.predict.prediction import NAMES, Prediction, Wanted
from featcache.predict.writing import check_out, writer

__all__ = [
    "DEFAULT_CACHE",
    "NAMES",
    "Block",
    "Model",
    "Prediction",
    "Wanted",
    "check_out",
    "load",
    "load_keras",
    "read_card",
    "writer",
]
