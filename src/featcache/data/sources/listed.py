"""Images as they were given, for prediction: nothing sorted, nothing left out, nothing known.

Every entry stands for itself, also one that is there twice or names a file that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from featcache.core.errors import SourceError
from featcache.core.labels import unlabelled
from featcache.data.sources.base import Source
from featcache.data.sources.contents import Contents
from featcache.data.sources.objects import at
from featcache.data.sources.passed_over import PassedOver

Named = tuple[str, str]  # how an image is named in what is said of it, and its path or URL


def as_given(
    named: Sequence[Named],
    passed_over: PassedOver | None = None,
    notes: tuple[str, ...] = (),
    contents: Contents | None = None,
) -> Source:
    """Return image files in their order; ids are their names, which may be there twice.

    Parameters
    ----------
    passed_over, notes : of what gave them, see `Source`.
    contents : at these places, where more is known of them.
    """
    names, paths = zip(*named, strict=True)
    return Source(
        name="images",
        origin="",
        ids=names,
        contents=contents or at(paths),
        annotations=unlabelled(len(names)),
        passed_over=passed_over or PassedOver(),
        notes=notes,
    )


def check_path(path: str, place: str) -> None:
    """Raise SourceError where no file can have this path; `place` says where it stands."""
    try:
        if path and b"\0" not in os.fsencode(path):
            return
    except UnicodeEncodeError:
        pass
    raise SourceError(f"A path in {place} is no path: {path!a}.")
