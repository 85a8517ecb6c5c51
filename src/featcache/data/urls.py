"""URLs of images: which texts are some, and how they are written down, without any secret.

Nothing is asked of any server here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from featcache.core.errors import SourceError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # C:// is a drive
_SQUEEZED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")  # what pathlib makes of a URL
_LOGIN = re.compile(r"(?<=://)[^/@\s'\"]*:[^/@\s'\"]*@")
_QUERY = re.compile(r"(\bhttps?://[^\s'\"?#]*)[?#][^\s'\"]*")
LEFT_OUT = "?..."  # in place of a query string or a password


@dataclass(frozen=True)
class Scheme:
    """What a kind of storage is called, and what reading from it takes."""

    extra: str  # of featcache, named as fsspec names it
    package: str
    cure: str  # where its client finds credentials
    has_listing: bool = True
    is_patient: bool = False  # its client tries again by itself
    is_quoted: bool = False  # a path in it is percent-encoded, and may have a query


_AWS = (
    "Log in by AWS's own means (`aws configure`, AWS_PROFILE, a role); for a public bucket set "
    "FSSPEC_S3_ANON=true"
)
_GOOGLE = (
    "Log in by Google's own means (`gcloud auth application-default login`); for a public bucket "
    "set FSSPEC_GCS_TOKEN=anon"
)
_AZURE = (
    "Name the account by Azure's own means (AZURE_STORAGE_ACCOUNT_NAME, and "
    "AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_ACCOUNT_KEY)"
)
_S3 = Scheme("s3", "s3fs", _AWS)
_GCS = Scheme("gcs", "gcsfs", _GOOGLE, is_patient=True)
_ABFS = Scheme("abfs", "adlfs", _AZURE, is_patient=True)
_WEB = Scheme(
    "http", "aiohttp", "Passwords belong into ~/.netrc", has_listing=False, is_quoted=True
)
_HUB = Scheme("hub", "huggingface_hub", "Log in (`hf auth login`) or set HF_TOKEN", is_patient=True)
SCHEMES = {
    "s3": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _ABFS,
    "abfs": _ABFS,
    "hf": _HUB,
    "https": _WEB,
    "http": _WEB,
}


def is_url(text: str) -> bool:
    """Return whether a text is a URL, of whatever scheme."""
    return _URL.match(text) is not None


def as_url(text: str) -> str | None:
    """Return the URL that a path as given is; None where it is a path.

    `pathlib` makes one slash of two, which is mended.

    Raises
    ------
    SourceError
        When nothing is read by its scheme, or it holds a password that no client would take.
    """
    found = _SQUEEZED.match(text)
    if found and found[1].lower() in SCHEMES and not os.path.lexists(text):
        text = f"{found[1]}://{text[found.end() :]}"
    found = _URL.match(text)
    if found is None:
        return None
    name = found[1].lower()
    if name not in SCHEMES:
        also = " Give a file's path instead." if name == "file" else ""
        raise SourceError(
            f"Nothing is read from '{name}://'; URLs can begin with "
            f"{', '.join(f'{known}://' for known in SCHEMES)}.{also}"
        )
    if not text[found.end() :].strip("/"):
        raise SourceError(f"'{text}' names nothing; give a bucket or a server, and a path in it.")
    if text.endswith((LEFT_OUT, LEFT_OUT + "/")):
        raise SourceError(
            f"'{text}' was opened with a query string or a password, which are never kept, as they "
            f"may be secrets. Give the images again, with all that opens them."
        )
    if _LOGIN.search(text) and not SCHEMES[name].is_quoted:
        raise SourceError(
            f"'{shown(text)}' has a password in it, which is not taken. {SCHEMES[name].cure}."
        )
    return f"{name}://{text[found.end() :]}"


def scheme_of(url: str) -> Scheme:
    """Return what is known of a URL's scheme."""
    return SCHEMES[url.partition("://")[0]]


def plain(url: str) -> str:
    """Return a URL, or a path, without query string and password: what identifies an image."""
    text = _LOGIN.sub("", url)
    if is_url(text) and scheme_of(text).is_quoted:
        text = re.split(r"[?#]", text, maxsplit=1)[0]
    return text


def shown(url: str) -> str:
    """Return a URL as it may be written down; that something was left out can be seen."""
    text = plain(url)
    return text if text == url or not is_url(url) else text + LEFT_OUT


def without_secrets(text: str) -> str:
    """Return what a client says, with no query string or password of a URL in it."""
    return _QUERY.sub(rf"\1{LEFT_OUT}", _LOGIN.sub("", text))


def name_of(url: str) -> str:
    """Return the last part of a URL as a name that a file or folder can have."""
    text = plain(url).rstrip("/").rpartition("/")[2]
    name = re.sub(r"[/\\\0]", "_", path_in(url, text))
    return name if name.strip(".") else "objects"


def parent(url: str) -> str:
    """Return the URL of the folder that a file lies in."""
    text, left_out = plain(url), ""
    if login := _LOGIN.search(url):  # of one server
        left_out = login[0]
    head, slashes, tail = text.partition("://")
    return f"{head}{slashes}{left_out}{tail.rpartition('/')[0]}"


def path_in(url: str, path: str) -> str:
    """Return a part of a URL's path as people write it: what `below` makes a URL of."""
    return unquote(path) if scheme_of(url).is_quoted else path


def below(folder: str, path: str) -> str:
    """Return the URL of a path, with / in it, below a folder's."""
    path = quote(path) if scheme_of(folder).is_quoted else path
    return f"{folder.rstrip('/')}/{path}"
