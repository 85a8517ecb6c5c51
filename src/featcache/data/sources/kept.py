"""What was read over a network and will be asked for again: in memory, then in a temporary file.

A collection that has to be looked at before it is computed is so transferred once. What does not
fit is transferred again, never wrong.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Hashable
from contextlib import suppress
from typing import IO, Any

MEMORY_BYTES = 256 << 20
DISK_BYTES = 8 << 30  # at most, and at most half of what is free

_all: weakref.WeakValueDictionary[str, Kept] = weakref.WeakValueDictionary()
_making = threading.Lock()


class Kept:
    """Bytes by key, the newest of them; another process begins with nothing."""

    def __init__(self, name: str | None = None):
        self.name = uuid.uuid4().hex if name is None else name
        self._lock = threading.Lock()
        self._in_memory: dict[Hashable, bytes] = {}
        self._n_bytes = 0
        self._on_disk: dict[Hashable, tuple[int, int]] = {}  # offset and size
        self._file: IO[bytes] | None = None
        self._end = self._room = 0
        _all[self.name] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return named, (self.name,)

    def get(self, key: Hashable) -> bytes | None:
        """Return what was put under a key, None where it is not there any more."""
        with self._lock:
            if key in self._in_memory or self._file is None or key not in self._on_disk:
                return self._in_memory.get(key)
            offset, size = self._on_disk[key]
            self._file.seek(offset)
            data = self._file.read(size)
            return data if len(data) == size else None

    def put(self, key: Hashable, data: bytes) -> None:
        """Keep bytes; the oldest go to the disk, as long as that has room."""
        with self._lock:
            self._n_bytes += len(data) - len(self._in_memory.get(key, b""))
            self._in_memory[key] = data
            while self._n_bytes > MEMORY_BYTES:
                oldest = next(iter(self._in_memory))
                self._write(oldest, self._in_memory.pop(oldest))

    def forget(self, key: Hashable) -> None:
        """Make room of what nobody will ask for again."""
        with self._lock:
            self._n_bytes -= len(self._in_memory.pop(key, b""))

    def _write(self, key: Hashable, data: bytes) -> None:
        self._n_bytes -= len(data)
        if key in self._on_disk:
            return
        with suppress(OSError):  # a full disk keeps nothing more
            if self._file is None:
                self._room = min(DISK_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)
                # gone with the process, however that ends
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            if self._end + len(data) > self._room:
                return
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
            self._on_disk[key] = (self._end, len(data))
            self._end += len(data)


def named(name: str) -> Kept:
    """Return what is kept under a name in this process."""
    with _making:
        return _all.get(name) or Kept(name)
