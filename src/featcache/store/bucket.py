"""Requests for a cache folder in a bucket of S3: list, get, put, delete.

What others put there is never written over unseen: who replaces an object says which one it knows.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from featcache.core.errors import StorageError, StoreError
from featcache.data import remote
from featcache.data.clients import opened
from featcache.data.retries import is_absent, is_forbidden, is_passing, reason_of, with_retries
from featcache.data.urls import scheme_of

RANGE_BYTES = 32 << 20  # of one request
RANGES_AT_ONCE = 2  # of an object; what is not written yet is in memory
AT_ONCE = 8  # objects
TOKEN = "featcache-put"  # metadata by which a put whose answer was lost knows its own object
NEW = "*"  # of `put`: there must be no such object yet
_CHANGED = 412
_CONFLICT = "ConditionalRequestConflict"  # another write of the same object is on its way

Made = TypeVar("Made")
Item = TypeVar("Item")


class BehindError(StoreError):
    """What lies in a bucket is not what was known of it: another machine wrote or deleted it."""

    def __init__(self, url: str):
        super().__init__(
            f"'{url}' was written or deleted by another machine meanwhile. Run the same command "
            f"again; what was computed is kept."
        )


@dataclass(frozen=True)
class Object:
    """What a listing says of an object."""

    etag: str  # another one for other bytes
    size: int
    modified_ns: int


def listed(url: str) -> dict[str, Object]:
    """Return the objects below a URL by their keys relative to it.

    Raises
    ------
    SourceError
        When they cannot be listed.
    """
    found = {}
    for key, info in remote.listed(url).items():
        stamp = remote.stamp_of(info)
        if key and stamp is not None and info.get("ETag"):
            found[key] = Object(str(info["ETag"]), stamp[0], stamp[1])
    return found


def get(url: str, n_bytes: int, start: int = 0, etag: str | None = None) -> bytes:
    """Return bytes of an object.

    Parameters
    ----------
    etag : of the object that is meant; None is whichever lies there.

    Raises
    ------
    BehindError
        When it is gone, or another one.
    StorageError
        When it cannot be had.
    """
    more = {"Range": f"bytes={start}-{start + n_bytes - 1}"} | ({"IfMatch": etag} if etag else {})

    def attempt() -> bytes:
        from fsspec.asyn import sync

        client, place = _place(url)

        async def answered() -> bytes:
            answer = await client._call_s3("get_object", **place, **more)
            async with answer["Body"] as body:
                data: bytes = await body.read()
            return data

        data: bytes = sync(client.loop, answered)
        if len(data) != n_bytes:
            raise remote.ShortReadError(errno.EIO, f"{len(data):,} of {n_bytes:,} bytes came")
        return data

    return _asked(url, "read", attempt) if n_bytes else b""


def download(url: str, found: Object, path: Path) -> None:
    """Write an object to a file, a few ranges at once; raises as `get`."""
    starts = range(0, found.size, RANGE_BYTES)
    with path.open("wb") as file:
        for first in range(0, len(starts), RANGES_AT_ONCE):

            def some(start: int) -> bytes:
                return get(url, min(RANGE_BYTES, found.size - start), start, found.etag or None)

            for data in each(some, starts[first : first + RANGES_AT_ONCE]):
                file.write(data)


def put(url: str, data: bytes, replaces: str | None = None) -> str:
    """Write an object whole; return its ETag.

    Parameters
    ----------
    replaces : ETag of the object that it may take the place of, or NEW; None is any.

    Raises
    ------
    BehindError
        When another one lies there.
    StorageError
        When it cannot be written.
    """
    token = secrets.token_hex(16)
    condition = {} if replaces is None else {"IfMatch": replaces}
    if replaces == NEW:
        condition = {"IfNoneMatch": "*"}

    def attempt() -> str:
        client, place = _place(url)
        try:
            done = client.call_s3(
                "put_object", **place, Body=data, Metadata={TOKEN: token}, **condition
            )
        except Exception as error:
            if _code(error) == _CONFLICT:
                raise OSError(errno.EAGAIN, reason_of(error)) from None
            if _status(error) != _CHANGED:
                raise
            there = client.call_s3("head_object", **place)
            if there.get("Metadata", {}).get(TOKEN) != token:
                raise
            done = there  # the answer to an attempt before was lost on its way
        return str(done["ETag"])

    return _asked(url, "written", attempt)


def delete(url: str) -> None:
    """Delete an object, if it is there; raise StorageError where that may not be."""

    def attempt() -> None:
        client, place = _place(url)
        client.call_s3("delete_object", **place)

    _asked(url, "deleted", attempt)


def each(function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """Return what a function makes of each item, a few at once."""
    every = list(items)
    if len(every) < 2:
        return [function(item) for item in every]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, every))


def endpoint_of(url: str) -> str:
    """Return the server that a URL leads to; "" is Amazon's own."""

    def attempt() -> str:
        found: str = opened(url)[0].s3.meta.endpoint_url
        return "" if found.partition("?")[0].rstrip("/").endswith(".amazonaws.com") else found

    return remote.at_opening(url, attempt)


def _place(url: str) -> tuple[Any, dict[str, str]]:
    client, path = opened(url)
    bucket, key, _ = client.split_path(path)
    return client, {"Bucket": bucket, "Key": key}


def _asked(url: str, done: str, attempt: Callable[[], Made]) -> Made:
    """Return what an attempt makes, in the end; what it raises becomes one line with a cure."""
    try:
        return with_retries(attempt)
    except Exception as error:
        reason = reason_of(error)
        is_gone = is_absent(error) and "bucket" not in reason
        if is_gone or _status(error) == _CHANGED:
            raise BehindError(url) from None
        if is_forbidden(error):
            said = f"'{url}' may not be {done}: {reason}. {scheme_of(url).cure}."
        elif is_passing(error):
            said = (
                f"'{url}' cannot be {done}: {reason}. Run the same command again when it can; what "
                f"was computed is kept."
            )
        else:
            said = f"'{url}' cannot be {done}: {reason}. Use another --cache-dir."
        raise StorageError(said) from None


def _status(error: BaseException) -> int | None:
    found: int | None = _of_cause(error, "ResponseMetadata", "HTTPStatusCode")
    return found


def _code(error: BaseException) -> str | None:
    found: str | None = _of_cause(error, "Error", "Code")
    return found


def _of_cause(error: BaseException, group: str, name: str) -> Any:
    """Return what botocore's error, the cause of fsspec's, has of its answer."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get(group, {}).get(name) if isinstance(response, dict) else None
