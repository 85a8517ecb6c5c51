"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun, as "1 image" and "2 images"; `nouns` where "s" is wrong."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
