"""What a working copy of a cache folder in a bucket knows: which one it is of, and what was equal.

It lies in the copy's root; a folder without it is an ordinary cache folder.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

from featcache.core.atomic import write_text

MARKER = ".bucket.json"
OWN, SEEN, PUBLISHED = "own", "seen", "published"  # a part: made here, by others, of an index

State = tuple[int, int, int]  # of a file, see `file_state`


@dataclass
class Marker:
    """What was the same in the bucket and here when it was last looked at, by key."""

    url: str  # of the cache folder
    files: dict[str, tuple[str, State | None]] = field(default_factory=dict)  # ETag, state here
    parts: dict[str, str] = field(default_factory=dict)

    def save(self, root: Path) -> None:
        """Write it into the working copy's root."""
        values = {"url": self.url, "files": self.files, "parts": self.parts}
        write_text(root / MARKER, json.dumps(values))


def load(root: Path, url: str) -> Marker:
    """Return what is known; nothing where it cannot be read, which costs looking again."""
    try:
        saved = json.loads((root / MARKER).read_text(encoding="utf-8"))
        files = {
            str(key): (str(etag), None if state is None else tuple(map(int, state)))
            for key, (etag, state) in saved["files"].items()
        }
        parts = {str(key): str(status) for key, status in saved["parts"].items()}
        if saved["url"] == url:
            return Marker(url, files, parts)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return Marker(url)


def url_of(root: Path) -> str | None:
    """Return the URL that a folder is a working copy of; None of any other folder."""
    try:
        found = (root / MARKER).stat()
    except OSError:
        return None
    return _url(root, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(64)
def _url(root: Path, inode: int, modified_ns: int) -> str | None:
    try:
        return str(json.loads((root / MARKER).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
