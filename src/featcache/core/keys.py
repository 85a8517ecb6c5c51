"""Digests: of files, and the keys under which rows of features are found again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np


def view_keys(digests: np.ndarray, view: int, augment: tuple[str, ...]) -> np.ndarray:
    """Return for images (n, 16) uint8 the keys of one view's rows, (n, 16) uint8.

    The key of the clean view is the image's digest, so plain features and views share rows.
    """
    if view == 0:
        return digests
    recipe = f"view {view} of {','.join(augment)}".encode()
    hashed = [
        hashlib.blake2b(digest.tobytes() + recipe, digest_size=16).digest() for digest in digests
    ]
    return np.frombuffer(b"".join(hashed), np.uint8).reshape(-1, 16)


def digest_json(values: Any) -> str:
    """Return BLAKE2b-128 of what JSON keeps of values, hex."""
    kept = json.loads(json.dumps(values))
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Return BLAKE2b-128 of a file, hex."""
    with path.open("rb") as file:
        total = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
