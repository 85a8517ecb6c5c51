from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image
from report_boards import (
    BOLD,
    COPY,
    CURVE,
    HOSTILE,
    ORIGINAL,
    WRONG,
    make_board,
    make_manifest,
    make_photo_board,
)

from featcache import report, store
from featcache.core.errors import HeadError
from featcache.report import charts, findings, pictures

# Findings: numbers that can be counted by hand, or that scikit-learn gives as well


def test_label_suspects_are_the_labels_that_were_changed():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    y = truth.copy()
    changed = rng.choice(400, 20, replace=False)
    y[changed] = (y[changed] + 1) % 4
    p = np.full((400, 4), 0.1)
    p[np.arange(400), truth] = 0.7
    p += rng.uniform(0, 0.1, p.shape)
    p /= p.sum(axis=1, keepdims=True)
    found = findings.label_suspects(p, y)
    # those that are less probable than the average of their class are not certain enough
    assert {one.row for one in found} < set(changed.tolist())
    assert len(found) > 10
    assert all(one.suggested == truth[one.row] and one.given == y[one.row] for one in found)
    assert [one.margin for one in found] == sorted(one.margin for one in found)


def test_a_class_that_a_head_is_always_unsure_of_can_be_suggested():
    # class 1 never gets more than 0.4, and so 0.4 is much for it
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.35, 0.65], [0.7, 0.3], [0.6, 0.4]])
    limits = findings.thresholds(p, np.array([0, 0, 0, 1, 1]))
    assert limits == pytest.approx([(0.9 + 0.9 + 0.35) / 3, 0.35])
    (only,) = findings.label_suspects(p, np.array([0, 0, 0, 1, 1]))
    assert (only.row, only.suggested, only.p_suggested) == (2, 1, 0.65)


def test_a_class_without_images_is_never_suggested():
    p = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    assert findings.label_suspects(p, np.array([0, 0, 1])) == []


