"""What a detector is made and trained with; a card and a folder of heads keep it as plain JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from featcache.core.checks import check_number, whole_number


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How large the head is, how it is trained, and what of its boxes is kept.

    Raises
    ------
    SpecError
        When a value cannot be.
    """

    width: int = 128  # channels of the head
    depth: int = 3  # convolutions of 3 x 3
    dropout: float = 0.3  # of the maps' channels
    epochs: int = 16
    batch_size: int = 32
    learning_rate: float = 2e-3  # highest, of Adam
    max_boxes: int = 50  # that the model gives, at most
    candidates: int = 100  # of the best scores, that suppression looks at
    iou: float = 0.5  # of the better one of the same class, above which a box is suppressed
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "epochs", "batch_size", "max_boxes", "candidates"):
            whole_number(name, getattr(self, name), 1)
        whole_number("seed", self.seed, 0, 2**32 - 1)
        share = "lie in 0 to 1"
        check_number("dropout", self.dropout, share, lambda value: 0 <= value < 1)
        check_number("iou", self.iou, share, lambda value: 0 < value < 1)
        check_number("learning_rate", self.learning_rate, "be above 0", lambda value: value > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        return asdict(self)
