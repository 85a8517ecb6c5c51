"""A model on the disk: the .keras file, its card, and the names of its outputs as plain text.

`flowers.keras` has `flowers.json` and `flowers.labels.txt` beside it. Files that are not a model's
own are never overwritten.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core import atomic
from featcache.core.errors import SpecError, StitchError
from featcache.core.keys import digest_file
from featcache.models import card

if TYPE_CHECKING:
    import keras


def check_out(out: Path, overwrite: bool = False) -> None:
    """Raise SpecError where a model cannot be written to `out`.

    Parameters
    ----------
    overwrite : it may replace a file that is not the model its card describes.
    """
    if out.suffix != ".keras":
        raise SpecError(f"The model's file must end in .keras; got '{out}'.")
    if out.is_dir():
        raise SpecError(f"'{out}' is a folder; name a file to write the model to.")
    if not out.parent.is_dir():
        raise SpecError(f"Folder '{out.parent}' for '{out.name}' does not exist.")
    beside, labels = card.path_of(out), labels_path(out)
    if out.exists() and not beside.exists():
        raise SpecError(
            f"'{out}' is there and has no card, so it was not stitched. Choose another --out, or "
            f"delete it."
        )
    if out.exists() and not overwrite and _is_of_others(out):
        raise SpecError(
            f"'{out}' is not the model that its card describes: it was changed or replaced since. "
            f"Choose another --out, or delete it."
        )
    if beside.exists() and not card.is_card(beside):
        raise SpecError(
            f"The model's card would overwrite '{beside}', which is no card. Choose another --out."
        )
    if labels.exists() and not beside.exists():
        raise SpecError(
            f"The model's labels would overwrite '{labels}', which belongs to no model here. "
            f"Choose another --out."
        )


def _is_of_others(out: Path) -> bool:
    try:
        written = card.read(out).model_digest
    except StitchError:
        return False  # the card is of no use, and nothing tells
    return bool(written) and written != digest_file(out)


def labels_path(model: Path) -> Path:
    """Return where the names of a model's outputs lie, one per line in the order of the outputs."""
    return model.with_suffix(".labels.txt")


def labels_text(described: card.Card) -> str:
    """Return what the file of a model's labels says."""
    # a name is one line, whatever the folder was called
    return "".join(" ".join(name.splitlines()) + "\n" for name in described.class_names)


def save(model: keras.Model, out: Path, described: card.Card) -> None:
    """Write a model, its labels and its card; the model appears whole or not at all.

    It appears last: a model without a card counts as somebody else's.
    """
    with atomic.replacing(out, ending=".keras") as made:
        model.save(made)
        atomic.write_text(labels_path(out), labels_text(described))
        replace(described, model_digest=digest_file(made)).write(out)
