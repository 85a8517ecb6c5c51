"""Seconds and memory of an extraction as the number of images grows, and of running it again.

    python benchmarks/scaling.py [--sizes 1000,4000,16000] [--small] [--json] [--write]

Goals: the time of a further image stays constant within 10 % from 1,000 to 16,000 images; the peak
resident memory grows by less than 150 MB beyond the table of ids; a second run over 10,000
unchanged images takes less than 1.5 s, the whole process counted, without importing TensorFlow.

Photographs of 500 x 375 go through mobilenet-v2 at 96 pixels. With `--small` they are 24 x 24
pixels and the backbone is one convolution, so that n matters alone: for many images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import page
import photos

from featcache.data import openers

N_CLASSES = 20
N_DIFFERENT = 64  # photographs; the others differ in a comment, so that none is a copy
HOUR_S = 3600  # files younger than two seconds are not trusted to be unchanged
CHILD = """
import json, resource, sys
from featcache import extraction
options = json.loads(sys.argv[3])
done = extraction.run(sys.argv[1], cache_dir=sys.argv[2], show_progress=False, **options)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "peak_bytes": peak, "computed": done.n_computed, "hit": done.hit,
    "computing_s": done.computing_s, "tensorflow": "tensorflow" in sys.modules,
}))
"""


def small_images(number: int) -> bytes:
    """Return a JPEG file of 24 x 24 pixels."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def with_comment(data: bytes, number: int) -> bytes:
    """Return a JPEG file of the same pixels and other bytes."""
    comment = f"number {number}".encode()
    length = (len(comment) + 2).to_bytes(2, "big")
    return data[:2] + b"\xff\xfe" + length + comment + data[2:]


def make_images(root: Path, start: int, stop: int, different: list[bytes] | None) -> None:
    """Write JPEG files number `start` to `stop`, each of other bytes."""
    for number in range(start, stop):
        folder = root / f"class {number % N_CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"image {number:06d}.jpg"
        if different is None:
            path.write_bytes(small_images(number))
        else:
            path.write_bytes(with_comment(different[number % len(different)], number))
        then = path.stat().st_mtime - HOUR_S
        os.utime(path, (then, then))


def make_backbone(path: Path) -> None:
    """Write a network of one convolution that gives 1,280 features."""
    from featcache.core.tensorflow import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((24, 24, 3))
    maps = keras.layers.Conv2D(1280, 3, strides=8)(keras.layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, maps).save(path)


def run(root: Path, cache: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Extract in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(root), str(cache), json.dumps(options)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"seconds": time.perf_counter() - started, **json.loads(ran.stdout)}


def id_table_bytes(root: Path) -> int:
    """What the ids, paths, digests, labels and stamps of a source take in memory."""
    source = openers.open_source(root)
    texts = sum(map(sys.getsizeof, (*source.ids, *(source.paths or ()))))
    return texts + len(source) * (8 + 8 + 16 + 8 + 16)


def measured(
    folder: Path, sizes: list[int], is_small: bool, n_again: int = 3
) -> list[dict[str, Any]]:
    """Return one row for each number of images; of `n_again` repeated runs the fastest counts."""
    root, rows, made = folder / "photos", [], 0
    if is_small:
        different = None
        make_backbone(folder / "one.keras")
        options: dict[str, Any] = {"weights": str(folder / "one.keras"), "batch_size": 256}
    else:
        seeds = sorted(photos.make(folder / "seeds", N_DIFFERENT).rglob("*.jpg"))
        different = [path.read_bytes() for path in seeds]
        options = {"backbone": "mobilenet-v2", "weights": "random", "image_size": 96}
    for n in sizes:
        make_images(root, made, n, different)
        made = n
        cache = folder / f"cache-{n}"
        first = run(root, cache, options)
        again = min((run(root, cache, options) for _ in range(n_again)), key=lambda r: r["seconds"])
        assert first["computed"] == n
        assert again["hit"]
        assert not again["tensorflow"]
        rows.append(
            {
                "images": n,
                "first_s": first["seconds"],
                "ms_an_image": 1000 * first["computing_s"] / n,
                "again_s": again["seconds"],
                "peak_bytes": first["peak_bytes"],
                "again_peak_bytes": again["peak_bytes"],
                "id_table_bytes": id_table_bytes(root),
            }
        )
    return rows


def text_of(rows: list[dict[str, Any]]) -> str:
    head = (
        *("images", "first", "an image", "a further image", "again"),
        *("peak memory", "id table", "beyond the first"),
    )
    cells = []
    for before, row in zip([None, *rows], rows, strict=False):
        beyond = row["peak_bytes"] - row["id_table_bytes"]
        beyond -= rows[0]["peak_bytes"] - rows[0]["id_table_bytes"]
        cells.append(
            (
                f"{row['images']}",
                f"{row['first_s']:.1f} s",
                f"{row['ms_an_image']:.3f} ms",
                f"{_further(before, row):.3f} ms" if before else "",
                f"{row['again_s']:.2f} s",
                f"{row['peak_bytes'] / 1e6:.0f} MB",
                f"{row['id_table_bytes'] / 1e6:.1f} MB",
                f"{beyond / 1e6:+.0f} MB",
            )
        )
    return f"{page.machine()}\n\n{page.table(head, cells)}"


def _further(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Return ms that each image more took: what a run costs once is in neither."""
    totals = [one["ms_an_image"] * one["images"] for one in (before, row)]
    return float((totals[1] - totals[0]) / (row["images"] - before["images"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,4000,16000", help="numbers of images, ascending")
    parser.add_argument("--small", action="store_true", help="tiny images, a tiny backbone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put the table in docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [int(size) for size in options.sizes.split(",")]
        rows = measured(Path(folder), sizes, options.small)
    print(json.dumps({"machine": page.machine(), "rows": rows}) if options.json else text_of(rows))
    if options.write:
        page.put("scaling", text_of(rows))


if __name__ == "__main__":
    main()
