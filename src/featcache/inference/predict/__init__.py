"""Images to classes, labels or values with a stitched model.

In come files, folders, manifests, tar files or images from Python, out come predictions one by one,
in their order. An image that cannot be read keeps its place and says why.
"""

from featcache.inference.predict.model import DEFAULT_CACHE, Block, Model, load
from featcache.inference.predict.overlays import check_folder, write_overlay
from featcache.inference.predict.prediction import Prediction, Wanted
from featcache.inference.predict.writing import check_out, writer
from featcache.models.load import load_keras, read_card

__all__ = [
    "DEFAULT_CACHE",
    "Block",
    "Model",
    "Prediction",
    "Wanted",
    "check_folder",
    "check_out",
    "load",
    "load_keras",
    "read_card",
    "write_overlay",
    "writer",
]
