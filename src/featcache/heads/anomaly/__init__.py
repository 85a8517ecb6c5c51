"""Heads that learn from good images alone and say how far others are from them.

Each gives one score an image, and those of maps one for each place of the map as well. What is an
anomaly is decided by a threshold that keeps a chosen rate of false alarms, see `threshold`.
"""

from featcache.heads.anomaly.base import AnomalyHead
from featcache.heads.anomaly.gaussian import Gaussian
from featcache.heads.anomaly.neighbours import NeighbourDistance
from featcache.heads.anomaly.one_class_svm import OneClassSVM
from featcache.heads.anomaly.patch_memory import PatchMemory
from featcache.heads.anomaly.threshold import Threshold

__all__ = [
    "AnomalyHead",
    "Gaussian",
    "NeighbourDistance",
    "OneClassSVM",
    "PatchMemory",
    "Threshold",
]
