"""Images of no known class: how strange one is to a fitted head, and from when on it is unknown."""

from featcache.heads.open_set.base import StrangerScore, logits_of
from featcache.heads.open_set.catalogue import STRANGER_SCORES, put_together, scores_for
from featcache.heads.open_set.rejecting import UNKNOWN, OpenSet, bare, kept, strangeness

__all__ = [
    "STRANGER_SCORES",
    "UNKNOWN",
    "OpenSet",
    "StrangerScore",
    "bare",
    "kept",
    "logits_of",
    "put_together",
    "scores_for",
    "strangeness",
]
