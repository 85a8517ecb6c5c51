"""How good a stitched model is on labelled images."""

from featcache.inference.evaluate.api import evaluate
from featcache.inference.evaluate.evaluation import AccuracyError, Evaluation, check_out

__all__ = [
    "AccuracyError",
    "Evaluation",
    "check_out",
    "evaluate",
]
