"""Searching a feature file: what is found, by which way, and what is said of odd questions."""

from __future__ import annotations

import json

import numpy as np
import pytest

import featcache as fc
from featcache.core.errors import SpecError
from featcache.inference.search import index
from featcache.store import cleaning


def cosines(features, vector):
    """The cosine of every row with a vector, in plain NumPy."""
    X = features.X.astype(np.float64)
    return X @ vector / np.linalg.norm(X, axis=1) / np.linalg.norm(vector)


def test_the_nearest_rows_come_first_with_their_distance(features):
    found = fc.search(features, rows=[3], k=5)
    expected = np.argsort(-cosines(features, features.X[3].astype(float)), kind="stable")
    assert [one.row for one in found] == [row for row in expected.tolist() if row != 3][:5]
    for one in found:
        cosine = cosines(features, features.X[3].astype(float))[one.row]
        assert one.distance == pytest.approx(1 - cosine, abs=1e-5)
        assert one.id == features.ids[one.row]
        assert one.label == features.class_names[features.labels[one.row]]
    assert fc.search(features, rows=[features.ids[3]], k=5) == found
    assert len(fc.search(features, rows=[3], k=500)) == len(features) - 1


def test_images_are_the_rows_that_were_made_of_them(features, photos):
    row = 7
    path = photos / features.ids[row]
    found = fc.search(features, path, k=3)
    assert fc.search(features, [str(path)], k=3) == found
    folder = fc.search(features, photos / "pear", k=3)
    assert {one.label for one in folder} == {"pear"}
    assert (found[0].row, found[0].distance) == (row, pytest.approx(0, abs=1e-5))
    vector = fc.search(features, features.X[row], k=3)
    assert [one.row for one in vector] == [one.row for one in found]


def test_classes_and_what_is_not_wanted(features):
    X = features.X / np.linalg.norm(features.X, axis=1, keepdims=True)
    names = features.class_names
    means = [X[features.labels == number].mean(axis=0) for number in range(len(names))]
    directions = [mean / np.linalg.norm(mean) for mean in means]
    (plain,) = fc.search(features, classes=[names[0]], k=1)
    assert plain.row == int(cosines(features, directions[0].astype(float)).argmax())
    found = fc.search(features, classes=[names[0]], unlike=[names[1]], k=4)
    wanted = directions[0] - 0.5 * directions[1]
    order = np.argsort(-cosines(features, wanted.astype(float)), kind="stable")
    assert [one.row for one in found] == order[:4].tolist()


def test_an_index_finds_the_same_is_kept_completed_and_cleaned(
    features, photos, extract, monkeypatch, capsys
):
    pytest.importorskip("usearch")
    exact = fc.search(features, rows=[3], k=50)
    found = fc.search(features, rows=[3], k=50, use_index=True)
    # half precision is kept, in which the nearest of these are as near as others
    assert {one.row for one in found} == {one.row for one in exact}
    far = {one.row: one.distance for one in exact}
    for one in found:
        assert one.distance == pytest.approx(far[one.row], abs=2e-3)
    path = features.path.with_suffix(".index")
    assert "it finds 100.0% of the 10 nearest rows" in capsys.readouterr().err
    before = path.stat().st_mtime_ns
    fc.search(features, rows=[3], use_index=True)
    assert path.stat().st_mtime_ns == before
    gone = features.ids[exact[0].row]
    (photos / gone).unlink()
    (photos / "pear" / "copy.jpg").write_bytes((photos / features.ids[3]).read_bytes() + b"x")
    made = extract(photos).features
    again = fc.search(made, rows=[features.ids[3]], k=50, use_index=True)
    assert "pear/copy.jpg" in {one.id for one in again}  # the same pixels
    assert gone not in {one.id for one in again}
    path.write_bytes(b"no index")
    assert fc.search(made, rows=[features.ids[3]], k=50, use_index=True) == again
    made.path.unlink()
    why = {one.path: one.why for one in cleaning.removable(made.path.parent.parent)}
    assert why[path] == "an index of a feature file that is gone"


def test_beyond_so_many_rows_it_is_the_index(features, monkeypatch):
    pytest.importorskip("usearch")
    from featcache.inference.search import api

    monkeypatch.setattr(api, "EXACT_ROWS", 20)
    fc.search(features, rows=[0])
    assert features.path.with_suffix(".index").exists()
    assert index.EXACT_ROWS == 200_000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "Say what to look for: images, rows"),
        ({"rows": ["nowhere.jpg"]}, "There is no image 'nowhere.jpg' in"),
        ({"rows": [99]}, "has rows 0 to 20; got 99"),
        ({"classes": ["plum"]}, "has no class 'plum'; it has"),
        ({"like": np.zeros(3, np.float32)}, "vectors must have the 12 features of"),
        ({"rows": [1], "k": 0}, "k must be a whole number, 1 or more"),
    ],
)
def test_odd_questions_get_one_line(features, asked, said):
    with pytest.raises(SpecError, match=said):
        fc.search(features, **asked)


def test_the_verb_prints_writes_and_shows(features, cli, tmp_path):
    ran = cli("search", "--features", features.path, "--class", "pear", "--k", 3, "--json")
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["found"]) == 3
    for name in ("found.csv", "found.html"):
        ran = cli("search", "--features", features.path, "--row", "0", "--out", tmp_path / name)
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "found.csv").read_text(encoding="utf-8").startswith("id,row,distance,label")
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert page.count("<img class=") == 10
    assert len(page) < 200_000
    ran = cli("search", "--features", features.path, "--row", "0", "--out", tmp_path / "a.txt")
    assert (ran.returncode, "must end in .csv or .html" in ran.stderr) == (2, True)
