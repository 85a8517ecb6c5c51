"""Asking a server again: what is worth it, for how long, and what to say when it was not.

Errors are those of any client, known by what they have in common: a status of HTTP, or a builtin.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from featcache.core.errors import one_line
from featcache.data.urls import without_secrets

ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0

Made = TypeVar("Made")

_NEVER = (  # what another attempt does not change
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
_NO_LOGIN = {  # of botocore and Google's libraries
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("ProfileNotFound", "SSOError", "DefaultCredentialsError"),
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}  # S3's
_BROKEN = {"HttpProcessingError"}  # aiohttp's, of answers that break off: its code is no status
_NEVER_NAMED = {*_NO_LOGIN, "ParamValidationError", "InvalidURL"}


def with_retries(attempt: Callable[[], Made], is_patient: bool = False) -> Made:
    """Return what a function makes, trying again after ever longer pauses what may pass.

    Parameters
    ----------
    is_patient : the function itself tries again, so that once more is enough.
    """
    attempts = min(2, ATTEMPTS) if is_patient else ATTEMPTS
    for n in range(1, attempts + 1):
        try:
            return attempt()
        except Exception as error:
            if n == attempts or not is_passing(error):
                raise
        pause_s = min(FIRST_PAUSE_S * 2 ** (n - 1), LONGEST_PAUSE_S)
        time.sleep(random.uniform(pause_s / 2, pause_s))  # else all come back at once
    raise AssertionError


def is_passing(error: BaseException) -> bool:
    """Return whether another attempt may help."""
    status = _status(error)
    if status is not None:
        return status in (408, 425, 429) or (status >= 500 and status != 501)
    return not isinstance(error, _NEVER) and not _is_one_of(error, _NEVER_NAMED)


def is_of_all(error: BaseException) -> bool:
    """Return whether whatever else is asked of that server will fail, too."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return is_passing(error) or code in _EXPIRED or _is_one_of(error, _NO_LOGIN)


def is_absent(error: BaseException) -> bool:
    """Return whether there is no such thing."""
    status = _status(error)
    return status in (404, 410) or (status is None and isinstance(error, FileNotFoundError))


def is_forbidden(error: BaseException) -> bool:
    """Return whether it is a matter of credentials."""
    is_refused = _status(error) in (401, 403) or isinstance(error, PermissionError)
    return is_refused or _is_one_of(error, _NO_LOGIN)


def reason_of(error: BaseException) -> str:
    """Return why something could not be had, in a few words and without secrets."""
    if is_absent(error):
        is_bucket = "specified bucket" in one_line(error)  # so S3 and Google say it
        return "the bucket does not exist" if is_bucket else "there is no such object"
    said = error.strerror if isinstance(error, OSError) and error.errno is not None else None
    for one in (error, error.__cause__):
        if type(one).__name__ == "ClientResponseError":  # aiohttp's, which quotes its URL
            said = f"{_status(error)} {getattr(one, 'message', '')}"
    said = without_secrets(one_line(said or error or type(error).__name__, 200)).rstrip(".")
    return f"{said} (after several attempts)" if is_passing(error) else said


def _is_one_of(error: BaseException, names: set[str]) -> bool:
    """Return whether an error's class, of a library that need not be there, has such a name."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the status of HTTP that an error is about, be it the cause of another."""
    one: BaseException | None = error
    while one is not None and not _is_one_of(one, _BROKEN):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # of botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(response, "status_code", None)
        for name in ("status", "status_code", "code"):
            found = found or getattr(one, name, None)
        if isinstance(found, (int, str)) and str(found).isdigit() and 300 <= int(found) < 600:
            return int(found)
        one = one.__cause__
    return None
