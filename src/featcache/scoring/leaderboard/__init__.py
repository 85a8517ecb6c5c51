"""The outcome of comparing heads: scores with their uncertainty, and a folder of fitted heads."""

from featcache.scoring.leaderboard.records import (
    BOARD_VERSION,
    FeatureSet,
    FittedHead,
    Leaderboard,
    OutOfFold,
    Result,
)
from featcache.scoring.leaderboard.saving import BOARD_FILE, is_folder, load, load_if_same, write
from featcache.scoring.leaderboard.table import number, setting

__all__ = [
    "BOARD_FILE",
    "BOARD_VERSION",
    "FeatureSet",
    "FittedHead",
    "Leaderboard",
    "OutOfFold",
    "Result",
    "is_folder",
    "load",
    "load_if_same",
    "number",
    "setting",
    "write",
]
