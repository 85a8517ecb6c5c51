"""Pages that need nothing else: of a comparison of heads, and of a fine-tuning."""

from featcache.report.page import REPORT_FILE, label_suspects, write
from featcache.report.training import write as write_training

__all__ = [
    "REPORT_FILE",
    "label_suspects",
    "write",
    "write_training",
]
