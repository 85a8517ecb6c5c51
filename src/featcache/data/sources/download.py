"""A file that lists images, on a server: read whole, and used as a path to it would be."""

from __future__ import annotations

import io
import os
from functools import cached_property
from typing import IO, Any

from featcache.data import remote
from featcache.data.urls import name_of, shown


class Download:
    """A file by URL, with as much of `pathlib.Path` as who reads it needs."""

    def __init__(self, url: str):
        self.url, self.name = url, name_of(url)
        self.stem, self.suffix = os.path.splitext(self.name)

    def __str__(self) -> str:
        return shown(self.url)

    def open(self, mode: str = "r", **how: Any) -> IO[Any]:
        """Return the file, open for reading."""
        file = io.BytesIO(self._data)
        return file if "b" in mode else io.TextIOWrapper(file, **how)

    @cached_property
    def _data(self) -> bytes:
        return remote.whole(self.url)
