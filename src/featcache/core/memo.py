"""Small facts that took time to find out, in a JSON file; to lose one costs that time again."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from featcache.core import atomic


def recall(memo: Path | None, key: str) -> Any:
    """Return what was remembered, or None."""
    return _read(memo).get(key)


def remember(memo: Path | None, key: str, value: Any) -> None:
    """Write a fact down, unless it is there already, there is no memo, or it cannot be."""
    if memo is None:
        return
    known = _read(memo)
    if known.get(key) != value:
        with suppress(OSError):
            memo.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(memo, json.dumps(known | {key: value}, indent=1, sort_keys=True))


def _read(memo: Path | None) -> dict[str, Any]:
    if memo is None:
        return {}
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
