"""The embedding of a comparison for TensorBoard's projector."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from PIL import Image

from featcache.core.errors import HeadError
from featcache.report import material, pictures, projector
from featcache.report.sections import told
from featcache.scoring.leaderboard import Leaderboard


def write_projector(board: Leaderboard, folder: str | os.PathLike[str]) -> Path:
    """Write features, names, labels, predictions and pictures, and return the config's path.

    Of more than `material.MAX_ROWS` images a fair sample.

    Raises
    ------
    HeadError
        When the features are not there: of plain arrays, or of a file that is gone or was changed.
    """
    about = material.gather(board)
    if about.features is None:
        raise HeadError(f"TensorBoard's projector cannot be given an embedding. {about.note}")
    places, X = about.looked_at()
    rows, listed = about.rows[places].tolist(), places.tolist()
    metadata = {
        "image": [about.name(place) for place in listed],
        "given": [told(about, about.y[place]) for place in listed],
        "predicted": [told(about, about.predicted[place]) for place in listed],
        "part": ["held out" if about.is_test[place] else "training" for place in listed],
    }
    taken = pictures.collect(about.features, rows).uris
    thumbnails = [_picture(taken.get(row)) for row in rows] if taken else None
    return projector.write(folder, X, metadata, thumbnails, name=board.features[0].name)


def _picture(uri: str | None) -> Image.Image:
    """Return the picture of a data URI, white where there is none."""
    if uri is None:
        return Image.new("RGB", (8, 8), "white")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
