"""A detector that was fitted, and the folder it is saved in: reading and writing it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import store
from featcache.core import atomic
from featcache.core.errors import FeatcacheError, HeadError
from featcache.core.keys import digest_file, digest_json
from featcache.core.tensorflow import import_keras
from featcache.core.text import counted
from featcache.detection.scoring import Found, Precision
from featcache.detection.settings import Settings
from featcache.detection.training import Epoch
from featcache.inference.evaluate import tables

if TYPE_CHECKING:
    import keras

VERSION = 1
FILE, HEAD_FILE, HELD_OUT_FILE, PAGE_FILE = (
    *("detector.json", "detector.keras", "held_out.json"),
    "report.html",
)
OURS = (FILE, HEAD_FILE, HELD_OUT_FILE, PAGE_FILE)


@dataclass(frozen=True)
class Detector:
    """A head for boxes fitted on cached maps, and what it is worth; prints as a table."""

    folder: Path
    features: tuple[Path, ...]  # feature files, in the order of the head's inputs
    contents: tuple[str, ...]  # `Features.content` of each
    class_names: tuple[str, ...]
    settings: Settings
    n_images: dict[str, int]  # train, val and test
    epochs: tuple[Epoch, ...]
    val_scores: dict[int, float]  # map50 on the validation part, by epoch
    best_epoch: int
    min_score: float  # from which boxes are shown: best F1 on the validation part
    val_f1: float
    test: Precision  # on the held-out part, of the head that was kept
    request: dict[str, Any]

    @property
    def head(self) -> keras.Model:
        """The head alone, from maps to what each cell says; see `network.head`."""
        models = import_keras().models
        made: keras.Model = models.load_model(self.folder / HEAD_FILE, compile=False)
        return made

    @property
    def held_out(self) -> dict[str, Found]:
        """What was found on each held-out image, by id."""
        saved = json.loads((self.folder / HELD_OUT_FILE).read_text(encoding="utf-8"))
        return {
            id_: Found(
                np.array(one["corners"], np.float64).reshape(-1, 4),
                np.array(one["classes"], np.int64),
                np.array(one["scores"], np.float32),
            )
            for id_, one in saved.items()
        }

    def opened(self) -> list[store.Features]:
        """Return the feature files, which have not changed since.

        Raises
        ------
        HeadError
            When they have.
        """
        files = [store.Features(path) for path in self.features]
        for file, content in zip(files, self.contents, strict=True):
            if file.content != content:
                raise HeadError(
                    f"The detector in '{self.folder}' was fitted before '{file.path}' changed. Run "
                    f"`featcache fit-heads` again."
                )
        return files

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain JSON types, None where a number is undefined."""
        values = asdict(self) | {
            "detector_version": VERSION,
            "folder": os.fspath(self.folder),
            "features": [os.fspath(path) for path in self.features],
        }
        plain: dict[str, Any] = atomic.plain(values)
        return plain

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        n = self.n_images
        parts = [
            tables.of_scores(self.test.scores(), self.test.intervals),
            Text(),
            of_classes(self.test),
            Text(),
            Text(
                f"{counted(n['test'], 'held-out image')}; {n['train']} trained, {n['val']} chose "
                f"epoch {self.best_epoch} of {len(self.epochs)}, "
                f"{np.median([one.seconds for one in self.epochs]):.1f} s each. map50 and map are "
                f"means over classes; ap50 asks only where something is. Boxes are shown from a "
                f"score of {self.min_score:.2f} on."
            ),
        ]
        return Group(*parts)

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()


def of_classes(precision: Precision) -> Any:
    """Return a table of the average precision of each class."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column("class", overflow="fold")
    for heading in ("ap50", "ap", "boxes"):
        made.add_column(heading, justify="right", no_wrap=True)
    for one in precision.of_class:
        numbers = (tables.number(one["ap50"]), tables.number(one["ap"]), str(one["boxes"]))
        made.add_row(Text(one["name"]), *numbers)
    return made


def write(made: Detector, head: keras.Model, held_out: dict[str, Found], folder: Path) -> None:
    """Write a detector into a folder, which is in the making."""
    head.save(folder / HEAD_FILE)
    found = {
        id_: {name: column.tolist() for name, column in vars(one).items()}
        for id_, one in held_out.items()
    }
    atomic.write_json(folder / HELD_OUT_FILE, found)
    values = {name: value for name, value in made.to_dict().items() if name != "folder"}
    values["files"] = {name: digest_file(folder / name) for name in (HEAD_FILE, HELD_OUT_FILE)}
    atomic.write_json(folder / FILE, values | {"digest": digest_json(values)})


def load(folder: str | os.PathLike[str]) -> Detector:
    """Return the detector that `fit_detector` saved.

    Raises
    ------
    HeadError
        When the folder has none, or one that was changed or is damaged.
    """
    folder = Path(folder)
    file = folder / FILE
    if not file.is_file():
        raise HeadError(f"'{folder}' has no {FILE}. Run `featcache fit-heads` first.")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        digest, files = saved.pop("digest"), saved["files"]
        is_whole = digest == digest_json(saved) and saved.pop("detector_version") == VERSION
        if not is_whole or any(digest_file(folder / name) != one for name, one in files.items()):
            raise HeadError(
                f"'{file}' was changed since the detector was fitted, or is of another version. "
                f"Put back what it said, or run `featcache fit-heads` again."
            )
        del saved["files"]
        paths = [_beside(folder, Path(path)) for path in saved["features"]]
        return Detector(
            **saved
            | {
                "folder": folder,
                "features": tuple(paths),
                "contents": tuple(saved["contents"]),
                "class_names": tuple(saved["class_names"]),
                "settings": Settings(**saved["settings"]),
                "epochs": tuple(Epoch(**one) for one in saved["epochs"]),
                "val_scores": {int(number): one for number, one in saved["val_scores"].items()},
                "test": _precision(saved["test"]),
            }
        )
    except FeatcacheError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise HeadError(f"'{file}' is damaged. Run `featcache fit-heads` again.") from error


def is_folder(folder: Path) -> bool:
    """Return whether a folder has a detector."""
    return (folder / FILE).is_file()


def _beside(folder: Path, path: Path) -> Path:
    """Return a feature file, which may have been moved together with the folder beside it."""
    beside = folder.parent / path.name
    return beside if beside.is_file() else path


def _precision(saved: dict[str, Any]) -> Precision:
    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: known(one) for name, one in value.items()}
        if isinstance(value, list):
            return [known(one) for one in value]
        return float("nan") if value is None else value

    values = known(saved)
    values["intervals"] = {name: tuple(one) for name, one in values["intervals"].items()}
    return Precision(**values)
