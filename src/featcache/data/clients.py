"""Clients of object storage and web servers: those of fsspec, one each in a process.

They find credentials, proxies and endpoints by their own means: environment, files, roles.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from featcache.data.urls import scheme_of

IN_FLIGHT = 32  # requests at once: what takes the time is waiting for the first byte
TIMEOUT_S = 30.0  # without a byte; a slow read may last as long as it moves


def opened(url: str) -> tuple[Any, str]:
    """Return the client for a URL, a file system of fsspec's, and the path that it has for it."""
    name, _, rest = url.partition("://")
    account = rest.partition("/")[0].partition("@")[2] if scheme_of(url).extra == "abfs" else ""
    # a URL that can stand as it is must: a signature is of its very letters
    client = file_system(name, url.isascii() and " " not in url, account, os.getpid())
    if not client.async_impl:  # then it is one thread's
        import fsspec

        client = fsspec.filesystem(name)
    return client, client._strip_protocol(url)


@functools.lru_cache
def file_system(name: str, is_encoded: bool, account: str, process: int) -> Any:
    """Return fsspec's client of a scheme; none outlives a fork."""
    import fsspec

    options: dict[str, Any] = {}
    if scheme_of(f"{name}://").extra in ("s3", "gcs", "abfs"):
        options["use_listings_cache"] = False  # else what was listed once would be so for ever
    if name == "s3":
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": IN_FLIGHT, **own}
    if account:  # of container@account.dfs.core.windows.net
        options["account_name"] = account.partition(".")[0]
    if scheme_of(f"{name}://").is_quoted:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # proxies, ~/.netrc
        options["encoded"] = is_encoded
    client = fsspec.filesystem(name, **options)
    if name == "s3":
        client.retries = 1  # botocore's and ours are enough
    return client


def reading(url: str) -> dict[str, Any]:
    """Return options with which one read is one request."""
    return {"max_concurrency": 1} if url.startswith("s3://") else {}
