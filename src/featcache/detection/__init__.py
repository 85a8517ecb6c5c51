"""Boxes: a head trained on cached maps, suppression inside the stitched model, average precision.

Annotations are read in data and kept in store; here they are learnt, found again and compared.
"""

from featcache.detection.api import fit_detector
from featcache.detection.detector import Detector, load
from featcache.detection.evaluating import DetectionEvaluation, evaluate_detector
from featcache.detection.exporting import ExportedDetector, export_detector
from featcache.detection.model import Detected, DetectorModel, load_detector
from featcache.detection.settings import Settings
from featcache.detection.stitching import stitch_detector

__all__ = [
    "Detected",
    "DetectionEvaluation",
    "Detector",
    "DetectorModel",
    "ExportedDetector",
    "Settings",
    "evaluate_detector",
    "export_detector",
    "fit_detector",
    "load",
    "load_detector",
    "stitch_detector",
]
