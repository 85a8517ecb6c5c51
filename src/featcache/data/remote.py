"""Object storage and web servers, through fsspec: read, list, ask, again where that may help.

Credentials are the clients' business: none is taken, kept or shown here. What a client says is
passed on without the URLs' secrets, and its errors are not chained to ours, as they quote them.
"""

from __future__ import annotations

import datetime
import email.utils
import errno
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from featcache.core.errors import SourceError
from featcache.data.clients import IN_FLIGHT, opened, reading
from featcache.data.retries import (
    is_absent,
    is_forbidden,
    is_of_all,
    is_passing,
    reason_of,
    with_retries,
)
from featcache.data.urls import plain, scheme_of, shown

BLOCK_BYTES = 1 << 16  # of a tar file's headers, read at once

Made = TypeVar("Made")
Info = dict[str, Any]
Stamp = tuple[int, int, int, int]

_VERSIONS = ("generation", "ETag", "etag", "xet_hash", "blob_id", "md5Hash", "Content-MD5")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "Last-Modified")
_failed: Counter[str] = Counter()  # by storage: reads in a row that got no answer
_lock = threading.Lock()


class ShortReadError(OSError):
    """Fewer bytes came than an object has."""


def read(url: str, size: int = -1, start: int | None = None) -> bytes:
    """Return an object's bytes, or `size` of them from `start` on.

    Parameters
    ----------
    size : bytes that there should be, -1 where that is not known.

    Raises
    ------
    OSError
        When it cannot be had.
    SourceError
        When nothing at all comes from its server any more.
    """
    end = None if start is None else start + size
    where = storage_of(url)

    def attempt() -> bytes:
        file_system, path = opened(url)
        data: bytes = file_system.cat_file(path, start=start, end=end, **reading(url))
        if size >= 0 and len(data) != size:
            if start is not None and len(data) > size:
                raise io.UnsupportedOperation("the server gives no parts of files; download it")
            if start is not None or asked(file_system, path).get("size") != len(data):
                raise ShortReadError(errno.EIO, f"{len(data):,} of {size:,} bytes came")
        return data

    try:
        data = with_retries(attempt, scheme_of(url).is_patient)
    except Exception as error:
        with _lock:
            _failed[where] += is_of_all(error)
            is_dead = _failed[where] >= IN_FLIGHT
        if is_dead:
            raise SourceError(
                f"'{where}' gives nothing any more: {reason_of(error)}. Run the same command again "
                f"when it does; what was computed is kept."
            ) from None
        raise OSError(errno.EIO, reason_of(error)) from None
    with _lock:
        _failed[where] = 0
    return data


def stamp(url: str) -> Stamp | None:
    """Return what tells that an object is unchanged; one request.

    Raises
    ------
    OSError
        When it cannot be had.
    """
    try:
        return stamp_of(with_retries(lambda: asked(*opened(url)), scheme_of(url).is_patient))
    except Exception as error:
        raise OSError(errno.EIO, reason_of(error)) from None


def stamp_of(info: Info) -> Stamp | None:
    """Return size, modification time in ns, -1 and a number for the version; -1 is unknown.

    None where neither time nor version is known.
    """
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), None)
    modified = next((_in_ns(info[name]) for name in _TIMES if info.get(name)), -1)
    if version is None and modified < 0:
        return None
    size = info.get("size")
    number = -1
    if version is not None:
        digest = hashlib.blake2b(version.strip('"').encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "big") >> 1
    return -1 if size is None else int(size), modified, -1, number


def listed(url: str) -> dict[str, Info]:
    """Return what is known of all objects below a URL, by path relative to it.

    An object of that very name has the path "".

    Raises
    ------
    SourceError
        When it cannot be listed.
    """
    if not scheme_of(url).has_listing:
        raise SourceError(
            f"'{shown(url)}' is no folder: a web server does not list its files. Give a "
            f"manifest with their URLs, or a tar file."
        )

    def attempt() -> dict[str, Info]:
        file_system, path = opened(url.rstrip("/"))
        file_system.invalidate_cache()
        found: dict[str, Info] = file_system.find(path, detail=True)
        if not isinstance(found, dict):  # so adlfs says that it is an object by itself
            return {"": {}}
        return {
            name[len(path) + 1 :]: info
            for name, info in found.items()
            if info.get("type") != "directory" and not name.endswith("/")  # a "folder"
        }

    return at_opening(url, attempt)


def whole(url: str) -> bytes:
    """Return a file's bytes, to open a source by; raise SourceError where it cannot be had."""

    def attempt() -> bytes:
        file_system, path = opened(url)
        data: bytes = file_system.cat_file(path, **reading(url))
        return data

    return at_opening(url, attempt)


def archive(url: str) -> tuple[BinaryIO, Info]:
    """Return a tar file to read headers of, a few at a time, and what is known of it."""

    def attempt() -> tuple[BinaryIO, Info]:
        file_system, path = opened(url)
        info = asked(file_system, path)
        if info.get("size") is None or info.get("partial") is False:
            raise io.UnsupportedOperation("its server gives no parts of files; download it")
        parts = _Parts(url, int(info["size"]))
        return cast(BinaryIO, io.BufferedReader(parts, BLOCK_BYTES)), info

    return at_opening(url, attempt)


def at_opening(url: str, attempt: Callable[[], Made]) -> Made:
    """Return what a function makes; what it raises becomes one line with a cure."""
    try:
        return with_retries(attempt, scheme_of(url).is_patient)
    except Exception as error:
        raise _explained(error, url) from None


def storage_of(url: str) -> str:
    """Return scheme and bucket or server of a URL."""
    scheme, slashes, rest = plain(url).partition("://")
    return scheme + slashes + rest.partition("/")[0]


class _Parts(io.RawIOBase):
    """A file of which only the parts that are asked for are read."""

    def __init__(self, url: str, size: int):
        self.url, self.size, self.position = url, size, 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any place can be gone to."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from here on, as far as the file goes."""
        n = max(0, min(len(buffer), self.size - self.position))
        if n:
            buffer[:n] = read(self.url, n, self.position)
            self.position += n
        return n


def asked(file_system: Any, path: str) -> Info:
    """Return what a server says of an object now."""
    info: Info = file_system.info(path)
    if info.get("type") == "directory":
        raise FileNotFoundError(path)
    return info


def _explained(error: Exception, url: str) -> SourceError:
    scheme, name = scheme_of(url), shown(url)
    if isinstance(error, SourceError):
        return error
    if isinstance(error, ImportError):
        return SourceError(
            f"Reading '{name}' needs {scheme.package}: pip install 'featcache[{scheme.extra}]'"
        )
    reason = reason_of(error)
    if is_absent(error):
        return SourceError(f"'{name}' does not exist: {reason}. Mend the URL.")
    if is_forbidden(error):
        return SourceError(f"'{name}' may not be read: {reason}. {scheme.cure}.")
    if is_passing(error):
        return SourceError(
            f"'{name}' cannot be had: {reason}. Run the same command again when it can."
        )
    return SourceError(f"'{name}' cannot be read: {reason}. Mend the URL, or copy it here.")


def _in_ns(moment: Any) -> int:
    """Return a time as clients give it in ns since 1970; -1 where it is none."""
    try:
        if isinstance(moment, str):
            is_iso = moment[:1].isdigit()
            moment = (
                datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
                if is_iso
                else email.utils.parsedate_to_datetime(moment)
            )
        return int(moment.timestamp() * 1_000_000) * 1000
    except (ValueError, TypeError, AttributeError, OverflowError):
        return -1
