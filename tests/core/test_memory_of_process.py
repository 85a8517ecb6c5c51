"""How much memory there is, and pages of mapped files that are given back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache.core import memory


def test_memory_is_that_of_the_machine_or_of_its_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_LIMITS", (limit, tmp_path / "nothing"))
    of_machine = memory.total_memory()
    assert of_machine > 1 << 28
    limit.write_text("max\n")
    assert memory.total_memory() == of_machine
    limit.write_text("1000000\n")
    assert memory.total_memory() == 1_000_000


def resident(path):
    """Bytes of a mapped file that count as this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is there")
def test_pages_of_a_mapped_file_are_given_back(tmp_path):
    path = tmp_path / "numbers.npy"
    values = np.arange(1 << 18)
    np.save(path, values)
    mapped = np.asarray(np.load(path, mmap_mode="r"))[:, None]
    assert mapped.sum() == values.sum()
    assert resident(path) > values.nbytes / 2
    memory.release(mapped)
    assert resident(path) < values.nbytes / 8
    np.testing.assert_array_equal(mapped[:, 0], values)
    memory.release(values)  # which is no mapping
    assert values[-1] == len(values) - 1
    changed = np.load(path, mmap_mode="c")
    changed[0] = 7
    memory.release(changed)  # or may hold what the file does not
    assert changed[0] == 7
