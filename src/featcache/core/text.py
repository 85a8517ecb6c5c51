"""Numbers and names in sentences, and which names are the same."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SHOWN_NAMES = 3
LONGEST_NAME = 200  # bytes of a file's; file systems take 255, and what is being made has more


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun, as "1 image" and "2 images"; `nouns` where "s" is wrong."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def few(names: Sequence[str], shown: int = SHOWN_NAMES) -> str:
    """Return the first names in quotes, and how many there are more."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"'{name}'" for name in names[:shown]) + more


def file_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name of at most so many bytes: the name itself, or its beginning and a digest."""
    said = name.encode(errors="surrogateescape")
    if len(said) <= longest:
        return name
    digest = hashlib.blake2b(said, digest_size=4).hexdigest()
    return f"{said[: longest - 9].decode(errors='ignore')}-{digest}"


def composed(text: str) -> str:
    """Return text in Unicode's form NFC, in which what looks the same is the same.

    Files from a Mac have names in NFD, where é is two characters.
    """
    return unicodedata.normalize("NFC", text)


def one_form(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Return for each name what stands for it and for those that differ in Unicode form alone.

    That is the one that is `known` already; else the name itself, or its form NFC where several
    names are the same. So a name that has no double is never changed.
    """
    by_form: dict[str, set[str]] = {}
    for name in set(names):
        by_form.setdefault(composed(name), set()).add(name)
    stands = {composed(name): name for name in known}
    return {
        name: stands.get(form, form if len(same) > 1 else name)
        for form, same in by_form.items()
        for name in same
    }


def alike(names: Iterable[str]) -> list[str]:
    """Return, sorted, the names that differ from another in case, spaces or the unseen alone."""
    by_look: dict[str, list[str]] = {}
    for name in names:
        seen = "".join(one for one in name.casefold() if unicodedata.category(one) != "Cf")
        by_look.setdefault(" ".join(composed(seen).split()), []).append(name)
    return sorted(name for same in by_look.values() if len(same) > 1 for name in same)


def doubled(forms: Mapping[str, str]) -> list[str]:
    """Return, sorted, what stands for several names in what `one_form` gave."""
    return sorted(name for name, n in Counter(forms.values()).items() if n > 1)


def merged(kind: str, forms: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence on the names that `one_form` made one of, if there are any.

    Parameters
    ----------
    kind : what they name, in the plural, at the beginning of a sentence.
    """
    names = doubled(forms)
    if not names:
        return ()
    return (f"{kind} that differ in Unicode form alone (NFC, NFD) count as one: {few(names)}.",)
