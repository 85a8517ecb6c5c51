"""A server of object storage in this process, which counts requests and fails on demand.

It speaks S3, and gives each object to plain HTTP as well.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

FAULTS = ("503", "slow", "cut")


@dataclass
class Request:
    """What was asked for."""

    method: str
    path: str  # /bucket/key, decoded
    query: str
    n_bytes: int = 0  # of the answer

    @property
    def key(self) -> str:
        return self.path.lstrip("/").partition("/")[2]

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in self.query


@dataclass
class Storage:
    """The server; `fault` says what becomes of a request, by which time it is asked for."""

    url: str
    client: Any = None
    requests: list[Request] = field(default_factory=list)
    fault: Callable[[Request, int], str | None] = lambda request, n_before: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Forget requests and faults."""
        self.requests.clear()
        self.fault = lambda request, n_before: None

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Make a bucket, or empty it, and put objects in it."""
        self.client.create_bucket(Bucket=bucket)
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", ()):
                self.client.delete_object(Bucket=bucket, Key=one["Key"])
        for key, data in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=data, ACL="public-read")

    def put_many(self, bucket: str, keys: Iterable[str]) -> None:
        """Make a bucket with objects of one byte, without asking for each."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        self.client.create_bucket(Bucket=bucket)
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key in keys:
            backend.put_object(bucket, key, b"-")

    def modified_ns(self, bucket: str, key: str) -> int:
        """Return when an object was put there."""
        time = self.client.head_object(Bucket=bucket, Key=key)["LastModified"]
        return int(time.timestamp() * 1_000_000) * 1000

    def got(self) -> list[str]:
        """Return the keys of objects that were read."""
        return [one.key for one in self.requests if one.method == "GET" and not one.is_listing]

    def noted(self, request: Request) -> str | None:
        """Note a request; return its fault."""
        with self._lock:
            same = [
                one
                for one in self.requests
                if (one.path, one.method) == (request.path, request.method)
            ]
            self.requests.append(request)
        return self.fault(request, len(same))


def _refused(start: Callable[..., Any], status: str, code: str, text: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return body


def faulty(app: Callable[..., Any], storage: Storage) -> Callable[..., Any]:
    """Return a WSGI app between its clients and another."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        path = unquote(environ.get("RAW_URI", environ["PATH_INFO"]).partition("?")[0])
        request = Request(environ["REQUEST_METHOD"], path, environ["QUERY_STRING"])
        fault = storage.noted(request)
        if fault == "503":
            text = "Please reduce your request rate."
            yield _refused(start, "503 Slow Down", "SlowDown", text)
            return
        if fault == "403":
            yield _refused(start, "403 Forbidden", "AccessDenied", "Access Denied")
            return
        if fault == "expired":
            yield _refused(start, "400 Bad Request", "ExpiredToken", "The token has expired.")
            return
        if fault == "lost":  # it is done, and the answer does not arrive
            b"".join(app(environ, lambda *_: None))
            yield _refused(start, "500 Internal Server Error", "InternalError", "Try again.")
            return
        body = b"".join(app(environ, start))
        request.n_bytes = len(body)
        if fault == "slow":
            for at in range(0, len(body), max(1, len(body) // 5)):
                time.sleep(0.02)
                yield body[at : at + max(1, len(body) // 5)]
        else:
            yield body[: len(body) // 2] if fault == "cut" else body

    return answer


@functools.cache
def serve() -> Storage:
    """Return the server of this process; the environment leads its clients there."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    storage = Storage("")
    app = faulty(DomainDispatcherApplication(create_backend_app), storage)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    storage.url = f"http://127.0.0.1:{server.port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    storage.client = boto3.client("s3")
    return storage
