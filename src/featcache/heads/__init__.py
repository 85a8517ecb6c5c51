"""Heads: the models trained on features. Heads see arrays, never images."""

from featcache.core.tasks import PROBABILITIES, SCORES, VALUES
from featcache.heads.base import Head
from featcache.heads.calibrated import Calibrated
from featcache.heads.catalogue import CATALOGUE, FLOOR, catalogue_of, check_names, load, save
from featcache.heads.custom import Own
from featcache.heads.training_rows import TrainingRows

__all__ = [
    "CATALOGUE",
    "FLOOR",
    "PROBABILITIES",
    "SCORES",
    "VALUES",
    "Calibrated",
    "Head",
    "Own",
    "TrainingRows",
    "catalogue_of",
    "check_names",
    "load",
    "save",
]
