"""What kills, full disks, flipped bytes and wrong clocks do to an extraction.

    python benchmarks/faults.py [--kills 50] [--seed 0] [--json]

Goal: after each fault the next run gives the datasets of an undisturbed run bit for bit, or says
what is damaged; it computes again no more than what was in flight; nothing temporary is left.
Exits 1 otherwise. For Linux.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
N_IMAGES = 208
PART_ROWS = 16  # as in faults_child, which is not imported here: that would import TensorFlow
CHUNK_ROWS = 64  # likewise
BATCH_SIZE = 4  # likewise
LARGEST_PART = PART_ROWS + BATCH_SIZE - 1  # a part ends with the batch that fills it
IN_FLIGHT = 3 * BATCH_SIZE  # two batches are computed while a third is kept or a part is written
HOUR_S = 3600
DAY_S = 24 * HOUR_S
TIMEOUT_S = 60
SHOWN = 6  # problems a row; --json has all


@dataclass
class Row:
    """A line of the table."""

    fault: str
    times: int = 0
    happened: str = ""
    computed_again: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: bool = False
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


# Processes


@dataclass
class Child:
    """A process that runs one function of faults_child."""

    process: Any
    messages: Connection

    def next(self) -> Any:
        """Return "ready" at its first batch, and then or instead its result.

        {"died": exit code} is the result of a process that was killed, {"hangs": True} of one that
        had to be.
        """
        try:
            # no answer for so long is a result, too: there are files that HDF5 reads for ever
            message = self.messages.recv() if self.messages.poll(TIMEOUT_S) else {"hangs": True}
        except (EOFError, OSError):
            message = {"died": True}
        if message != "ready":
            if message == {"hangs": True}:
                self.process.kill()
            self.process.join()
            self.messages.close()
            if message == {"died": True}:
                message = {"died": self.process.exitcode}
        return message

    def result(self) -> dict[str, Any]:
        """Wait for its end."""
        while (message := self.next()) == "ready":
            pass
        return message


def _in_child(function: str, options: dict[str, Any], reply: Connection) -> None:
    sys.path.insert(0, str(HERE))
    import faults_child

    faults_child.serve(function, options, reply)


@functools.cache
def fork_server() -> Any:
    """Start the process that imports TensorFlow and from which the others are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults_child"])
    before = dict(os.environ)
    os.environ |= environment()  # the server finds what to preload there; it is silent if it cannot
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before
    return context


