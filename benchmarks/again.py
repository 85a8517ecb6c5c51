"""How long the second time takes: each verb of the main job twice, in processes of their own.

    python benchmarks/again.py [--json]

Goal: extracting again is a hit in under 1 s, TensorFlow not imported. Whole processes are timed,
start-up included; the ratio of the first to the second run is of one sitting on one machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

VERBS = (["extract", "example:clipart"], ["fit-heads"], ["stitch"])
REPEATS = 3  # of the second run; the median counts


def seconds(verb: list[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "featcache", *verb], cwd=folder, check=True, capture_output=True
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for verb in VERBS:
            first = seconds(verb, folder)
            again = sorted(seconds(verb, folder) for _ in range(REPEATS))[REPEATS // 2]
            rows.append({"verb": verb[0], "first_s": first, "again_s": again})
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'verb':<10} {'first':>8} {'again':>8} {'ratio':>6}")
    for row in rows:
        ratio = row["first_s"] / row["again_s"]
        print(f"{row['verb']:<10} {row['first_s']:>6.1f} s {row['again_s']:>6.2f} s {ratio:>6.0f}")


if __name__ == "__main__":
    main()
