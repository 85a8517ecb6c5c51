"""The command line, one file a verb."""

from featcache.cli.main import main
from featcache.cli.options import app

__all__ = [
    "app",
    "main",
]
