"""The same comparison in processes of other kinds, and its memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

import featcache as fc
from featcache.core.errors import EngineError, SpecError

pytestmark = pytest.mark.slow


def arrays(n=120, d=30):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return rng.standard_normal((3, d))[y] + rng.standard_normal((n, d)), y


def fit(folder, **options):
    given = {"cv": 3, "report": False, "show_progress": False} | options
    board = fc.fit_heads(arrays(), ["ridge", "logreg", "knn"], folder=folder, **given)
    return [replace(result, fit_s=0.0, file_digest="") for result in board.results]


@pytest.mark.filterwarnings("ignore")  # whatever the cluster says while it comes and goes
def test_dask_gives_the_same_numbers(tmp_path):
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    here = fit(tmp_path / "here", jobs=1)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        there = fit(tmp_path / "dask", backend="dask", scheduler=cluster.scheduler_address)
    assert [one.name for one in here] == [one.name for one in there]
    for one, other in zip(here, there, strict=True):
        assert one.fold_params == other.fold_params
        np.testing.assert_allclose(one.scores["accuracy"], other.scores["accuracy"])
        # moments are summed fold by fold here, and for each fit anew there
        np.testing.assert_allclose(one.scores["log-loss"], other.scores["log-loss"], rtol=1e-5)


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_backend_that_is_not_installed(tmp_path, monkeypatch, backend):
    for module in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        EngineError, match=rf"is not installed. Run `pip install 'featcache\[{backend}\]'"
    ):
        fit(tmp_path / "h", backend=backend)
    assert not list(tmp_path.glob("h*"))


def test_an_address_of_another_backend(tmp_path):
    with pytest.raises(SpecError, match="scheduler is of dask, and backend is loky"):
        fit(tmp_path / "h", scheduler="tcp://host:8786")
    with pytest.raises(SpecError, match="address is of ray, and backend is dask"):
        fit(tmp_path / "h", backend="dask", address="auto")


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import featcache as fc
from featcache import store

def fit(features):
    heads = ["centroid", "ridge", "lda"]
    return fc.fit_heads(features, heads, cv=3, jobs=1, report=False, show_progress=False)

def peak(of="VmHWM"):
    found = [line for line in Path("/proc/self/status").read_text().splitlines() if of in line]
    return 1024 * int(found[0].split()[1])

rng = np.random.default_rng(0)
fit((rng.standard_normal((60, 256)), np.arange(60) % 2))  # imports all that it needs
features = store.Features(sys.argv[1])
features.metadata
# the peak until now, which is at first that of the process that started this one
Path("/proc/self/clear_refs").write_text("5")
before = peak()
assert fit(features).best.result.mean > 0.2
print(peak() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux says what the peak was"
)
def test_features_are_never_copied_whole(tmp_path, monkeypatch):
    """Mapped features are let go of, and what is computed of a block at a time takes as much as the
    whole of these few; all of them mapped, or a copy of two folds of three, would be 0.7 more."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from heads_memory import make

    n_rows, n_features = 70_000, 256
    path: Path = make(tmp_path, n_rows, n_features)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.5 * n_rows * n_features * 4
