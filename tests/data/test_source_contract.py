"""What every source promises, checked for each kind against what was put into it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import object_storage
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from featcache.core.errors import SourceError
from featcache.core.tensorflow import import_tensorflow
from featcache.data import examples, openers, retries, sources

N = 13
LABELS = [("apple", "pear", "quince")[n % 3] for n in range(N)]
SPLITS = [("train", "test", "val")[n // 2 % 3] for n in range(N)]
GROUPS = [f"g{n // 3}" for n in range(N)]
# neither the order in which images are given nor that of their numbers is that of the ids
NAMES = [f"{(7 * n + 3) % N} ü" for n in range(N)]
SHAPES = [(5 + n % 4, 6 + n % 3, 3) for n in range(N)]
Raw = Any  # bytes of a file, or pixels
LOST = "No such file|no such object|ends before it|bytes came|not satisfiable|another image"


@dataclass
class Collection:
    """What was put somewhere, by id, and how it is opened."""

    what: Any
    raw: dict[str, Raw]
    given: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] | None = None
    splits: dict[str, str] | None = None
    groups: dict[str, str] | None = None
    is_concurrent: bool = True
    dtype: str = "uint8"
    is_kept: bool = True  # on the disk, or with featcache: provenance is enough to open it again
    is_picklable: bool = True
    times_ns: dict[str, int] | None = None  # by id, where there are stamps
    spoil: Callable[[str], object] | None = None  # make an image unreadable

    def open(self) -> sources.Source:
        return openers.open_source(self.what, **self.given)

    @property
    def ids(self) -> list[str]:
        return sorted(self.raw)


def pixels(number: int, shape: tuple[int, ...] = (7, 9, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number, SHAPES[number])).save(file, "PNG")
    return file.getvalue()


def by_id(ids: list[str], values: list[Any]) -> dict[str, Any]:
    return dict(zip(ids, values, strict=True))


def write_files(root: Path, ids: list[str]) -> Collection:
    """Write images under `root`; every file has a time of its own."""
    raw, times = by_id(ids, [png(number) for number in range(N)]), {}
    for number, (id_, data) in enumerate(raw.items()):
        (root / id_).parent.mkdir(parents=True, exist_ok=True)
        (root / id_).write_bytes(data)
        times[id_] = 10**18 + number
        os.utime(root / id_, ns=(times[id_], times[id_]))
    return Collection(root, raw, times_ns=times, spoil=lambda id_: (root / id_).unlink())


def folder(tmp_path: Path) -> Collection:
    ids = [f"{label}/{name}.png" for label, name in zip(LABELS, NAMES, strict=True)]
    made = write_files(tmp_path / "my photos", ids)
    made.labels = by_id(ids, LABELS)
    return made


def folder_with_splits(tmp_path: Path) -> Collection:
    parts = zip(SPLITS, LABELS, NAMES, strict=True)
    ids = [f"{split}/{label}/{name}.png" for split, label, name in parts]
    made = write_files(tmp_path / "my photos", ids)
    made.labels, made.splits = by_id(ids, LABELS), by_id(ids, SPLITS)
    return made


def manifest(ending: str) -> Callable[[Path], Collection]:
    def write(tmp_path: Path) -> Collection:
        ids = [f"deep/{name}.png" for name in NAMES]
        made = write_files(tmp_path / "images", ids)
        columns = {"path": ids, "label": LABELS, "split": SPLITS, "group": GROUPS}
        rows = [
            dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
        ]
        path = tmp_path / f"list.{ending}"
        if ending == "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(columns))
                writer.writeheader()
                writer.writerows(rows)
        elif ending == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        made.what, made.given = path, {"root": tmp_path / "images"}
        made.labels, made.splits = by_id(ids, LABELS), by_id(ids, SPLITS)
        made.groups = by_id(ids, GROUPS)
        return made

    return write


def shards(tmp_path: Path) -> Collection:
    root = tmp_path / "shards"
    root.mkdir()
    ids = [f"s{number % 2}.tar/{name}.png" for number, name in enumerate(NAMES)]
    raw = by_id(ids, [png(number) for number in range(N)])
    times = {}
    for tar_number in range(2):
        path = root / f"s{tar_number}.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(tar_number, N, 2):
                about = {"label": LABELS[number], "split": SPLITS[number], "group": GROUPS[number]}
                files = {".png": raw[ids[number]], ".json": json.dumps(about).encode()}
                for suffix, data in files.items():
                    member = tarfile.TarInfo(NAMES[number] + suffix)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                times[ids[number]] = 10**18 + tar_number
        os.utime(path, ns=(10**18 + tar_number, 10**18 + tar_number))

    def cut(id_: str) -> None:
        path = root / id_.split("/")[0]
        path.write_bytes(path.read_bytes()[: path.read_bytes().index(raw[id_]) + 9])

    labels, splits, groups = by_id(ids, LABELS), by_id(ids, SPLITS), by_id(ids, GROUPS)
    return Collection(root, raw, {}, labels, splits, groups, times_ns=times, spoil=cut)


def bucket(tmp_path: Path) -> Collection:
    ids = [f"{label}/{name}.png" for label, name in zip(LABELS, NAMES, strict=True)]
    raw = by_id(ids, [png(number) for number in range(N)])
    storage = object_storage.serve()
    storage.put("contract", {f"in/{id_}": data for id_, data in raw.items()})

    def gone(id_: str) -> None:
        storage.client.delete_object(Bucket="contract", Key=f"in/{id_}")

    made = Collection("s3://contract/in", raw, labels=by_id(ids, LABELS), spoil=gone)
    made.times_ns = {id_: storage.modified_ns("contract", f"in/{id_}") for id_ in ids}
    return made


def shards_in_bucket(tmp_path: Path) -> Collection:
    made = shards(tmp_path)
    storage = object_storage.serve()
    tars = sorted(made.what.iterdir())
    storage.put("contract", {f"in/{path.name}": path.read_bytes() for path in tars})
    times = {path.name: storage.modified_ns("contract", f"in/{path.name}") for path in tars}
    made.times_ns = {id_: times[id_.split("/")[0]] for id_ in made.raw}

    def cut(id_: str) -> None:
        key = f"in/{id_.split('/')[0]}"
        data = storage.client.get_object(Bucket="contract", Key=key)["Body"].read()
        short = data[: data.index(made.raw[id_]) + 9]
        storage.client.put_object(Bucket="contract", Key=key, Body=short)

    made.what, made.spoil = "s3://contract/in", cut
    return made


def manifest_in_bucket(tmp_path: Path) -> Collection:
    made = manifest("csv")(tmp_path)
    storage = object_storage.serve()
    files = {f"in/{id_}": data for id_, data in made.raw.items()}
    storage.put("contract", files | {"in/list.csv": made.what.read_bytes()})
    made.times_ns = {id_: storage.modified_ns("contract", f"in/{id_}") for id_ in made.raw}
    made.what, made.given = "s3://contract/in/list.csv", {}
    made.spoil = lambda id_: storage.client.delete_object(Bucket="contract", Key=f"in/{id_}")
    return made


def from_python(made: Collection, **options: Any) -> Collection:
    """Say of images given from Python what there is to say, in the order in which they come."""
    ids = list(made.raw)
    made.given = {"labels": LABELS, "splits": SPLITS, "groups": GROUPS, "name": "mine"} | options
    made.labels, made.splits = by_id(ids, LABELS), by_id(ids, SPLITS)
    made.groups, made.is_kept = by_id(ids, GROUPS), False
    return made


def paths(tmp_path: Path) -> Collection:
    made = write_files(tmp_path / "images", [f"{n % 2}/{name}.png" for n, name in enumerate(NAMES)])
    made.what = [tmp_path / "images" / id_ for id_ in made.raw]
    return from_python(made)


def array(tmp_path: Path) -> Collection:
    stacked = np.stack([pixels(number) for number in range(N)])
    return from_python(Collection(stacked, by_id(NAMES, list(stacked))), ids=NAMES)


def arrays(tmp_path: Path) -> Collection:
    several = [pixels(number, shape) for number, shape in enumerate(SHAPES)]
    return from_python(Collection(several, by_id(NAMES, several)), ids=NAMES)


def pillow_images(tmp_path: Path) -> Collection:
    several = [pixels(number, shape) for number, shape in enumerate(SHAPES)]
    images = [Image.fromarray(one) for one in several]
    made = Collection(images, by_id(NAMES, several), is_concurrent=False)
    return from_python(made, ids=NAMES)


def tf_data(dtype: str) -> Callable[[Path], Collection]:
    def build(tmp_path: Path) -> Collection:
        tf = import_tensorflow()
        images = [pixels(number).astype(dtype) for number in range(N)]
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(images), output_signature=tf.TensorSpec((7, 9, 3), dtype)
        )
        raw = by_id(NAMES, [image.copy() for image in images])
        made = Collection(dataset, raw, is_concurrent=False, dtype=dtype, is_picklable=False)
        made.spoil = lambda id_: images.__setitem__(NAMES.index(id_), 255 - images[0])
        return from_python(made, ids=NAMES)

    return build


def clipart(tmp_path: Path) -> Collection:
    found = [path for path in examples.CLIPART.rglob("*/*") if path.suffix in (".png", ".jpg")]
    raw = {path.relative_to(examples.CLIPART).as_posix(): path.read_bytes() for path in found}
    times = {
        path.relative_to(examples.CLIPART).as_posix(): path.stat().st_mtime_ns for path in found
    }
    labels = {id_: id_.split("/")[0] for id_ in raw}
    return Collection("example:clipart", raw, labels=labels, times_ns=times)


def digits(tmp_path: Path) -> Collection:
    images, labels = examples.digits()
    ids = [f"{label}/{number:04d}" for number, label in enumerate(labels)]
    return Collection(
        "example:digits", by_id(ids, list(images)), labels=by_id(ids, [str(n) for n in labels])
    )


KINDS: dict[str, Callable[[Path], Collection]] = {
    "folder": folder,
    "folder with splits": folder_with_splits,
    "manifest csv": manifest("csv"),
    "manifest jsonl": manifest("jsonl"),
    "manifest parquet": manifest("parquet"),
    "tar shards": shards,
    "bucket": bucket,
    "tar shards in a bucket": shards_in_bucket,
    "manifest in a bucket": manifest_in_bucket,
    "list of paths": paths,
    "array": array,
    "list of arrays": arrays,
    "Pillow images": pillow_images,
    "tf.data uint8": tf_data("uint8"),
    "tf.data float32": tf_data("float32"),
    "example clipart": clipart,
    "example digits": digits,
}


@pytest.fixture(params=list(KINDS))
def collection(request, tmp_path, monkeypatch) -> Collection:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.01)
    return KINDS[request.param](tmp_path)


def same(one: Raw, other: Raw) -> bool:
    if isinstance(one, bytes):
        return one == other
    return one.dtype == other.dtype and np.array_equal(one, other)


def check(source: sources.Source, collection: Collection, ids: list[str]) -> None:
    """Check that a source has these ids, and that everything it says follows them."""
    about = source.annotations
    assert list(source.ids) == ids
    assert len(source) == len(source.labels) == len(ids)
    if collection.labels is not None:
        wanted = [collection.labels[id_] for id_ in ids]
        assert [source.class_names[label] for label in source.labels] == wanted
        assert source.class_names == tuple(sorted(set(collection.labels.values())))
    for column, known in ((about.splits, collection.splits), (about.groups, collection.groups)):
        assert (None if column is None else list(column)) == (known and [known[id_] for id_ in ids])
    for row, id_ in enumerate(ids):
        assert same(source.get(row), collection.raw[id_]), id_
        stamp = source.stamp(row)
        assert (stamp is None) == (collection.times_ns is None)
        if stamp is not None:
            assert stamp[:2] == (len(collection.raw[id_]), collection.times_ns[id_]), id_


def test_ids_are_sorted_and_every_column_follows(collection):
    check(collection.open(), collection, collection.ids)


def test_a_source_says_how_it_is_read(collection):
    contents = collection.open().contents
    assert contents.is_concurrent is collection.is_concurrent
    assert contents.dtype == collection.dtype


def test_opening_twice_gives_the_same(collection):
    one, other = collection.open(), collection.open()
    assert (one.ids, one.name, one.origin) == (other.ids, other.name, other.origin)
    assert one.annotations.same_as(other.annotations)
    check(other, collection, collection.ids)


def test_digests_are_of_the_bytes_or_of_pixels_and_shape(collection):
    source = collection.open()
    for row, id_ in enumerate(source.ids):
        raw = collection.raw[id_]
        if not isinstance(raw, bytes):
            kind = "" if raw.dtype == np.uint8 else str(raw.dtype)
            raw = f"{raw.shape}{kind}".encode() + raw.tobytes()
        expected = hashlib.blake2b(raw, digest_size=16).digest()
        assert sources.digest(source.get(row)) == expected
        assert source.digests is None or source.digests[row].tobytes() == expected


def test_rows_are_taken_with_all_that_is_known_of_them(collection):
    source = collection.open()
    rows = np.array([0, 2, 3, 9, len(source) - 1])
    some = source.take(rows)
    ids = [collection.ids[row] for row in rows]
    check(some, collection, ids)
    if source.digests is not None:
        np.testing.assert_array_equal(some.digests, source.digests[rows])
    check(some.take(np.array([1, 4])), collection, [ids[1], ids[4]])
    assert len(some.take(np.array([], int))) == 0
    check(source, collection, collection.ids)  # which is as it was


def test_a_limit_is_spread_over_all(collection):
    source = collection.open()
    few = source.limit(5)
    check(few, collection, list(few.ids))
    assert few.limited_to == len(few) == 5
    assert list(few.ids) == sorted(set(few.ids))
    assert (few.ids[0], few.ids[-1]) == (source.ids[0], source.ids[-1])
    places = [source.ids.index(id_) for id_ in few.ids]
    assert np.ptp(np.diff(places)) <= 1
    every = source.limit(len(source) + 1)
    assert every.ids == source.ids
    assert every.limited_to == len(source) + 1
    assert source.limited_to is None


def test_images_can_be_had_in_any_order_and_again(collection):
    source = collection.open().limit(N)
    for row in [*reversed(range(len(source))), 0, 0, len(source) - 1]:
        assert same(source.get(row), collection.raw[source.ids[row]])


def test_threads_get_what_they_ask_for_where_they_may(collection):
    source = collection.open().limit(50)
    if not source.contents.is_concurrent:
        pytest.skip("one thread at a time reads this kind")
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(source)), 4))
    with ThreadPoolExecutor(8) as pool:
        for row, raw in zip(rows, pool.map(source.get, rows.tolist()), strict=True):
            assert same(raw, collection.raw[source.ids[row]])


def test_a_source_and_what_is_taken_of_it_travel_to_another_process(collection):
    source = collection.open()
    some = source.take(np.array([1, 5, 8]))
    if not collection.is_picklable:
        with pytest.raises(SourceError, match="cannot be handed to another process"):
            pickle.dumps(source)
        return
    check(pickle.loads(pickle.dumps(source)), collection, collection.ids)
    travelled = pickle.dumps(some)
    check(pickle.loads(travelled), collection, list(some.ids))
    assert len(travelled) < len(pickle.dumps(source))  # what was not taken stays


def test_it_is_opened_again_by_what_provenance_keeps(collection):
    source = collection.open()
    options = {"source": source.origin, "source_options": dict(source.options)}
    kept = json.loads(json.dumps(options))
    if collection.is_kept:
        check(openers.reopen(kept), collection, collection.ids)
    else:
        with pytest.raises(SourceError, match="were given from Python; give them again"):
            openers.reopen(kept)
        check(openers.reopen(kept, source), collection, collection.ids)


def test_an_image_that_cannot_be_had_is_an_error_of_its_own_row(collection):
    if collection.spoil is None:
        pytest.skip("an array in memory can always be read")
    source = collection.open()
    row = len(source) - 2
    lost = source.ids[row]
    collection.spoil(lost)
    with pytest.raises(OSError, match=LOST):
        source.get(row)
    before = [other for other in range(len(source)) if other < row]
    for other in before[:4]:
        assert same(source.get(other), collection.raw[source.ids[other]])
    with pytest.raises(OSError, match=LOST):
        source.take(np.array([0, row])).get(1)
