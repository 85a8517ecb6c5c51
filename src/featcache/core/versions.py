"""Which versions of packages are installed; packages do not change while a process runs."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version(package: str) -> str:
    """Return the version of an installed package, whose files are read once.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        When it is not installed.
    """
    return importlib.metadata.version(package)
