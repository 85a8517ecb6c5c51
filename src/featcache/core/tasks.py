"""What heads learn."""

from __future__ import annotations

THRESHOLD = {"probabilities": 0.5, "scores": 0.0}  # from which on a label is predicted
NAMES = {"classification": "classes", "multi-label": "labels", "regression": "targets"}
