"""Predictions to a file as they come: CSV, JSON Lines or Parquet, by the file's ending.

The file appears whole or not at all, and no more than a group of rows is held. The columns are the
same whatever was predicted; `error` is the last one, empty for images that could be read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core import atomic
from featcache.core.errors import SpecError
from featcache.core.escapes import ESCAPES
from featcache.core.tasks import PROBABILITIES, TASKS, TargetKind
from featcache.data.sources.cells import SEPARATOR
from featcache.inference.predict.prediction import Prediction, Wanted

GROUP_BYTES = 32_000_000  # about; of rows held before they are written as a row group of Parquet
TEXT, TEXTS, NUMBER, NUMBERS = "text", "texts", "number", "numbers"
TAKEN = ("path", "error", "features")

Put = Callable[[Prediction], None]


@dataclass(frozen=True)
class Column:
    """A column of CSV or Parquet."""

    name: str
    kind: str  # TEXT, TEXTS, NUMBER or NUMBERS
    value: Callable[[Prediction], Any]  # None where there is nothing to say


def check_out(out: Path, wanted_features: bool = False, inputs: Iterable[str] = ()) -> None:
    """Raise SpecError where predictions cannot be written to `out`, or it is one of the inputs."""
    suffix = out.suffix.lower()
    if suffix not in WRITERS:
        raise SpecError(f"The file must end in {' or '.join(WRITERS)}; got '{out}'.")
    if out.is_dir() or not out.parent.is_dir():
        raise SpecError(f"'{out}' cannot be written: it is a folder, or lies in none that exists.")
    # a model of images from Python has no source to read: "" is no path
    if out.exists() and any(Path(one).exists() and out.samefile(one) for one in inputs if one):
        raise SpecError(f"'{out}' lists the images, and would be replaced. Choose another --out.")
    if wanted_features and suffix == ".csv":
        raise SpecError(
            f"CSV has no cell for an embedding. Write features to .parquet or .jsonl; got '{out}'."
        )
    if suffix == ".parquet":
        _pyarrow(out)


@contextmanager
def writer(out: Path, wanted: Wanted) -> Iterator[Put]:
    """Yield a function that takes one prediction after the other into a file.

    An error inside leaves what was there before.

    Parameters
    ----------
    out : ends in .csv, .jsonl or .parquet.
    wanted : what the predictions say.
    """
    check_out(out, wanted.features)
    with atomic.replacing(out) as made, WRITERS[out.suffix.lower()](made, wanted) as put:
        yield put


def columns(wanted: Wanted) -> list[Column]:
    """Return the columns that predictions have in CSV and Parquet.

    A classification has `class`, `score`, then `class_2`, `score_2` and so on; several labels have
    `labels` and `scores`, or the same as a classification where a number of them is asked for;
    targets have a column each, under their own name. A model that says unknown adds `stranger`, the
    score that it says so by. With every output there is `p:NAME` for each
    class or label, `score:NAME` where these are no probabilities.
    """
    kind, names = TASKS[wanted.described.task].kind, wanted.described.class_names
    made = [Column("path", TEXT, lambda one: one.path)]
    for rank in range(wanted.n_ranked):
        suffix = f"_{rank + 1}" if rank else ""
        made.append(Column(f"class{suffix}", TEXT, _at("classes", rank)))
        made.append(Column(f"score{suffix}", NUMBER, _at("scores", rank)))
    if wanted.described.open_set is not None:
        made.append(Column("stranger", NUMBER, lambda one: one.stranger))
    if kind is TargetKind.LABELS and not wanted.n_ranked:
        made.append(Column("labels", TEXTS, lambda one: None if one.error else one.classes))
        made.append(Column("scores", NUMBERS, lambda one: None if one.error else one.scores))
    if kind is TargetKind.NUMBERS:
        for name in names:
            column = f"value:{name}" if name in TAKEN else name
            made.append(Column(column, NUMBER, _output(name)))
    elif wanted.outputs:
        prefix = "p" if wanted.described.output == PROBABILITIES else "score"
        made += [Column(f"{prefix}:{name}", NUMBER, _output(name)) for name in names]
    if wanted.features:
        made.append(Column("features", NUMBERS, lambda one: one.features))
    return [*made, Column("error", TEXT, lambda one: one.error or None)]


def _at(attribute: str, rank: int) -> Callable[[Prediction], Any]:
    def value(one: Prediction) -> Any:
        return None if one.error else getattr(one, attribute)[rank]

    return value


def _output(name: str) -> Callable[[Prediction], float | None]:
    return lambda one: None if one.outputs is None else one.outputs[name]


@contextmanager
def _csv(path: Path, wanted: Wanted) -> Iterator[Put]:
    made = columns(wanted)
    with path.open("w", newline="", encoding="utf-8", errors=ESCAPES) as file:
        lines = csv.writer(file)
        lines.writerow([column.name for column in made])
        yield lambda one: lines.writerow([_cell(column.value(one)) for column in made])


def _cell(value: Any) -> str:
    """Return a value as text; names are joined as manifests have them, a lone | is none."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return SEPARATOR.join(map(_cell, value)) or SEPARATOR
    return value if isinstance(value, str) else f"{value:.7g}"  # all that float32 holds


@contextmanager
def _json_lines(path: Path, wanted: Wanted) -> Iterator[Put]:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:  # as JSON has it
        yield lambda one: print(json.dumps(one.to_dict(), ensure_ascii=False), file=file)


@contextmanager
def _parquet(path: Path, wanted: Wanted) -> Iterator[Put]:
    pyarrow = _pyarrow(path)
    made = columns(wanted)
    kinds = {TEXT: pyarrow.string(), NUMBER: pyarrow.float32()}
    kinds |= {TEXTS: pyarrow.list_(kinds[TEXT]), NUMBERS: pyarrow.list_(kinds[NUMBER])}
    schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in made])
    waiting: list[Prediction] = []

    with pyarrow.parquet.ParquetWriter(path, schema) as file:

        def write() -> None:
            values = [[column.value(one) for one in waiting] for column in made]
            arrays = [
                pyarrow.array(some, kind.type) for some, kind in zip(values, schema, strict=True)
            ]
            file.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        def put(one: Prediction) -> None:
            waiting.append(one)
            row_bytes = 100 * len(made) + (0 if one.features is None else one.features.nbytes)
            if len(waiting) * row_bytes >= GROUP_BYTES:
                write()

        yield put
        if waiting:
            write()


def _pyarrow(out: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SpecError(
            f"To write '{out}' install pyarrow: pip install 'featcache[parquet]'."
        ) from None
    return pyarrow


WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