def test_surest_mistakes_come_first():
    p = np.array([[0.4, 0.6], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    y = np.array([0, 0, 0, 1])
    assert findings.confident_mistakes(p, y, 5).tolist() == [1, 0]
    assert findings.confident_mistakes(p, y, 1).tolist() == [1]


@pytest.mark.parametrize("shape", [(50, 7), (9, 200), (3, 1)])
def test_principal_components_are_those_of_scikit_learn(shape):
    from sklearn.decomposition import PCA

    X = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    X *= np.linspace(3, 0.1, shape[1])
    k = min(2, *shape)
    got = findings.principal_components(X, 2, 0)
    expected = PCA(k, svd_solver="full").fit_transform(X)
    assert got.shape == (shape[0], k)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=2e-3)


def test_a_sample_has_its_share_of_every_class():
    strata = np.array([0] * 900 + [1] * 90 + [2] * 10)
    some = findings.sample(strata, 100, 0)
    assert np.bincount(strata[some]).tolist() == pytest.approx([90, 9, 1], abs=1)
    assert (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, findings.sample(strata, 100, 0))
    assert findings.sample(strata, 2000, 0).tolist() == list(range(1000))


def test_text_for_plotly_has_no_markup():
    assert charts.plain("<b>a</b> & c") == "&lt;b&gt;a&lt;/b&gt; &amp; c"


# The page


@pytest.fixture(scope="module")
def hostile(tiny_backbone, tmp_path_factory) -> store.Features:
    """Features of images whose classes have names that no page should trust."""
    from featcache import extraction

    folder = tmp_path_factory.mktemp("hostile")
    manifest = make_manifest(folder / "images")
    options = {"weights": str(tiny_backbone), "cache_dir": folder / "cache", "batch_size": 4}
    return extraction.run(manifest, **options, show_progress=False).features


@pytest.fixture
def moved(hostile, tmp_path) -> store.Features:
    """The same in a feature file of this test's own, whose images may be spoilt."""
    path = tmp_path / "cache" / hostile.path.name
    path.parent.mkdir()
    shutil.copyfile(hostile.path, path)
    return store.Features(path)


def read(path: Path) -> str:
    """The page without Plotly's own code, with entities as they are."""
    from plotly.offline import get_plotlyjs

    return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def data_of(page: str, name: str = "data"):
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    return json.loads(text)


def titles(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def test_the_page_has_every_section_in_order(hostile, tmp_path):
    given = {"warnings": ("Look out.",), "left_out": {"dense": "slow"}, "learning_curve": CURVE}
    board = make_photo_board(tmp_path / "heads", hostile, calibrated=True, **given)
    path = report.write_report(board)
    assert path == tmp_path / "heads" / "report.html"
    assert sorted(one.name for one in path.parent.iterdir()) == [
        *("leaderboard.csv", "leaderboard.json", "out_of_fold.npz", "report.html"),
    ]
    page = read(path)
    assert titles(page) == [
        *("Leaderboard", "Classes", "Reliability", "Learning curve", "Map of the images"),
        *("Surest mistakes", "Likely label errors", "Near-duplicates across the parts"),
        "Provenance",
    ]
    for text in ("Look out.", "slow", "More labels would help.", hostile.fingerprint, "calibrated"):
        assert text in page
    assert page.count("not scored") == 2
    assert f"featcache fit-heads {hostile.path} --heads logreg --metric accuracy --cv 3" in page


def test_the_page_loads_nothing(hostile, tmp_path):
    page = read(report.write_report(make_photo_board(tmp_path, hostile)))
    assert "default-src 'none'" in page
    for address in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')> ]+)""", page):
        assert address.startswith(("#", "data:")) or "://" not in address, address
    assert "http://" not in page
    assert "https://" not in page


def test_names_from_outside_stay_text(hostile, tmp_path):
    page = read(report.write_report(make_photo_board(tmp_path, hostile)))
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("</script>") == 4
    assert data_of(page)["points"]["classes"] == sorted([BOLD, HOSTILE, "plain"])
    from featcache.report import rendering

    lines = rendering.as_data({"a": "\u2028</script><!--&"})
    assert not set("\u2028<>&") & set(lines)
    assert json.loads(lines) == {"a": "\u2028</script><!--&"}


def test_the_wrong_label_and_the_copy_are_found(hostile, tmp_path):
    board = make_photo_board(tmp_path, hostile)
    first, *_ = report.label_suspects(board)
    assert first["id"] == hostile.ids[first["row"]] == WRONG
    assert (first["part"], first["given"], first["suggested"]) == ("train", BOLD, HOSTILE)
    page = read(report.write_report(board))
    pair = page[page.index('class="gallery pairs"') :]
    assert pair.index(ORIGINAL) < pair.index(COPY) < pair.index("same file")
    assert "1 of them with the same bytes" in page


def test_pictures_are_of_the_very_images(moved, tmp_path):
    page = read(report.write_report(make_photo_board(tmp_path, moved)))
    taken = data_of(page, "pictures")
    assert len(taken) == len(moved) == 36
    import base64
    import io

    from PIL import Image

    for row, uri in taken.items():
        image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")
        assert max(image.size) <= pictures.SIDE
        strongest = np.asarray(image).reshape(-1, 3).mean(axis=0).argmax()
        assert ("red", "green", "blue")[strongest] == moved.ids[int(row)].split()[0]


def test_a_changed_image_has_no_picture(moved, monkeypatch, tmp_path):
    manifest = make_manifest(tmp_path / "images")
    make_image(manifest.parent / "red 5.png", (0, 0, 0), 1, (30, 30))
    (manifest.parent / "red 6.png").unlink()
    provenance = moved.provenance | {"source": str(manifest), "source_options": {}}
    moved.provenance = provenance
    taken = pictures.collect(moved, range(len(moved)))
    gone = {row for row, id_ in enumerate(moved.ids) if id_ in ("red 5.png", "red 6.png")}
    assert set(taken.uris) == set(range(36)) - gone
    assert taken.note == "2 of the images are gone or have changed and have no picture."


def test_pictures_stay_within_their_budget(moved):
    whole = pictures.collect(moved, range(36)).uris
    budget = sum(map(len, whole.values())) // 2
    taken = pictures.collect(moved, [30, 31], range(36), budget_bytes=budget)
    assert {30, 31} <= set(taken.uris)
    assert 10 < len(taken.uris) < 26
    assert sum(map(len, taken.uris.values())) <= budget
    assert "of 36 images have a picture" in taken.note


def test_without_the_images_the_page_has_no_pictures(moved, tmp_path):
    moved.provenance = moved.provenance | {"source": str(tmp_path / "nowhere")}
    taken = pictures.collect(moved, [0])
    assert taken.uris == {}
    assert taken.note == (
        f"There are no pictures: the images are no longer at '{tmp_path / 'nowhere'}'."
    )


@pytest.mark.parametrize("how", ["gone", "other"])
def test_without_the_features_the_page_has_no_map(moved, tmp_path, how):
    board = make_photo_board(tmp_path / "heads", moved)
    if how == "gone":
        moved.path.unlink()
    else:
        board = replace(board, features=(replace(board.features[0], content="0" * 32),))
    page = read(report.write_report(board))
    assert data_of(page)["points"] is None
    said = {"gone": "is gone or damaged", "other": "was rewritten since"}[how]
    assert f"{moved.path}&#39; {said}: there are no names" in page
    assert report.label_suspects(board)[0]["id"].startswith("row ")


def test_several_labels(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 3))
    seen = y.copy()
    seen[8, 1] = 1 - y[8, 1]
    board = make_board(tmp_path, y, ("a", "b", "c"), task="multi-label", seen=seen)
    page = read(report.write_report(board))
    assert titles(page)[:2] == ["Leaderboard", "Labels"]
    assert "Reliability" not in page
    assert "average precision" in page
    given, other = ("b", "not b") if y[8, 1] else ("not b", "b")
    first = next(one for one in report.label_suspects(board) if one["id"] == "row 8")
    assert (first["given"], first["suggested"]) == (given, other)


def test_targets(tmp_path):
    y = np.random.default_rng(0).standard_normal((40, 2))
    board = make_board(tmp_path, y, ("height", "<b>width</b>"), task="regression")
    page = read(report.write_report(board))
    assert "Largest errors" in titles(page)
    assert "Likely label errors" not in titles(page)
    figures = data_of(page)["charts"]
    assert list(figures) == ["target-0", "target-1"]
    layout = figures["target-1"]["layout"]
    assert layout["xaxis"]["title"]["text"] == "true &lt;b&gt;width&lt;/b&gt;"
    assert report.label_suspects(board) == []


def test_scores_alone(tmp_path):
    y = np.arange(60) % 3
    board = make_board(tmp_path, y, ("a", "b", "c"), kinds={"linear-svm": "scores"})
    page = read(report.write_report(board))
    assert "Reliability" not in page
    assert "one temperature made them probabilities" in page
    assert "plain arrays" in page
    assert "No other head is level" not in page


def test_one_hundred_classes(tmp_path):
    y = np.arange(400) % 100
    page = read(
        report.write_report(make_board(tmp_path, y, tuple(f"class {n}" for n in range(100))))
    )
    figure = data_of(page)["charts"]["confusion"]
    assert len(figure["layout"]["xaxis"]["tickvals"]) <= charts.MAX_LABELS
    assert len(figure["cells"][0]) <= 400
    assert sum(figure["cells"][2]) == 320


def test_two_pages_of_one_board_are_the_same(hostile, tmp_path):
    board = make_photo_board(tmp_path / "heads", hostile)
    one = report.write_report(board, out=tmp_path / "one.html", tsne=True)
    two = report.write_report(board, tmp_path / "heads", out=tmp_path / "two.html", tsne=True)
    assert one.read_bytes() == two.read_bytes()
    assert "t-SNE" in read(one)
    assert not (tmp_path / "heads" / "report.html").exists()


def test_without_predictions_there_is_no_page(tmp_path):
    board = make_board(tmp_path, np.arange(30) % 3, ("a", "b", "c"))
    (tmp_path / "out_of_fold.npz").write_bytes(b"damaged")
    with pytest.raises(HeadError, match="missing or damaged"):
        report.write_report(board)
    assert not (tmp_path / "report.html").exists()


def test_wrong_labels_of_the_clip_art_are_among_the_first(clipart_board, tmp_path):
    found = [one["id"] for one in report.label_suspects(clipart_board, 25)]
    known = ("bird/mirjam", "vehicle/lighthouse", "plant/bypasspruner", "plant/christmas-balls")
    assert sum(any(id_.startswith(name) for id_ in found) for name in known) >= 3
    path = report.write_report(clipart_board, out=tmp_path / "clipart.html")
    assert path.stat().st_size < 8_000_000
    assert len(data_of(read(path), "pictures")) == 543
