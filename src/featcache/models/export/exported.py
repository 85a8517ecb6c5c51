"""What is known of exports: their figures, as a table, and in the JSON file beside the model."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.core import atomic
from featcache.core.errors import SpecError
from featcache.core.keys import digest_file
from featcache.core.text import counted
from featcache.models import card
from featcache.models.export.writers import FORMATS, Format

_PACKAGES = ("tensorflow", "keras", "onnx", "tf2onnx", "onnxruntime", "ai-edge-litert", "openvino")


@dataclass(frozen=True)
class Exported:
    """An exported file and how it agrees with the model."""

    path: Path
    format: str
    n_images: int
    agreement: float  # share of images with the same class, labels, or values in tolerance
    n_ties: int
    largest_difference: float
    mean_difference: float
    size_bytes: int
    seconds: float  # to write it
    hit: bool = False  # it was there already, of this very model
    encoded: dict[str, Any] | None = None  # the same for the signature of encoded files
    scores: dict[str, Any] | None = None  # the task's metric of the model and of the file

    @property
    def least_agreement(self) -> float:
        """Agreement, that of encoded files included."""
        encoded: float = self.encoded["agreement"] if self.encoded else 1.0
        return min(self.agreement, encoded)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self) | {"path": os.fspath(self.path)}


def table(done: Sequence[Exported]) -> Any:
    """Return the exports as a table of differences and agreement."""
    from rich.table import Table

    scores = [one.scores for one in done if one.scores]
    metric = scores[0]["metric"] if scores else ""
    names = ("format", "same", "ties", "images", "differ by", "mean", metric, "size")
    found = Table(*names, box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in found.columns:
        column.no_wrap = True
    notes = [
        f"The model's own {metric} is {one['model']:.3f} on "
        f"{counted(one['n_images'], 'labelled image')}."
        for one in scores[:1]
    ]
    for one in done:
        score = f"{one.scores['export']:.3f}" if one.scores else ""
        size = f"{one.size_bytes / 1e6:.1f} MB"
        found.add_row(one.format, *_figures(asdict(one)), score, size)
        if one.encoded:
            found.add_row("  encoded files", *_figures(one.encoded))
            if n_others := one.encoded["n_not_applicable"]:
                notes.append(f"Encoded files: {n_others} turned, transparent or others left out.")
    if any(one.n_ties for one in done):
        notes.append("Tie: another answer, the model's own hanging on less than the tolerance.")
    found.caption = "\n".join(notes)
    return found


def _figures(of: dict[str, Any]) -> tuple[str, ...]:
    differences = (f"{of[name]:.1e}" for name in ("largest_difference", "mean_difference"))
    return (f"{of['agreement']:.1%}", str(of["n_ties"]), str(of["n_images"]), *differences)


_FIELDS = frozenset(Exported.__dataclass_fields__) - {"hit"}


class ExportRecords:
    """The figures of a model's exports, in a JSON file beside it."""

    def __init__(self, model: Path, about: card.Card, source: Any):
        self.file = model.with_name(f"{model.stem}.exports.json")
        if card.is_card(self.file):
            raise SpecError(
                f"What is known of exports would overwrite '{self.file}', the card of another "
                f"model. Give one of the two models another name."
            )
        if self.file.exists() and not self._is_ours():
            raise SpecError(
                f"What is known of exports would overwrite '{self.file}', which says something "
                f"else. Move it, or give the model another name."
            )
        self.about = {
            "model_digest": digest_file(model),
            "class_names": list(about.class_names),
            "source": about.source if source is None else _name(source),
        }

    def find(self, name: str, target: Path, least: float) -> Exported | None:
        """Return what is known of an export that `is_own`, of this very model and source."""
        entry = self._read().get(name, {})
        if not entry.keys() >= _FIELDS or self.about["source"] is None:
            return None
        if any(entry.get(key) != value for key, value in self.about.items()):
            return None
        values = {key: entry[key] for key in _FIELDS}
        found = Exported(**(values | {"path": target, "hit": True}))
        return found if found.least_agreement >= least else None

    def is_own(self, name: str, target: Path) -> bool:
        """Return whether `target` was exported from this model's file, and not changed since."""
        return bool(self._read().get(name, {}).get("digest") == _digest(target, FORMATS[name]))

    def add(self, made: Exported) -> None:
        """Keep the figures of an export."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        digest = _digest(made.path, FORMATS[made.format])
        kept = {"digest": digest, "created": now, "versions": _versions()}
        entry = made.to_dict() | {"path": made.path.name} | self.about | kept
        del entry["hit"]
        atomic.write_json(self.file, self._read() | {made.format: entry})

    def _is_ours(self) -> bool:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            return all("digest" in entry for entry in found.values())
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _name(source: Any) -> str | None:
    """Return what a source is known by; images from Python have no name."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def size_bytes(path: Path, how: Format) -> int:
    """Return the size of an export, a file or what is its own in a folder."""
    return sum(one.stat().st_size for one in _contents(path, how))


def _contents(path: Path, how: Format) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = (one for one in sorted(path.rglob("*")) if one.is_file())
    return [one for one in inside if how.is_ours(one.relative_to(path))]


def _digest(path: Path, how: Format) -> str:
    """Return a digest of an export, of its files and their names."""
    inside = [f"{one.relative_to(path)} {digest_file(one)}" for one in _contents(path, how)]
    return hashlib.blake2b("\n".join(inside).encode(), digest_size=16).hexdigest()
