"""Heads: the models trained on features. Heads see arrays, never images."""

from featcache.heads.base import PROBABILITIES, SCORES, VALUES, Head
from featcache.heads.calibrated import Calibrated
from featcache.heads.catalogue import CATALOGUE, check_names, load, save
from featcache.heads.custom import Own
from featcache.heads.training_rows import Rows

__all__ = [
    "CATALOGUE",
    "PROBABILITIES",
    "SCORES",
    "VALUES",
    "Calibrated",
    "Head",
    "Own",
    "Rows",
    "check_names",
    "load",
    "save",
]
