"""What belongs to a whole process: swapped in our own alone, else changed for a moment and counted.

In somebody else's process featcache is a guest. Descriptors, streams and the filters of warnings
are shared by all threads there: whoever swaps them takes them from the others, and where two swap
at once, what is put back last is what the first one had put in. Our own process is that of the
command line, or a worker that does one call at a time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_owners: list[None] = []  # one for each `owned` that has not ended
_catching = threading.RLock()  # one thread may catch within catching
_counting = threading.Lock()
_n_ignoring: Counter[Any] = Counter()
_filters: dict[Any, Any] = {}


@contextmanager
def owned() -> Iterator[None]:
    """Treat this process as our own; it is the caller's word that nothing else runs in it."""
    _owners.append(None)
    try:
        yield
    finally:
        _owners.pop()


def is_own() -> bool:
    """Return whether nothing but featcache runs in this process."""
    return bool(_owners)


@dataclass
class Caught:
    """What was written to descriptor 2, once that is over."""

    said: bytes = b""


@contextmanager
def stderr_caught() -> Iterator[Caught]:
    """Keep back what is written to descriptor 2, from C++ too; nothing in others' processes."""
    caught = Caught()
    if not is_own():
        yield caught
        return
    with _catching, tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield caught
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            caught.said = kept.read()


@contextmanager
def ignored(
    message: str = "", category: type[Warning] = Warning, module: str = ""
) -> Iterator[None]:
    """Ignore warnings as `warnings.filterwarnings` describes them, in every thread meanwhile.

    `warnings.catch_warnings` would put back all filters as they were when it began, whichever
    other threads had set since; this takes away its own, when the last thread has left.
    """
    which = (message, category, module)
    with _counting:
        _n_ignoring[which] += 1
        if _n_ignoring[which] == 1:
            warnings.filterwarnings("ignore", message, category, module)
            _filters[which] = warnings.filters[0]
    try:
        yield
    finally:
        with _counting:
            _n_ignoring[which] -= 1
            if not _n_ignoring[which]:
                del _n_ignoring[which]
                with suppress(ValueError):  # somebody has set back all filters
                    warnings.filters.remove(_filters.pop(which))  # type: ignore[attr-defined]
