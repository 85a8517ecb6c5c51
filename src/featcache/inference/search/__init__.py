"""The images of a feature file most like others: exactly, or by an index where they are many."""

from featcache.inference.search.api import Found, search
from featcache.inference.search.index import EXACT_ROWS
from featcache.inference.search.page import write_page

__all__ = ["EXACT_ROWS", "Found", "search", "write_page"]