def environment() -> dict[str, str]:
    """Return the environment in which faults_child can be imported."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def start(function: str, **options: Any) -> Child:
    """Start a function of faults_child in a process of its own."""
    context = fork_server()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(function, options, theirs), daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


# What is extracted, and what it must come to


@dataclass
class Lab:
    """Images, a backbone, and what an undisturbed extraction makes of them."""

    folder: Path
    rng: np.random.Generator
    photos: Path = Path()
    contents: dict[str, Any] = field(default_factory=dict)  # of the undisturbed file
    read: dict[str, Any] = field(default_factory=dict)  # the same as its user gets it
    n: int = 0  # images that an undisturbed run computes
    seconds: float = 0.0  # from its first batch to its end
    events: Counter[str] = field(default_factory=Counter)  # its steps
    whole: Path = Path()  # the cache folder it left
    in_parts: Path = Path()  # one with all rows in parts and no feature file yet
    n_caches: int = 0

    def new_cache(self, like: Path | None = None) -> Path:
        """Return a new cache folder, empty or a copy."""
        self.n_caches += 1
        cache = self.folder / f"cache-{self.n_caches}"
        if like is not None:
            shutil.copytree(like, cache)
        return cache

    def start(self, cache: Path, source: Path | None = None, **options: Any) -> Child:
        """Start an extraction."""
        return start(
            "extract",
            source=str(source or self.photos),
            weights=str(self.folder / "tiny.keras"),
            cache=str(cache),
            counts=str(self.folder / "counts"),
            **options,
        )

    def extract(self, cache: Path, source: Path | None = None, **options: Any) -> dict[str, Any]:
        """Run an extraction to its end."""
        return self.start(cache, source, **options).result()

    def repair(self, cache: Path, **options: Any) -> dict[str, Any]:
        """Run `assembling.repair` on the feature file of a cache folder."""
        counts = str(self.folder / "counts")
        return start("repair", path=str(feature_file(cache)), counts=counts, **options).result()

    def counted(self) -> int:
        """Return how many images went through the backbone since the last call."""
        counts = self.folder / "counts"
        text = counts.read_text() if counts.exists() else ""
        counts.write_text("")
        return sum(map(int, text.split()))


def make_lab(folder: Path, is_exact: bool, n_images: int = N_IMAGES, seed: int = 0) -> Lab:
    """Make images and a backbone in `folder` and extract undisturbed.

    With an ordinary backbone bits change when an image comes to lie elsewhere in its batch. A run
    that goes on after a kill goes on with a whole batch, since parts end with batches, so all come
    to lie where they did. Where single rows are made again, or in batches of another size, an exact
    backbone is needed to tell a wrong row from a rounded one: see `faults_child.make_backbone`.
    """
    folder.mkdir(exist_ok=True)
    lab = Lab(folder, np.random.default_rng(seed))
    lab.photos = make_photos(folder / "photos", n_images, lab.rng)
    path = str(folder / "tiny.keras")
    failed = start("make_backbone", path=path, is_exact=is_exact).result()
    assert failed is None, failed

    lab.whole = lab.new_cache()
    child = lab.start(lab.whole)
    message = child.next()
    assert message == "ready", message
    started = time.monotonic()
    done = child.result()
    lab.seconds = time.monotonic() - started
    lab.events = Counter(done["events"])
    lab.n = lab.counted()
    lab.contents = contents(feature_file(lab.whole))
    lab.read = start("read", path=str(feature_file(lab.whole))).result()
    assert len(lab.contents["failures/id"]) > 1

    lab.in_parts = lab.new_cache()
    first_of_publishing = next(name for name in lab.events if is_of_publishing(name))
    died = lab.extract(lab.in_parts, kill_at=(first_of_publishing, 1))
    assert died == {"died": -9}, died
    lab.counted()
    return lab


def make_photos(root: Path, n_images: int, rng: np.random.Generator) -> Path:
    """Write images in three classes: some TensorFlow decodes, some only Pillow, some nothing.

    They are an hour old, so that their stamps are trusted.
    """
    kinds = (
        ("jpg", "RGB", {"quality": 90}),
        ("png", "RGB", {}),
        ("jpg", "L", {"progressive": True}),
        ("bmp", "RGB", {}),
        ("gif", "P", {}),
        ("png", "RGBA", {}),
        ("jpg", "CMYK", {}),
        ("tif", "RGB", {}),
        ("png", "I;16", {}),
        ("jpg", "RGB", {"subsampling": 2}),
    )
    for number in range(n_images):
        suffix, mode, options = kinds[number % len(kinds)]
        folder = root / ("apple", "pear", "quince")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        size = rng.integers(24, 80, 2)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 1 << 16, size, dtype=np.uint16))
        else:
            bands = 4 if mode in ("RGBA", "CMYK") else 3
            pixels = rng.integers(0, 256, (*size, bands), dtype=np.uint8)
            image = Image.fromarray(pixels, {3: "RGB", 4: mode}[bands]).convert(mode)
        path = folder / f"{number:03} ü.{suffix}"
        image.save(path, **options)
        if number % 25 == 7:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif number % 25 == 17:
            path.write_bytes(b"no image" if number % 2 else b"")
        elif number % 25 == 21:
            shutil.copy(path, folder / f"{number:03} copy.{suffix}")
    for path in root.rglob("*.*"):
        os.utime(path, ns=(path.stat().st_mtime_ns - HOUR_S * 10**9,) * 2)
    return root


def feature_file(cache: Path) -> Path:
    """Return the one feature file of a cache folder."""
    (path,) = cache.glob("*/*.h5")
    return path


def parts(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.parts/part-*.h5"))


def contents(path: Path) -> dict[str, Any]:
    """Return every dataset of an HDF5 file, and its attributes but those that tell the time."""
    found: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            is_text = value.dtype == object
            found[name] = value.tolist() if is_text else (value.dtype, value.shape, value.tobytes())

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(add)
        found |= {
            f"attribute {name}": value
            for name, value in file.attrs.items()
            if name not in ("provenance", "checksum")  # the time of the run, and a digest over it
        }
    return found


def check(
    lab: Lab, cache: Path, row: Row, what: str, expected: dict[str, Any] | None = None
) -> None:
    """Note as problems what differs from an undisturbed run, and what should not be there."""
    expected = expected or lab.contents
    try:
        found = contents(feature_file(cache))
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        row.problems.append(f"{what}: the feature file cannot be read: {error}")
        return
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            row.problems.append(f"{what}: {name} differs")
    row.problems += [f"{what}: {path} is left" for path in leftovers(cache)]
    if (cache / ".gitignore").read_text() != "*\n":
        row.problems.append(f"{what}: .gitignore is incomplete")


def leftovers(cache: Path) -> list[str]:
    """Return what lies in a cache folder and should not."""
    source = feature_file(cache).parent
    wanted = {
        *(cache / name for name in (".gitignore", ".locks", ".models", ".stamps", ".weights.json")),
        *(cache / ".locks").glob("*.lock"),
        *(path for path in (cache / ".models").rglob("*") if ".tmp" not in path.name),
        *(path for path in (cache / ".stamps").rglob("*") if ".tmp" not in path.name),
        source,
        source / "source.json",
        feature_file(cache),
    }
    unwanted = {path for path in cache.rglob("*") if path not in wanted}
    return sorted(str(path.relative_to(cache)) for path in unwanted if path.parent not in unwanted)


def resume(
    lab: Lab,
    cache: Path,
    row: Row,
    what: str,
    at_most: int,
    expected: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Extract again after a fault and check the outcome; at most so many images are computed."""
    lab.counted()
    done = lab.extract(cache, **options)
    computed = lab.counted()
    row.computed_again += computed
    if "path" not in done:
        row.problems.append(f"{what}: {told(done)}")
        return
    if computed > at_most:
        row.problems.append(f"{what}: computed {computed} images, not at most {at_most}")
    check(lab, cache, row, what, expected)


