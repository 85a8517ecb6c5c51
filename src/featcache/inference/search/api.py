"""Search: which images of a feature file are most like these?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featcache import store
from featcache.core.checks import whole_number, with_checked_arguments
from featcache.core.errors import SpecError
from featcache.inference.search.index import EXACT_ROWS, Index, exact
from featcache.inference.search.query import query_of


@dataclass(frozen=True)
class Found:
    """An image that is like what was looked for."""

    row: int  # of the feature file
    id: str
    distance: float  # 1 - cosine, 0 to 2
    label: str  # "" where it has none

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)


@with_checked_arguments
def search(
    features: Any,
    like: Any = None,
    k: int = 10,
    *,
    rows: Sequence[Any] = (),
    classes: Sequence[str] = (),
    unlike: Sequence[Any] = (),
    use_index: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[Found]:
    """Return the images most like some, the most like first.

    Of several the mean direction is looked for; what it was made of is no answer.

    Parameters
    ----------
    features : a feature file of vectors, or its path.
    like : images, as `Embedder` takes them: paths, arrays, Pillow images; or vectors (d,), (m, d).
    k : how many, at most.
    rows : images of the file to be like, by row number or id.
    classes : classes to be like: their mean.
    unlike : rows, ids and classes not to be like, with half the weight.
    use_index : True asks an index, which is made if need be, False looks at all rows; None is an
        index beyond 200,000 rows. It needs `featcache[search]`.
    cache_dir : where the features of `like` are kept; None is the cache folder of the file.

    Raises
    ------
    SpecError
        When nothing is asked for, or there is no such row or class.
    SourceError
        When an image cannot be read.
    """
    k = whole_number("k", k, 1)
    opened = features if isinstance(features, store.Features) else store.Features(features)
    if len(opened.shape) != 2:
        raise SpecError(
            f"'{opened.path}' holds maps, and images are compared by vectors. Extract with "
            f"--pooling avg."
        )
    query = query_of(opened, like, rows, classes, unlike, cache_dir)
    wanted = min(k + len(query.own), len(opened))
    by_index = len(opened) > EXACT_ROWS if use_index is None else use_index
    look = Index(opened).nearest if by_index else _all_of(opened)
    cosines, found = look(query.vector[None], wanted)
    about = opened.annotations
    answers = []
    for cosine, row in zip(cosines[0].tolist(), found[0].tolist(), strict=True):
        if row < 0 or row in query.own:
            continue
        label = ""
        if about.labels.ndim == 1 and about.labels[row] >= 0:
            label = opened.class_names[about.labels[row]]
        answers.append(Found(row, opened.ids[row], max(0.0, 1 - cosine), label))
    return answers[:k]


def _all_of(features: store.Features) -> Any:
    return lambda queries, k: exact(features, queries, k)
