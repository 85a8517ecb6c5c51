"""Seconds and memory of an extraction as the number of images grows, and of running it again.

    python benchmarks/scaling.py [--sizes 1000,10000,50000] [--json]

Goals: from 1,000 to 50,000 images the peak resident memory grows by less than 150 MB beyond the
table of ids, and a second run over 10,000 unchanged images takes less than 1.5 s, the whole process
counted, without importing TensorFlow. The images are made up, 24 x 24 pixels, so that n matters and
not their size; the backbone is a small one for the same reason.
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

from featcache import sources

N_CLASSES = 20
HOUR_S = 3600  # files younger than two seconds are not trusted to be unchanged
CHILD = """
import json, resource, sys
from featcache import extraction
done = extraction.run(
    sys.argv[1], weights=sys.argv[2], cache_dir=sys.argv[3], batch_size=256, show_progress=False
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "peak_bytes": peak, "computed": done.n_computed, "hit": done.hit,
    "tensorflow": "tensorflow" in sys.modules,
}))
"""


def make_images(root: Path, start: int, stop: int) -> None:
    """Write JPEG files number `start` to `stop`, each of other bytes."""
    from PIL import Image

    rng = np.random.default_rng(start)
    for number in range(start, stop):
        folder = root / f"class {number % N_CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"image {number:06d}.jpg"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
        then = path.stat().st_mtime - HOUR_S
        os.utime(path, (then, then))


def make_backbone(path: Path) -> None:
    """Write a network of one convolution that gives 1,280 features."""
    from featcache import quiet

    keras = quiet.keras()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((24, 24, 3))
    maps = keras.layers.Conv2D(1280, 3, strides=8)(keras.layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, maps).save(path)


def run(root: Path, backbone: Path, cache: Path) -> dict[str, Any]:
    """Extract in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(root), str(backbone), str(cache)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"seconds": time.perf_counter() - started, **json.loads(ran.stdout)}


def id_table_bytes(root: Path) -> int:
    """What the ids, paths, digests, labels and stamps of a source take in memory."""
    source = sources.open_source(root)
    texts = sum(map(sys.getsizeof, (*source.ids, *(source.paths or ()))))
    return texts + len(source) * (8 + 8 + 16 + 8 + 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,50000", help="numbers of images, ascending")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root, backbone = Path(folder, "photos"), Path(folder, "one.keras")
        make_backbone(backbone)
        made = 0
        for n in map(int, options.sizes.split(",")):
            make_images(root, made, n)
            made = n
            cache = Path(folder, f"cache-{n}")
            first = run(root, backbone, cache)
            again = min((run(root, backbone, cache) for _ in range(3)), key=lambda r: r["seconds"])
            assert first["computed"] == n
            assert again["hit"]
            assert not again["tensorflow"]
            rows.append(
                {
                    "images": n,
                    "first_s": first["seconds"],
                    "again_s": again["seconds"],
                    "peak_bytes": first["peak_bytes"],
                    "again_peak_bytes": again["peak_bytes"],
                    "id_table_bytes": id_table_bytes(root),
                }
            )
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{'images':>7} {'first':>9} {'again':>8} {'peak':>9} {'id table':>9} {'beyond first':>13}"
    )
    for row in rows:
        beyond = row["peak_bytes"] - row["id_table_bytes"]
        beyond -= rows[0]["peak_bytes"] - rows[0]["id_table_bytes"]
        print(
            f"{row['images']:>7} {row['first_s']:>7.1f} s {row['again_s']:>6.2f} s "
            f"{row['peak_bytes'] / 1e6:>6.0f} MB {row['id_table_bytes'] / 1e6:>6.1f} MB "
            f"{beyond / 1e6:>+10.0f} MB"
        )


if __name__ == "__main__":
    main()
