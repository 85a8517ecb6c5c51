"""Comparing heads on rows that do not fit into memory gives what it gives where they do."""

from __future__ import annotations

import numpy as np

import featcache as fc
from featcache.core import memory
from featcache.heads import linear, shared_passes


def arrays(n=300, d=12):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return rng.standard_normal((3, d))[y] + 1.5 * rng.standard_normal((n, d)), y


def fit(folder, **options):
    given = {"cv": 3, "jobs": 1, "report": False, "show_progress": False} | options
    return fc.fit_heads(arrays(), ["logreg"], folder=folder, **given)


def test_more_rows_than_memory(tmp_path, monkeypatch):
    asked = {"calibrate": "temperature", "learning_curve": True, "repeats": 2}
    here = fit(tmp_path / "here", **asked)
    monkeypatch.setattr(memory, "total_memory", lambda: 10_000)
    monkeypatch.setattr(shared_passes, "BLOCK", 50)
    passes, over = [], shared_passes.Passes.over
    monkeypatch.setattr(
        shared_passes.Passes, "over", lambda self, work: passes.append(self) or over(self, work)
    )
    monkeypatch.setattr(linear.LogisticRegression, "path", None)  # which copies the rows
    there = fit(tmp_path / "there", **asked)
    # as many passes as the longest fit takes, in each step: not for each fit
    n_fits = 3 * 2 * 6
    assert len({id(one) for one in passes}) == 4
    assert len(passes) < 6 * n_fits
    assert [one.name for one in here.results] == [one.name for one in there.results]
    for one, other in zip(here.results, there.results, strict=True):
        assert one.fold_params == other.fold_params
        for metric in ("accuracy", "log-loss"):
            np.testing.assert_allclose(one.scores[metric], other.scores[metric], atol=2e-3)
    np.testing.assert_allclose(
        here.learning_curve["scores"], there.learning_curve["scores"], atol=2e-3
    )
    (logreg,) = [one for one in there.results if one.head == "logreg"]
    assert logreg.fit_s > 0
    X = arrays()[0]
    first, second = (board[logreg.name].head for board in (here, there))
    np.testing.assert_allclose(first.outputs(X), second.outputs(X), atol=2e-3)
