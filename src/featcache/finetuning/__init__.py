"""Train the last layers of a stitched model from the cached boundary."""

from featcache.finetuning.api import finetune
from featcache.finetuning.outcome import Finetuning
from featcache.finetuning.preview import Preview

__all__ = [
    "Finetuning",
    "Preview",
    "finetune",
]