def told(result: dict[str, Any]) -> str:
    """Return in one line how a process failed."""
    return " ".join(str(result.get("message") or result.get("crash") or result).split())[-300:]


# Kills


def kills_at_random_times(lab: Lab, n_kills: int) -> Row:
    """Kill at any time from the first batch to the end."""

    def aim(cache: Path) -> dict[str, Any]:
        child = lab.start(cache)
        message = child.next()
        if message != "ready":
            return message
        time.sleep(lab.seconds * lab.rng.random())
        child.process.kill()
        return child.result()

    return killed_over_and_over(lab, Row("kill -9 at a random time"), n_kills, aim)


def kills_at_events(lab: Lab, n_kills: int, events: list[str] | None = None) -> Row:
    """Kill at any of the steps that change something on disk; `events` names them in turn."""
    hit: Counter[str] = Counter()
    deck: list[str] = list(events or [])

    def aim(cache: Path) -> dict[str, Any]:
        if not deck:  # every kind of step once before one comes again: most are of publishing
            deck.extend(lab.rng.permutation(sorted(lab.events)).tolist())
        name = deck.pop(0)
        nth = 1 if events else int(lab.rng.integers(1, lab.events[name] + 1))
        result = lab.extract(cache, kill_at=(name, nth))
        hit[name] += "died" in result
        return result

    row = killed_over_and_over(lab, Row("kill -9 at a random step"), n_kills, aim)
    publishing = sum(count for name, count in hit.items() if is_of_publishing(name))
    row.happened += f", {publishing} while publishing"
    return row


def is_of_publishing(event: str) -> bool:
    """Return whether a step comes when all rows are computed."""
    steps = ("features.h5", "features.h5.tmp", "unlink part.h5", "rmdir features.h5.parts")
    return event.endswith(steps)


def killed_over_and_over(
    lab: Lab, row: Row, n_kills: int, aim: Callable[[Path], dict[str, Any]]
) -> Row:
    """Run `aim` in a cache folder until it gets through, check, begin anew, until all are done."""
    lab.counted()
    n_rounds, computed, most_lost = 0, 0, 0
    while row.times < n_kills:
        cache, what = lab.new_cache(), "not killed"
        n_rounds += 1
        while True:
            before = sum(map(rows_of, parts(cache)))
            result = aim(cache) if row.times < n_kills else lab.extract(cache)
            now = lab.counted()
            computed += now
            if result.get("died") != -9:
                break
            row.times += 1
            what = f"after kill {row.times}"
            if now:  # and so its rows are in parts, if not yet published
                kept = sum(map(rows_of, parts(cache))) - before
                most_lost = max(most_lost, 0 if list(cache.glob("*/*.h5")) else now - kept)
        if "path" not in result:
            row.problems.append(f"{what}: {told(result)}")
            continue
        check(lab, cache, row, what)
        shutil.rmtree(cache)
    row.computed_again = computed - n_rounds * lab.n
    # a single kill may cost the largest part; many cost no more than ordinary ones
    if row.computed_again > n_kills * (PART_ROWS + IN_FLIGHT) + LARGEST_PART - PART_ROWS:
        row.problems.append(f"computed {row.computed_again} images again in {n_kills} kills")
    if most_lost > LARGEST_PART + IN_FLIGHT:
        row.problems.append(
            f"one kill lost {most_lost} images, a part and what is in flight have "
            f"{LARGEST_PART + IN_FLIGHT}"
        )
    row.happened = f"resumed, finished {n_rounds} times, lost at most {most_lost} images a kill"
    return row


