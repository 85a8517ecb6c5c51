"""The built-in examples as sources."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from featcache.core.errors import SpecError
from featcache.core.labels import Annotations
from featcache.data import examples
from featcache.data.sources.base import Source
from featcache.data.sources.contents import Pixels
from featcache.data.sources.folder import open_folder, walk


def open_example(text: str) -> Source:
    """Return the example of a name that begins with `examples.PREFIX`."""
    name = text.removeprefix(examples.PREFIX)
    if name == "clipart":
        folder = examples.CLIPART
        return replace(open_folder(folder, walk(os.fspath(folder))), name=name, origin=text)
    if name == "digits":
        arrays, labels = examples.digits()
        # by class, then by number: the sorted order of the ids
        order = np.lexsort((np.arange(len(labels)), labels))
        return Source(
            name=name,
            origin=text,
            ids=tuple(f"{labels[row]}/{row:04d}" for row in order),
            contents=Pixels(arrays[order]),
            annotations=Annotations(labels[order], tuple(str(label) for label in range(10))),
        )
    raise SpecError(
        f"There is no example '{name}'; choose one of "
        f"{', '.join(examples.PREFIX + known for known in examples.NAMES)}."
    )
