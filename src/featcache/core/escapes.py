"""Paths whose bytes are no text, as text from which they can be opened again."""

from __future__ import annotations

import codecs
import os
import re
from typing import Any

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f]|5c)")
# for writers of text: what cannot be encoded is written as `escaped` has it
ESCAPES = "featcache.escapes"


def escaped(path: str) -> str:
    r"""Return a path as text that can be written anywhere, and that `path_of` reads.

    Bytes of a name that are no UTF-8 appear as \xNN. In such a path, and only there, a backslash
    is \x5c, so that no two paths are the same text.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.replace("\\", "\\x5c").encode(errors=ESCAPES).decode()
    return path


def path_of(text: str) -> str:
    """Return the path that text stands for: the text itself, or what `escaped` was made from.

    The latter if there is such a file or folder, and none that is called what the text says.
    """
    if "\\x" not in text or os.sep == "\\" or os.path.lexists(text):
        return text
    raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text))
    path = os.fsdecode(raw)
    is_new = os.path.isdir(os.path.dirname(text) or ".")
    return text if is_new and not os.path.lexists(path) else path


def all_escaped(value: Any) -> Any:
    """Return nested lists and dicts with every text in them as `escaped` has it."""
    if isinstance(value, dict):
        return {all_escaped(key): all_escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [all_escaped(one) for one in value]
    return escaped(value) if isinstance(value, str) else value


def _escapes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    some = error.object[error.start : error.end]
    # Python has a byte that is no UTF-8 as a surrogate; of others there are none in paths
    codes = [ord(one) for one in some]
    is_byte = [0xDC80 <= code <= 0xDCFF for code in codes]
    parts = [
        f"\\x{code - 0xDC00:02x}" if byte else one.encode("ascii", "backslashreplace").decode()
        for one, code, byte in zip(some, codes, is_byte, strict=True)
    ]
    return "".join(parts), error.end


codecs.register_error(ESCAPES, _escapes)
