"""A cache folder beside a plain-dictionary model of it: whatever happens to the images, a run
computes exactly what no file and no part holds, and every row is the row of its image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from conftest import make_image
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from featcache import extraction, store
from featcache.core import running
from featcache.core.errors import SourceError, StoreError
from featcache.core.spec import ExtractionSpec
from featcache.data import listing, loading
from featcache.extraction.repair import repair
from featcache.networks import backbones, engines
from featcache.store import hdf5, part_writer, writing

EXAMPLES = int(os.environ.get("FEATCACHE_MODEL_EXAMPLES", "0"))  # more, and others every time
SIDE = 8
CHUNK_ROWS = 3
LONG_AGO_NS = 1_600_000_000 * 10**9

FOLDERS = ("first/photos", "second/photos")  # of one name, so that one cache folder has a suffix
PLACES = {"apple/": 5, "fig/": 2, "pear ü/": 4, "pear ü/old/": 3, "": 3}
PATHS = [f"{place}{i}.png" for place, n in PLACES.items() for i in range(n)]
LIMITS = (3, 5)
HALF_WRITTEN, WRITTEN = "half written", "written"  # places to be killed at


def embed(pixels: np.ndarray) -> np.ndarray:
    """Sums of the pixels with small whole weights: exact, so other images have other bytes."""
    weights = np.arange(4 * pixels.size).reshape(4, -1) * 7919 % 11
    return (weights @ pixels.reshape(-1).astype(np.int64)).astype(np.float32)


def encoded(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **options)
    return file.getvalue()


# What a file can hold, by name. Images of one format have one size, so that an edit may keep it.
FORMATS: dict[str, dict[str, Any]] = {
    "stored": {"format": "PNG", "compress_level": 0},
    "packed": {"format": "PNG", "optimize": True},
    "bmp": {"format": "BMP"},
}
PIXELS = {
    f"{name} {i}": np.random.default_rng([i, number]).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for number, name in enumerate(FORMATS)
    for i in range(5)
}
EXPECTED = {name: embed(pixels) for name, pixels in PIXELS.items()}
BY_EMBEDDING = {row.tobytes(): name for name, row in EXPECTED.items()}
BYTES = {name: encoded(pixels, **FORMATS[name.split()[0]]) for name, pixels in PIXELS.items()}
BROKEN = {"empty": b"", "text": b"no image", "cut": BYTES["stored 0"][:120]}
BYTES |= BROKEN
DIGESTS = {name: hashlib.blake2b(data, digest_size=16).digest() for name, data in BYTES.items()}
BY_DIGEST = {digest: name for name, digest in DIGESTS.items()}
GONE = "gone"  # a link to nothing: it cannot even be opened
DIGESTS[GONE] = bytes(16)
EASY = st.sampled_from(list(PIXELS))
HARD = st.sampled_from([*BROKEN, *([GONE] if os.name == "posix" else [])])
ANY = EASY | HARD
FOLDER = st.sampled_from((*FOLDERS[:1] * 2, *FOLDERS))
NUMBER = st.integers(0, 99)  # picks one of what is there
RARELY = st.sampled_from((False, False, False, True))
CHECK = st.sampled_from(running.CHECKS)


class Backbone(engines.Compiled):
    """Stands in for the compiled backbone: writes down what it sees, can be interrupted."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stop_after: int | None = None

    name, where, ahead = "sums", "CPU", 1

    def start(self, batch: Any) -> Callable[[], tuple[np.ndarray]]:
        if self.stop_after is not None and len(self.ran) >= self.stop_after:
            raise KeyboardInterrupt
        rows = [embed(image) for image in np.asarray(batch)]
        self.ran += [BY_EMBEDDING[row.tobytes()] for row in rows]
        outputs = (np.stack(rows),)
        return lambda: outputs


Stamp = tuple[int, ...]


class Target(NamedTuple):
    """Which feature file: of a folder, with or without a limit."""

    folder: str
    limit: int | None