def kills_of_a_repair(lab: Lab, n_kills: int) -> Row:
    """Kill while a feature file is taken apart and put together again."""
    row = Row("kill -9 at a random step of a repair")
    broken = lab.new_cache(like=lab.whole)
    flip(lab, places(feature_file(broken), "features")[0], feature_file(broken))
    undisturbed = lab.repair(lab.new_cache(like=broken))
    events = sorted(undisturbed["events"])
    while row.times < n_kills:
        cache = lab.new_cache(like=broken)
        name = str(lab.rng.choice(events))
        nth = int(lab.rng.integers(1, undisturbed["events"][name] + 1))
        lab.counted()
        if lab.repair(cache, kill_at=(name, nth)).get("died") != -9:
            row.problems.append(f"'{name}' did not happen")
        row.times += 1
        if not list(cache.glob("*/*.h5")):
            lab.extract(cache)
        elif (again := lab.repair(cache)) and "path" not in again:
            row.problems.append(f"'{name}': {told(again)}")
        computed = lab.counted() - CHUNK_ROWS
        row.computed_again += max(0, computed)
        if computed > CHUNK_ROWS:
            row.problems.append(f"'{name}': computed {computed} images more than are damaged")
        check(lab, cache, row, f"'{name}'")
        shutil.rmtree(cache)
    row.happened = "repaired or extracted again"
    return row


def same_process_number(lab: Lab, times: int, events: list[str] | None = None) -> Row:
    """Kill and resume under one process number: in a container every run may have the number 1."""
    row = Row("kill -9, resumed under the same number")
    if events is None:
        events = [name for name in lab.events if name.endswith(".tmp")]
        # the name of a part's temporary file is never used again, so it would stay for ever
        events = ["before replace part.h5.tmp", *lab.rng.permutation(sorted(events)).tolist()]
    for name in events[:times]:
        cache = lab.new_cache()
        lab.counted()
        lab.extract(cache, kill_at=(name, 1), number=1)
        row.times += 1
        row.computed_again += lab.counted() - lab.n
        resume(lab, cache, row, name, lab.n, number=1)
        shutil.rmtree(cache)
    row.happened = "resumed"
    return row


# Damaged files


@dataclass(frozen=True)
class Place:
    """Bytes of an HDF5 file that belong together."""

    name: str
    offset: int
    size: int


