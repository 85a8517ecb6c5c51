"""Train the last layers of a stitched model from the cached boundary."""

from featcache.finetuning.api import Finetuning, check_machine, finetune, page_path

__all__ = [
    "Finetuning",
    "check_machine",
    "finetune",
    "page_path",
]