@dataclass
class Published:
    """What a feature file should hold."""

    path: Path
    rows: dict[str, str]  # content by id
    failures: dict[str, str]
    classes: tuple[str, ...]
    stamps: dict[str, Stamp]  # size and modification time; change time and inode from a whole run
    damaged: set[int] = field(default_factory=set)  # chunks

    def is_damaged(self, content: str) -> bool:
        """Whether the row that the file would lend lies in a damaged chunk."""
        return [*self.rows.values()].index(content) // CHUNK_ROWS in self.damaged

    def whole_rows(self) -> set[str]:
        contents = enumerate(self.rows.values())
        return {one for row, one in contents if row // CHUNK_ROWS not in self.damaged}

    def spans(self) -> tuple[tuple[int, int], ...]:
        size, last = CHUNK_ROWS, len(self.rows) - 1
        return tuple((n * size, min(n * size + size - 1, last)) for n in sorted(self.damaged))


@dataclass
class Seen:
    """What a run should find in a folder."""

    target: Target
    good: dict[str, str]
    broken: dict[str, str]
    classes: tuple[str, ...]
    n_passed_over: int

    @property
    def ids(self) -> set[str]:
        return {*self.good, *self.broken}

    def is_in(self, file: Published | None) -> bool:
        return file is not None and (file.rows, file.failures, file.classes) == (
            self.good,
            self.broken,
            self.classes,
        )


class CacheMachine(RuleBasedStateMachine):
    """Two folders of images, one cache folder, and what should be in them."""

    weights: Path
    backbone: Backbone
    read: list[int]  # one entry a file that was read

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.cache = self.home / "cache"
        self.folders: dict[str, dict[str, str]] = {name: {} for name in FOLDERS}
        self.files: dict[Target, Published] = {}
        self.parts: dict[Target, set[str]] = {}
        self.n_writes = 0
        for folder in FOLDERS:
            (self.home / folder).mkdir(parents=True)

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    # what happens to the images

    @initialize(
        first=st.lists(EASY, min_size=3, max_size=9),
        second=st.lists(EASY, min_size=1, max_size=5),
        broken=st.lists(HARD, max_size=2),
        extracted=st.booleans(),
    )
    def begin(
        self, first: list[str], second: list[str], broken: list[str], extracted: bool
    ) -> None:
        self.add(FOLDERS[0], first, 0)
        self.add(FOLDERS[0], broken, 0)
        self.add(FOLDERS[1], second, 0)
        if extracted:
            self._extract(FOLDERS[0])

    @rule(folder=FOLDER, contents=st.lists(ANY, min_size=1, max_size=3), number=NUMBER)
    def add(self, folder: str, contents: list[str], number: int) -> None:
        free = [path for path in PATHS if path not in self.folders[folder]]
        for content in contents[: len(free)]:
            self._write(folder, free.pop(number % len(free)), content)

    @rule(number=NUMBER, folder=FOLDER, path=st.sampled_from(PATHS))
    def copy(self, number: int, folder: str, path: str) -> None:
        if one := self._pick(number):
            self._write(folder, path, self.folders[one[0]][one[1]])

    @rule(number=NUMBER, path=st.sampled_from(PATHS))
    def rename(self, number: int, path: str) -> None:
        """Also into another class, and two images trade places."""
        if not (one := self._pick(number)):
            return
        folder, before = one
        held, place = self.folders[folder], self.home / folder
        aside = place / "aside"
        (place / before).rename(aside)
        content = held.pop(before)
        if path in held:
            (place / path).rename(place / before)
            held[before] = held.pop(path)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(place / path)
        held[path] = content

    @rule(numbers=st.lists(NUMBER, min_size=1, max_size=4), content=ANY)
    def edit(self, numbers: list[int], content: str) -> None:
        for number in numbers:
            if one := self._pick(number):
                self._write(*one, content)

    @rule(number=NUMBER, other=st.integers(0, 4))
    def edit_keeping_the_size(self, number: int, other: int) -> None:
        if (one := self._pick(number)) and self.folders[one[0]][one[1]] in PIXELS:
            form = self.folders[one[0]][one[1]].split()[0]
            size = (self.home / one[0] / one[1]).stat().st_size
            self._write(*one, f"{form} {other}")
            assert form == "packed" or (self.home / one[0] / one[1]).stat().st_size == size

    @rule(number=NUMBER, other=st.integers(0, 4))
    def edit_keeping_size_and_time(self, number: int, other: int) -> None:
        if (one := self._pick(number)) and self.folders[one[0]][one[1]] in PIXELS:
            file, before = self.home / one[0] / one[1], self._stamp(*one)
            form = self.folders[one[0]][one[1]].split()[0]
            while True:
                self._write(*one, f"{form} {other}")
                os.utime(file, ns=(before[1], before[1]))
                if self._stamp(*one)[2] != before[2]:  # the clock ticks every few ms
                    break

    @rule(number=NUMBER)
    def touch(self, number: int) -> None:
        if one := self._pick(number):
            self._write(*one, self.folders[one[0]][one[1]])

    @rule(number=NUMBER)
    def link(self, number: int) -> None:
        """A hard link changes the change time and nothing else."""
        if (one := self._pick(number)) and self.folders[one[0]][one[1]] != GONE:
            (self.home / "link").unlink(missing_ok=True)
            (self.home / "link").hardlink_to(self.home / one[0] / one[1])

    @rule(numbers=st.lists(NUMBER, min_size=1, max_size=3))
    def delete(self, numbers: list[int]) -> None:
        for number in numbers:
            if one := self._pick(number):
                (self.home / one[0] / one[1]).unlink()
                del self.folders[one[0]][one[1]]

    # what is done with the cache

    @rule(
        folder=FOLDER,
        check=CHECK,
        batch_size=st.integers(1, 5),
        overwrite=RARELY,
    )
    def extract(self, folder: str, check: str, batch_size: int, overwrite: bool) -> None:
        self._extract(folder, check=check, batch_size=batch_size, overwrite=overwrite)
        self._extract(folder, check=check)

    @rule(folder=FOLDER, limit=st.sampled_from(LIMITS), check=CHECK, overwrite=RARELY)
    def extract_a_few(self, folder: str, limit: int, check: str, overwrite: bool) -> None:
        self._extract(folder, limit, check=check, overwrite=overwrite)

    @rule(folder=FOLDER, check=CHECK)
    def remove_what_failed(self, folder: str, check: str) -> None:
        self._extract(folder)
        held = self.folders[folder]
        for path in [path for path, content in held.items() if content not in PIXELS]:
            (self.home / folder / path).unlink()
            del held[path]
        self._extract(folder, check=check)

    @rule(folder=FOLDER, batch_size=st.integers(1, 4))
    def stop_at_what_is_broken(self, folder: str, batch_size: int) -> None:
        self._extract(folder, on_error="stop", batch_size=batch_size)

    @rule(
        folder=FOLDER,
        stop_after=st.integers(0, 5),
        batch_size=st.integers(1, 3),
        overwrite=RARELY,
    )
    def kill(self, folder: str, stop_after: int, batch_size: int, overwrite: bool) -> None:
        options = {"batch_size": batch_size, "overwrite": overwrite}
        self._extract(folder, stop_after=stop_after, **options)

    @rule(
        folder=FOLDER,
        when=st.sampled_from((HALF_WRITTEN, WRITTEN)),
        overwrite=RARELY,
    )
    def kill_publishing(self, folder: str, when: str, overwrite: bool) -> None:
        self._extract(folder, killed=when, overwrite=overwrite)

    @precondition(lambda self: self.files)
    @rule(where=st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=3), place=NUMBER)
    def damage(self, where: list[tuple[int, int]], place: int) -> None:
        for number, chunk in where:
            self._damage(self.files[self._pick_target(number)], chunk, place)

    @precondition(lambda self: self.files)
    @rule(number=NUMBER)
    def verify(self, number: int) -> None:
        self._verify(self._pick_target(number))

    @precondition(lambda self: self.files)
    @rule(
        number=NUMBER,
        chunks=st.lists(NUMBER, max_size=2),
        stop_after=st.sampled_from((None, None, 0, 1, 2)),
    )
    def repair(self, number: int, chunks: list[int], stop_after: int | None) -> None:
        target = self._pick_target(number)
        file, seen = self.files[target], self._look(target)
        for chunk in chunks:
            self._damage(file, chunk, 3)
        with self._watched(stop_after):
            if not file.damaged:
                damage, n_computed = repair(file.path, show_progress=False)
                assert (bool(damage), n_computed) == (False, 0)
                self._was_computed(set())
                return
            if not seen.good:
                with pytest.raises(SourceError):
                    repair(file.path, show_progress=False)
                self._verify(target)  # it is left as it is; its whole rows may lie in parts now
                kept = parts_in(file.path.with_name(f"{file.path.name}.parts"))
                assert kept in (self._parts(target), self._parts(target) | file.whole_rows())
                self.parts[target] = kept
                return
            self._parts(target).update(file.whole_rows())
            missing = self._missing(seen, {one for one in self.files if one != target})
            try:
                damage, n_computed = repair(file.path, show_progress=False)
            except KeyboardInterrupt:
                self._was_killed(target, missing)
                if not file.path.exists():
                    del self.files[target]  # no loss, since its whole rows lie in parts
                return
            self._was_computed(missing)
        assert (damage.rows, damage.columns) == (file.spans(), ())
        assert n_computed == len(missing)
        self._publish(seen, file.path)
        self._verify(target)
        self._check_parts()

    # how it is done

    def _pick(self, number: int) -> tuple[str, str] | None:
        every = [(folder, path) for folder in FOLDERS for path in sorted(self.folders[folder])]
        return every[number % len(every)] if every else None

    def _pick_target(self, number: int) -> Target:
        return [*self.files][number % len(self.files)]

    def _write(self, folder: str, path: str, content: str) -> None:
        """Write a file long ago, each at a time of its own, in no order."""
        file = self.home / folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # not through a link
        self.folders[folder][path] = content
        if content == GONE:
            file.symlink_to("nowhere")
            return
        file.write_bytes(BYTES[content])
        self.n_writes += 1
        time_ns = LONG_AGO_NS + self.n_writes * 7919 % 10_007 * 10**9
        os.utime(file, ns=(time_ns, time_ns))

    def _stamp(self, folder: str, path: str) -> Stamp:
        status = (self.home / folder / path).stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino

    def _stamps(self, seen: Seen) -> dict[str, Stamp]:
        return {id_: self._stamp(seen.target.folder, id_) for id_ in seen.good}

    def _parts(self, target: Target) -> set[str]:
        return self.parts.setdefault(target, set())

    def _look(self, target: Target) -> Seen:
        held = self.folders[target.folder]
        in_classes = sorted(path for path in held if "/" in path)
        ids = in_classes or sorted(held)
        n_passed_over = len(held) - len(ids)
        if target.limit is not None:
            ids = limited(ids, target.limit)
        return Seen(
            target=target,
            good={id_: held[id_] for id_ in ids if held[id_] in PIXELS},
            broken={id_: held[id_] for id_ in ids if held[id_] not in PIXELS},
            classes=tuple(sorted({path.split("/")[0] for path in in_classes})),
            n_passed_over=n_passed_over,
        )

    def _damage(self, file: Published, chunk: int, place: int) -> None:
        """Flip a bit in one chunk of the features, counted from the last."""
        n_chunks = -(-len(file.rows) // CHUNK_ROWS)
        chunk = n_chunks - 1 - chunk % n_chunks
        if chunk in file.damaged:
            return  # the same bit once more would mend it
        with h5py.File(file.path) as opened:
            features = opened["features"].id
            chunks = (features.get_chunk_info(i) for i in range(features.get_num_chunks()))
            size = opened["features"].chunks[0]
            (found,) = (one for one in chunks if one.chunk_offset[0] == chunk * size)
        data = bytearray(file.path.read_bytes())
        data[found.byte_offset + place % (found.size - 4)] ^= 1
        file.path.write_bytes(data)
        file.damaged.add(chunk)

    def _missing(self, seen: Seen, lending: Iterable[Target]) -> set[str]:
        """Return what is to be computed: a file is of no use once a row it is to lend is bad."""
        wanted, kept = set(seen.good.values()), self._parts(seen.target)
        lenders = sorted((self.files[one] for one in lending), key=lambda file: file.path)
        missing: set[str] = set()
        while True:
            bad = None
            for content in wanted - kept - missing:
                lender = next((one for one in lenders if content in one.rows.values()), None)
                if lender is None:
                    missing.add(content)
                elif lender.is_damaged(content):
                    bad = lender
            if bad is None:
                return missing
            lenders.remove(bad)

    def _extract(
        self,
        folder: str,
        limit: int | None = None,
        *,
        check: str = "stat",
        overwrite: bool = False,
        batch_size: int = 4,
        on_error: str = "skip",
        stop_after: int | None = None,
        killed: str = "",
    ) -> None:
        seen = self._look(Target(folder, None))
        if limit is not None and limit < len(seen.ids):
            seen = self._look(Target(folder, limit))
        target, before = seen.target, self.files.get(seen.target)

        def run() -> extraction.Extraction:
            return extraction.run(
                self.home / folder,
                weights=str(self.weights),
                cache_dir=self.cache,
                limit=limit,
                check=check,
                overwrite=overwrite,
                batch_size=batch_size,
                on_error=on_error,
                show_progress=False,
            )

        with self._watched(stop_after, killed):
            if not seen.ids:
                with pytest.raises(SourceError, match="has no images"):
                    run()
                return
            hit = seen.is_in(before) and not overwrite
            if on_error == "stop" and seen.broken:
                with pytest.raises(SourceError, match="cannot be used"):
                    run()
                if hit and GONE not in seen.broken.values():  # which is known before the hit is
                    self._parts(target).clear()
                    self.files[target].stamps = self._stamps(seen)
                self._was_killed(target, set() if hit else self._missing(seen, self.files))
                return
            if overwrite or hit:
                self._parts(target).clear()
            missing = set() if hit else self._missing(seen, () if overwrite else self.files)
            if not seen.good:
                with pytest.raises(SourceError, match="could be used"):
                    run()
                self._was_computed(set())
                self._check_parts()
                return
            try:
                done = run()
            except KeyboardInterrupt:
                assert not hit
                if killed:
                    self._was_computed(missing)
                else:
                    assert len(self.backbone.ran) < len(missing)
                self._was_killed(target, missing)
                if killed == WRITTEN:
                    self._publish(seen, self._path(target), self.parts[target])
                    file = self.files[target]  # killed before it kept more than is in the file
                    file.stamps = {id_: stamp[:2] for id_, stamp in file.stamps.items()}
                    self._verify(target)
                return
            assert hit or not killed
            self._was_computed(missing)
            # with overwrite nothing is found by what an image is: each is read to be computed
            self._check_read(seen, before if check == "stat" and not overwrite else None)
        assert done.hit == hit
        assert done.n_computed == len(missing)
        assert done.n_reused == len(seen.good) - len(missing)
        assert done.n_removed == (len(set(before.rows) - seen.ids) if before else 0)
        assert done.n_failed == len(seen.broken)
        assert done.n_passed_over == seen.n_passed_over
        if not hit:
            self._publish(seen, done.features.path)
        self.files[target].stamps = self._stamps(seen)
        self._check_rows(done.features, self.files[target])
        self._check_parts()

    def _path(self, target: Target) -> Path:
        """Where a file is whose run was killed when it had just been published."""
        folder = self.home / target.folder
        (path,) = (
            path
            for path in self.cache.glob("*/*.h5")
            if store.owner(path.parent) == os.fspath(folder.resolve())
            and path.stem.partition("-limit")[2] == str(target.limit or "")
        )
        return path

    def _publish(self, seen: Seen, path: Path, parts: Iterable[str] = ()) -> None:
        self.parts[seen.target] = set(parts)
        self.files[seen.target] = Published(
            path=path,
            rows=seen.good,
            failures=seen.broken,
            classes=seen.classes,
            stamps=self._stamps(seen),
        )
        features = store.Features(path)
        of_file = [list(self.files[seen.target].stamps[id_][:2]) for id_ in features.ids]
        assert features.stamps.tolist() == of_file

    @contextmanager
    def _watched(self, stop_after: int | None, killed: str = "") -> Iterator[None]:
        """Count anew, and be interrupted at a known place."""
        self.backbone.ran.clear()
        self.backbone.stop_after = stop_after
        self.read.clear()
        try:
            with pytest.MonkeyPatch.context() as patch:
                if killed == HALF_WRITTEN:
                    patch.setattr(writing, "write_metadata", interrupted())
                elif killed == WRITTEN:
                    patch.setattr(store, "publish", interrupted(store.publish))
                yield
        finally:
            self.backbone.stop_after = None

    def _was_computed(self, contents: Iterable[str]) -> None:
        assert sorted(self.backbone.ran) == sorted(contents)

    def _was_killed(self, target: Target, missing: set[str]) -> None:
        """Whatever went through the backbone is kept, and nothing went through in vain."""
        ran = self.backbone.ran
        assert len(set(ran)) == len(ran)
        assert set(ran) <= missing
        self._parts(target).update(ran)
        self._check_parts()

    def _check_read(self, seen: Seen, known: Published | None) -> None:
        """Only files that are new or look changed were read."""
        folder, known_stamps = seen.target.folder, known.stamps if known else {}
        every = [*seen.good, *(id_ for id_, one in seen.broken.items() if one != GONE)]
        unknown = []
        for id_ in every:
            before, now = known_stamps.get(id_), self._stamp(folder, id_)
            if before is None or now[: len(before)] != before:
                unknown.append(id_)
        assert len(self.read) == len(unknown)

    def _check_rows(self, features: store.Features, file: Published) -> None:
        assert features.ids == tuple(sorted(file.rows))
        contents = [file.rows[id_] for id_ in features.ids]
        assert [one.tobytes() for one in features.digests] == [DIGESTS[one] for one in contents]
        failures = [(one.id, one.digest) for one in features.failures]
        assert failures == [(id_, DIGESTS[one]) for id_, one in sorted(file.failures.items())]
        assert features.class_names == file.classes
        labels = [
            file.classes.index(id_.split("/")[0]) if file.classes else -1 for id_ in file.rows
        ]
        assert features.labels.tolist() == labels
        if file.damaged:
            with pytest.raises(StoreError, match="checksum of rows"):
                _ = features.X
        else:
            np.testing.assert_array_equal(features.X, [EXPECTED[one] for one in contents])

    def _verify(self, target: Target) -> None:
        file = self.files[target]
        features = store.Features(file.path)
        damage = store.verify(features)
        assert (damage.rows, damage.columns) == (file.spans(), ())
        self._check_rows(features, file)

    def _check_parts(self) -> None:
        """What lies in the cache folder beside the feature files is what a next run can use."""
        assert not list(self.cache.glob("**/*.tmp*"))
        kept = [parts_in(folder) for folder in self.cache.glob("*/*.parts")]
        expected = [part for part in self.parts.values() if part]
        assert sorted(map(sorted, kept)) == sorted(map(sorted, expected))


def parts_in(folder: Path) -> set[str]:
    """Return which contents the parts in a folder hold."""
    kept: set[str] = set()
    for path in folder.glob("*"):
        with h5py.File(path, "r") as file:
            kept |= {BY_DIGEST[one.tobytes()] for one in file["digests"][:]}
    return kept


def limited(ids: list[str], n: int) -> list[str]:
    """Return `n` ids spread evenly."""
    if n >= len(ids):
        return ids
    step = (len(ids) - 1) / (n - 1)
    return [ids[round(i * step)] for i in range(n)]


def interrupted(function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return what does the same as `function`, if there is one, and raises then."""

    def run(*arguments: Any) -> Any:
        if function is not None:
            function(*arguments)
        raise KeyboardInterrupt

    return run


def batches(
    listed: listing.Listing,
    rows: list[int],
    *,
    specs: list[ExtractionSpec],
    batch_size: int,
    reading: listing.Reading | None = None,
    **_: Any,
) -> Iterator[loading.Batch]:
    """Stand in for `loading.batches`, in its order: TensorFlow would trace two graphs a run."""
    decoded, failures = [], {}
    if reading is not None:
        first = {reading.digests[row].tobytes(): row for row in rows[::-1] if reading.read(row)}
        failures = {row: listing.Unusable(why) for row, why in reading.unreadable.items()}
        rows, listed = sorted(first.values()), reading.listing()
    for row in sorted(rows, key=lambda row: not listed.orientations[row]):
        try:
            decoded.append((row, loading.pixels(listed.source, row, specs[0])))
        except loading.UnreadableImageError as error:
            failures[row] = listing.Unusable(str(error))
    for start in range(0, len(decoded), batch_size):
        numbers, pixels = zip(*decoded[start : start + batch_size], strict=True)
        yield loading.Batch(np.array(numbers), (np.stack(pixels)[:, None],), {})
    if failures:
        nothing = (np.zeros((0, 1, SIDE, SIDE, 3)),)
        yield loading.Batch(np.zeros(0, np.int64), nothing, failures)


def test_a_cache_behaves_like_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, read = Backbone(), []
    weights = tmp_path / "sums.keras"
    with zipfile.ZipFile(weights, "w") as file:  # just enough to have a size and a digest
        layers = [{"config": {"batch_shape": [None, SIDE, SIDE, 3]}}]
        file.writestr("config.json", json.dumps({"config": {"layers": layers}}))
    digest = listing.digest
    monkeypatch.setattr(listing, "digest", lambda raw: read.append(1) or digest(raw))
    monkeypatch.setattr(backbones, "build", lambda *arguments: None)
    monkeypatch.setattr(backbones, "frozen_extractor", lambda *arguments: None)
    perfect = engines.Closeness(0.0, 1.0)
    monkeypatch.setattr(engines, "agree", lambda compiled, *others: (compiled, perfect))
    monkeypatch.setattr(engines, "compile_frozen", lambda *arguments, **options: backbone)
    monkeypatch.setattr(loading, "batches", batches)
    # most of the time that a small file takes
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(hdf5, "CHUNK_ROWS", CHUNK_ROWS)
    monkeypatch.setattr(part_writer, "PART_ROWS", 2)

    class Machine(CacheMachine):
        pass

    Machine.weights, Machine.backbone, Machine.read = weights, backbone, read
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or 40,
            stateful_step_count=25,
            derandomize=not EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_only_twenty_of_sixty(tmp_path, extract, images_run):
    """Every file renamed, 10 removed, 10 changed and 10 added: 20 images are computed."""
    photos = tmp_path / "photos"
    every = [photos / "abcd"[i % 4] / f"{i}.{'jpg' if i % 3 else 'png'}" for i in range(60)]
    for i, path in enumerate(every):
        make_image(path, (4 * i, 90, 200 - 3 * i), i, (40 - i // 2, 30 + i // 3))
    make_old(every)
    first = extract(photos).features
    rows = dict(zip((one.tobytes() for one in first.digests), first.X, strict=True))
    assert sum(images_run) == len(rows) == 60
    images_run.clear()

    aside = [path.rename(path.with_name(f"{path.name} aside")) for path in every]
    # thirty take each other's names, in the next class; thirty have new ones in yet another
    renamed = [*every[1:30], every[0]]
    renamed += [photos / "bcde"[i % 4] / f"was {i}.png" for i in range(30, 60)]
    for before, after in zip(aside, renamed, strict=True):
        after.parent.mkdir(exist_ok=True)
        before.rename(after)
    removed, changed = renamed[::6], renamed[1::6]
    for path in removed:
        path.unlink()
    added = [photos / "abcde"[i % 5] / f"new {i}.png" for i in range(10)]
    for i, path in enumerate([*changed, *added]):
        make_image(path, (9, 9, 9), 100 + i, (20, 20))
    make_old([*changed, *added])

    done = extract(photos)
    assert sum(images_run) == done.n_computed == 20
    assert (len(done.features), done.n_reused) == (60, 40)
    for id_, one, row in zip(
        done.features.ids, done.features.digests, done.features.X, strict=True
    ):
        path = photos / id_
        assert one.tobytes() == hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        if one.tobytes() in rows:
            np.testing.assert_array_equal(row, rows[one.tobytes()])
        else:
            assert path in {*changed, *added}
    fresh = extract(photos, cache_dir=tmp_path / "other").features
    assert fresh.ids == done.features.ids
    np.testing.assert_allclose(done.features.X, fresh.X, rtol=1e-4, atol=1e-5)


def make_old(paths: Iterable[Path]) -> None:
    """Make files look as if they had been written an hour ago, each at a time of its own."""
    for path in paths:
        time_ns = path.stat().st_mtime_ns - 3600 * 10**9
        os.utime(path, ns=(time_ns, time_ns))
