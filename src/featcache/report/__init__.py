"""Pages that need nothing else: of a comparison of heads, and of a fine-tuning."""

from featcache.report.page import label_suspects, write_report
from featcache.report.projector import write_projector
from featcache.report.training_page import write_training_page

__all__ = [
    "label_suspects",
    "write_projector",
    "write_report",
    "write_training_page",
]
