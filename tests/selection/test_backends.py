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
from featcache.core.errors import SpecError

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
    from distributed import Client, LocalCluster

    here = fit(tmp_path / "here", jobs=1)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        there = fit(tmp_path / "dask", backend="dask")
    assert [one.name for one in here] == [one.name for one in there]
    for one, other in zip(here, there, strict=True):
        assert one.fold_params == other.fold_params
        np.testing.assert_allclose(one.scores["accuracy"], other.scores["accuracy"])
        # moments are summed fold by fold here, and for each fit anew there
        np.testing.assert_allclose(one.scores["log-loss"], other.scores["log-loss"], rtol=1e-5)


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_backend_that_is_not_installed(tmp_path, monkeypatch, backend):
    for module in ("distributed", "ray", "ray.util.joblib"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        SpecError, match=rf"is not installed. Run `pip install 'featcache\[{backend}\]'"
    ):
        fit(tmp_path / "h", backend=backend)
    assert not list(tmp_path.glob("h*"))


MEMORY = """
import resource, sys
import numpy as np
import featcache as fc
from featcache import selection, store  # what is imported is no part of what the rows take

features = store.Features(sys.argv[1])
features.metadata
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
board = fc.fit_heads(
    features, ["centroid", "ridge", "lda"], cv=3, jobs=1, report=False, show_progress=False
)
assert board.best.result.mean > 0.2, board
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_features_are_never_copied_whole(tmp_path, monkeypatch):
    """Of 100,000 rows; the mapped features themselves count here as well."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from heads_memory import make

    n_rows, n_features = 100_000, 256
    path: Path = make(tmp_path, n_rows, n_features)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.3 * n_rows * n_features * 4
