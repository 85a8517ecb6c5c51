"""The outcome of comparing heads: scores with their uncertainty, and a folder of fitted heads."""

from featcache.scoring.leaderboard.board import (
    BOARD_VERSION,
    OPEN_SET_FILE,
    OUT_OF_FOLD_FILE,
    REPORT_FILE,
    FittedHead,
    Leaderboard,
)
from featcache.scoring.leaderboard.printing import number, setting
from featcache.scoring.leaderboard.results import FeatureSet, OutOfFold, Result
from featcache.scoring.leaderboard.saving import (
    BOARD_FILE,
    CSV_FILE,
    is_folder,
    load,
    load_if_same,
    write,
)

__all__ = [
    "BOARD_FILE",
    "BOARD_VERSION",
    "CSV_FILE",
    "OPEN_SET_FILE",
    "OUT_OF_FOLD_FILE",
    "REPORT_FILE",
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