def places(path: Path, *names: str) -> list[Place]:
    """Return where each chunk of each dataset lies, or of the named ones."""
    found: list[Place] = []

    def add(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or (names and name not in names):
            return
        if item.chunks is None:
            found.append(Place(name, item.id.get_offset(), item.id.get_storage_size()))
        else:
            for number in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(number)
                found.append(Place(f"{name} chunk {number}", chunk.byte_offset, chunk.size))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(add)
    return found


def between(path: Path, lab: Lab, times: int) -> list[Place]:
    """Return single bytes outside all chunks: headers, indexes, text, unused room."""
    is_metadata = np.ones(path.stat().st_size, bool)
    for place in places(path):
        is_metadata[place.offset : place.offset + place.size] = False
    some = lab.rng.choice(np.flatnonzero(is_metadata), times, replace=False)
    return [Place(f"byte {offset}", offset, 1) for offset in some.tolist()]


def text_sizes(path: Path) -> list[Place]:
    """Return where HDF5 keeps the size of the last text of each heap, if the file has heaps.

    They have no checksum. Where unused room follows, a wrong size can lead HDF5 in circles.
    """
    data = path.read_bytes()
    found = []
    for heap in re.finditer(b"GCOL", data):
        place, size = heap.start(), 0  # of a header of 16 bytes, and of what follows it
        while int.from_bytes(data[(after := place + 16 + (size + 7) // 8 * 8) :][:2], "little"):
            place, size = after, int.from_bytes(data[after + 8 : after + 16], "little")
        found.append(Place(f"size of a text at {place}", place + 8, 1))
    return found


def flip(lab: Lab, place: Place, path: Path) -> None:
    """Change one byte somewhere in a place to another value."""
    data = bytearray(path.read_bytes())
    data[place.offset + int(lab.rng.integers(place.size))] ^= int(lab.rng.integers(1, 256))
    path.write_bytes(data)


def flips_in_parts(lab: Lab, n_parts: int, n_metadata: int) -> Row:
    """Flip a byte in every chunk of some parts, and some bytes between."""
    row = Row("flipped byte in a part")
    for number in range(n_parts):
        intact = parts(lab.in_parts)[number]
        chosen = [*places(intact), *between(intact, lab, n_metadata)]
        chosen += text_sizes(intact) if number == 0 else []
        for place in chosen:
            cache = lab.new_cache(like=lab.in_parts)
            flip(lab, place, parts(cache)[number])
            row.times += 1
            resume(lab, cache, row, f"{place.name} of part {number}", rows_of(intact))
            shutil.rmtree(cache)
    row.happened = "the rows of that part made again"
    return row


def rows_of(part: Path) -> int:
    with h5py.File(part, "r", locking=False) as file:
        return len(file["digests"])


def truncated_parts(lab: Lab, times: int) -> Row:
    """Cut a part short."""
    row = Row("truncated part")
    for number in range(times):
        cache = lab.new_cache(like=lab.in_parts)
        part = parts(cache)[number % len(parts(cache))]
        size = part.stat().st_size
        lengths = (0, size - 1, size // 2, 8, int(lab.rng.integers(size)))
        n_rows, length = rows_of(part), lengths[min(number, 4)]
        os.truncate(part, length)
        row.times += 1
        resume(lab, cache, row, f"part of {length} bytes", n_rows)
        shutil.rmtree(cache)
    row.happened = "its rows made again"
    return row


def deleted_parts(lab: Lab, times: int) -> Row:
    """Delete a part, two, ...: all of them the last time."""
    row = Row("deleted part")
    for number in range(1, times + 1):
        cache = lab.new_cache(like=lab.in_parts)
        some = lab.rng.permutation(np.array(parts(cache)))
        gone = some if number == times else some[:number]
        at_most = sum(map(rows_of, gone))
        for part in gone:
            part.unlink()
        row.times += 1
        resume(lab, cache, row, f"{len(gone)} parts deleted", at_most)
        shutil.rmtree(cache)
    row.happened = "their rows made again"
    return row


def flips_in_the_feature_file(lab: Lab, what: list[Place] | None = None) -> Row:
    """Flip a byte in every chunk of the published file."""
    row = Row("flipped byte in a chunk of the file")
    for place in what or places(feature_file(lab.whole)):
        for first in ("extract", "repair"):
            damage(lab, row, f"{place.name}, {first}", first, functools.partial(flip, lab, place))
    return row


def flips_between_the_chunks(lab: Lab, times: int) -> Row:
    """Flip bytes of the published file that are in no chunk."""
    row = Row("flipped byte between the chunks")
    whole = feature_file(lab.whole)
    for number, place in enumerate([*between(whole, lab, times), *text_sizes(whole)]):
        first = ("extract", "repair")[number % 2]
        damage(lab, row, f"{place.name}, {first}", first, functools.partial(flip, lab, place))
    return row


def truncated_feature_file(lab: Lab, times: int) -> Row:
    """Cut the published file short."""
    row = Row("truncated feature file")
    size = feature_file(lab.whole).stat().st_size
    lengths = [0, size - 1, size // 2, *lab.rng.integers(size, size=times).tolist()]
    for length in lengths[:times]:
        cut = functools.partial(os.truncate, length=length)
        damage(lab, row, f"{length} bytes", "extract", cut)
    return row


def damage(lab: Lab, row: Row, what: str, first: str, harm: Callable[[Path], None]) -> None:
    """Harm a published file: reading it gives the same or a StoreError, and it can be mended.

    It is mended by `first`, extract or repair, and where that was not for it by the other.
    """
    cache = lab.new_cache(like=lab.whole)
    harm(feature_file(cache))
    row.times += 1
    read = start("read", path=str(feature_file(cache))).result()
    is_harmless = read == lab.read
    if not is_harmless and read.get("error") != "StoreError":
        row.problems.append(f"{what}: reading gives {'other rows' if 'X' in read else told(read)}")
    if "hangs" in read:
        return  # and so would all that follows
    lab.counted()
    mend = {"extract": lab.extract, "repair": lab.repair}
    for verb in (first, *(mend.keys() - {first})):
        result = mend[verb](cache)
        # a file that cannot even be opened is none to repair
        if "path" not in result and (verb, result.get("error")) != ("repair", "StoreError"):
            row.problems.append(f"{what}: {verb}: {told(result)}")
        if start("read", path=str(feature_file(cache))).result() == lab.read:
            break
    computed = lab.counted()
    row.computed_again += computed
    if is_harmless and computed:
        row.problems.append(f"{what}: computed {computed} images again though nothing was damaged")
    check(lab, cache, row, what)
    row.outcomes["harmless" if is_harmless else f"StoreError, mended by {verb}"] += 1
    row.happened = ", ".join(f"{count} {name}" for name, count in row.outcomes.items())
    shutil.rmtree(cache)


# No room


COMMAND = "import json, sys, faults_child; faults_child.command_line(*json.loads(sys.argv.pop(1)))"


def featcache(lab: Lab, cache: Path, max_bytes: int | None = None) -> subprocess.CompletedProcess:
    """Run the command `featcache extract` in a process of its own, with parts as small as here.

    Not forked, since how the process ends is looked at, HDF5's own end included.
    """
    arguments = json.dumps([str(lab.folder / "counts"), max_bytes])
    verb = ["extract", str(lab.photos), "--weights", str(lab.folder / "tiny.keras")]
    verb += ["--batch-size", str(BATCH_SIZE)]
    return subprocess.run(
        [sys.executable, "-c", COMMAND, arguments, *verb, "--cache-dir", str(cache)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def no_room(
    lab: Lab, row: Row, what: str, cache: Path, max_bytes: int | None, make_room: Callable[[], None]
) -> None:
    """Run out of room: one line, exit code 1, finished parts stay; with room it goes on."""
    lab.counted()
    done = featcache(lab, cache, max_bytes)
    computed = lab.counted()
    row.times += 1
    # that OpenVINO has no room for a conversion is a warning, and TensorFlow goes on
    expected = ("JPEG library", "Warning: taking TensorFlow instead of OpenVINO")
    complaints = [
        line for line in done.stderr.splitlines() if not any(part in line for part in expected)
    ]
    if done.returncode != 1:
        row.problems.append(f"{what}: exit code {done.returncode}, not 1")
    if len(complaints) != 1 or not complaints[0].startswith("Error: "):
        row.problems.append(f"{what}: not one line of error: {' / '.join(complaints)[-300:]}")
    row.problems += [f"{what}: {path} is left" for path in cache.rglob("*.tmp*")]
    if list(cache.glob("*/*.h5")):
        row.problems.append(f"{what}: there is a feature file")
        return
    kept = sum(map(rows_of, parts(cache)))
    if computed - kept > LARGEST_PART + IN_FLIGHT:
        row.problems.append(f"{what}: of {computed} computed rows only {kept} are kept")
    make_room()
    row.computed_again += computed - lab.n
    resume(lab, cache, row, what, lab.n - kept)


def file_size_limit(lab: Lab, limits: list[int] | None = None) -> Row:
    """Limit the size of a file: while parts are written, when room is reserved, half-way."""
    row = Row("no room: file-size limit")
    whole = feature_file(lab.whole).stat().st_size
    part = max(one.stat().st_size for one in parts(lab.in_parts))
    somewhere = int(lab.rng.integers(whole // 2, whole))
    for limit in limits or [part // 8, part // 2, part - 1, 2 * part, somewhere, whole - 1]:
        cache = lab.new_cache()
        no_room(lab, row, f"at most {limit} bytes a file", cache, limit, lambda: None)
        shutil.rmtree(cache, ignore_errors=True)
    row.happened = "exit code 1, one line; with room resumed"
    return row


def full_disk(lab: Lab, times: int) -> Row:
    """Fill a small disk: while parts are written, when room is reserved, half-way."""
    row = Row("no room: full tmpfs")
    disk = lab.folder / "disk"
    disk.mkdir(exist_ok=True)
    page = os.sysconf("SC_PAGE_SIZE")
    pages = {path: -(-path.stat().st_size // page) for path in parts(lab.in_parts)}
    in_parts, whole = sum(pages.values()), -(-feature_file(lab.whole).stat().st_size // page)
    rooms = (
        lambda: lab.rng.integers(4, in_parts),  # in one of the parts
        lambda: in_parts + 2,  # when room for the file is reserved
        lambda: in_parts + 2 * whole // 3,  # in the file
    )
    for number in range(times):
        free = int(rooms[number % 3]())
        try:
            with mounted(disk):
                ballast = disk / "ballast"
                n_pages = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize // page - free
                ballast.write_bytes(bytes(n_pages * page))
                what = f"{free} pages free, {in_parts} for parts and {whole} for the file"
                no_room(lab, row, what, disk / "cache", None, ballast.unlink)
        except PermissionError as error:
            row.skipped, row.happened = True, str(error)
            return row
    row.happened = "exit code 1, one line; with room resumed"
    return row


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a disk of 1 MiB.

    Raises
    ------
    PermissionError
        When this process may not.
    """
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"mount: {' '.join(done.stderr.split())}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Clocks, and company


def clock_behind(lab: Lab) -> Row:
    """Set the clock back between runs, within one, and after a kill."""
    row = Row("clock goes backwards")
    untrusted = dict(lab.contents)  # a file from the future may change unseen, so it has no stamp
    kind, shape, _ = untrusted["stamps"]
    untrusted["stamps"] = (kind, shape, np.full(shape, -1, kind).tobytes())

    cache = lab.new_cache(like=lab.whole)
    resume(lab, cache, row, "a day back for the second run", 0, clock=-DAY_S)

    cache = lab.new_cache()
    resume(lab, cache, row, "a day back for the first run", lab.n, untrusted, clock=-DAY_S)
    resume(lab, cache, row, "and right again", 0, untrusted)

    cache = lab.new_cache()
    resume(lab, cache, row, "backwards all the time", lab.n, drift=60.0)

    cache = lab.new_cache()
    lab.extract(cache, kill_at=("after replace part.h5.tmp", 3))
    at_most = lab.n - sum(map(rows_of, parts(cache)))
    resume(lab, cache, row, "a day back after a kill", at_most, untrusted, clock=-DAY_S)
    row.computed_again -= 2 * lab.n + at_most  # the first time is not again
    row.times = 4
    row.happened = "nothing made again; future files not trusted"
    return row


def edited_against_the_clock(lab: Lab) -> Row:
    """Edit images so that their times go backwards, or stay the same in the future."""
    row = Row("edited images with older or future times")
    photos = lab.folder / "edited" / "photos"
    for check_by in ("stat", "content"):
        shutil.rmtree(photos, ignore_errors=True)
        shutil.copytree(lab.photos, photos)
        shorter, same_size, future, touched, disguised = some = sorted(photos.rglob("*.bmp"))[:5]
        now_ns = time.time_ns()
        os.utime(future, ns=(now_ns + DAY_S * 10**9,) * 2)
        cache = lab.new_cache()
        assert "path" in lab.extract(cache, photos)

        stamps = {path: path.stat() for path in some}
        shorter.write_bytes(next(photos.rglob("*0 ü.jpg")).read_bytes())
        for path in (same_size, future, disguised):
            data = bytearray(path.read_bytes())
            data[-1] ^= 0x80
            path.write_bytes(data)
        for path in (shorter, same_size, touched):
            os.utime(path, ns=(stamps[path].st_mtime_ns - DAY_S * 10**9,) * 2)
        for path in (future, disguised):
            os.utime(path, ns=(stamps[path].st_atime_ns, stamps[path].st_mtime_ns))
        edited = [same_size, future]
        if check_by == "stat":  # which by its definition cannot see through the disguise
            disguised.unlink()
        else:
            edited.append(disguised)

        undisturbed = lab.new_cache()
        assert "path" in lab.extract(undisturbed, photos)
        expected = contents(feature_file(undisturbed))
        options = {"source": photos, "check": check_by}
        what = f"edited, check by {check_by}"
        before = row.computed_again
        # the shorter one is a copy of an image that has been computed
        resume(lab, cache, row, what, len(edited), expected, **options)
        row.times += len(edited) + 1
        if row.computed_again - before != len(edited):
            row.problems.append(f"{what}: {row.computed_again - before} images made again")
        resume(lab, cache, row, f"{what}, once more", 0, expected, **options)
    row.happened = "each edit noticed, nothing else made again"
    return row


def two_together(lab: Lab, times: int) -> Row:
    """Start two processes together: each image is computed once."""
    row = Row("two processes started together")
    for number in range(times):
        cache = lab.new_cache()
        lab.counted()
        delays = lab.rng.random(2) * (number % 2)
        children = [lab.start(cache, delay=delay) for delay in delays.tolist()]
        results = [child.result() for child in children]
        row.times += 1
        what = f"delays {delays.round(2).tolist()}"
        row.problems += [f"{what}: {told(one)}" for one in results if "path" not in one]
        if (computed := lab.counted()) != lab.n:
            row.problems.append(f"{what}: computed {computed} images, not {lab.n}")
        row.computed_again += computed - lab.n
        check(lab, cache, row, what)
        shutil.rmtree(cache)
    row.happened = "both gave the file"
    return row


def one_of_two_killed(lab: Lab, times: int) -> Row:
    """Start two processes together and kill the one that works: the other goes on."""
    row = Row("two together, the working one killed")
    for number in range(times):
        cache = lab.new_cache()
        lab.counted()
        children = [lab.start(cache) for _ in range(2)]
        ready = wait([child.messages for child in children], TIMEOUT_S)[0]
        children.sort(key=lambda child: child.messages is not ready)
        time.sleep(lab.seconds * lab.rng.random() * 0.8)
        children[0].process.kill()
        killed, other = (child.result() for child in children)
        row.times += "died" in killed
        if "path" not in other:
            row.problems.append(f"{number}: {told(other)}")
        computed = lab.counted() - lab.n
        row.computed_again += computed
        if computed > LARGEST_PART + IN_FLIGHT:
            row.problems.append(f"{number}: computed {computed} images again")
        check(lab, cache, row, f"{number}")
        shutil.rmtree(cache)
    row.happened = "the other took over"
    return row


# The table


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    started = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        lab = make_lab(Path(folder) / "ordinary", is_exact=False, seed=options.seed)
        exact = make_lab(Path(folder) / "exact", is_exact=True, seed=options.seed)
        faults = (
            (kills_at_random_times, lab, options.kills // 2),
            (kills_at_events, lab, options.kills - options.kills // 2),
            (kills_of_a_repair, exact, 6),
            (same_process_number, lab, 3),
            (two_together, lab, 5),
            (one_of_two_killed, lab, 4),
            (file_size_limit, lab),
            (full_disk, lab, 3),
            (truncated_parts, lab, 6),
            (deleted_parts, lab, 3),
            (flips_in_parts, exact, len(parts(exact.in_parts)), 1),
            (flips_in_the_feature_file, exact),
            (flips_between_the_chunks, exact, 30),
            (truncated_feature_file, exact, 4),
            (clock_behind, lab),
            (edited_against_the_clock, exact),
        )
        for fault, *arguments in faults:
            before = time.monotonic()
            row = fault(*arguments)
            row.seconds = time.monotonic() - before
            rows.append(row)
            if not options.json:
                show(row, is_first=len(rows) == 1)
    has_failed = any(row.problems for row in rows)
    if options.json:
        values = {"images": lab.n, "part_rows": PART_ROWS, "rows": [asdict(row) for row in rows]}
        print(json.dumps(values | {"seconds": time.monotonic() - started}))
    else:
        print(f"\n{lab.n} images, parts of {PART_ROWS}; {time.monotonic() - started:.0f} s in all.")
    sys.exit(1 if has_failed else 0)


def show(row: Row, is_first: bool) -> None:
    """Print a line of the table, and below it what is wrong."""
    if is_first:
        print(f"{'fault':<41} {'times':>5} {'again':>6} {'equal':<6} {'s':>4}  what happened")
    equal = "skip" if row.skipped else "no" if row.problems else "yes"
    numbers = f"{row.times:>5} {row.computed_again:>6} {equal:<6} {row.seconds:>4.0f}"
    print(f"{row.fault:<41} {numbers}  {row.happened}{', but:' * bool(row.problems)}", flush=True)
    for problem in row.problems[:SHOWN]:
        print(f"    {problem}")
    if len(row.problems) > SHOWN:
        print(f"    and {len(row.problems) - SHOWN} more")


if __name__ == "__main__":
    main()
