from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from featcache.core.errors import SpecError
from featcache.report import projector

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9), (90, 90, 90)]
X = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
NAMES = ["a.jpg", "tab\there", "line\nbreak\r\nagain", "", "ü \u2028end\ud800"]
CLASSES = ["x", "y", "x", "", "y"]


def thumbnails(size=(20, 20)):
    return [Image.new("RGB", size, colour) for colour in COLOURS]


def fields(folder):
    """The config's fields by name, every value in a list."""
    text = (folder / "projector_config.pbtxt").read_text()
    found = {}
    for name, value in re.findall(r"^ +(\w+): (.+)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    assert text.count("{") == text.count("}") == len(re.findall(r"^ *\w+ \{$", text, re.MULTILINE))
    return found


def test_everything_is_read_back(tmp_path):
    folder = tmp_path / "new" / "projector"
    path = projector.write(folder, X, {"file": NAMES, "class": CLASSES}, thumbnails())
    assert path == folder / "projector_config.pbtxt"
    assert fields(folder) == {
        "tensor_name": ['"features"'],
        "tensor_path": ['"tensors.tsv"'],
        "tensor_shape": ["5", "7"],
        "metadata_path": ['"metadata.tsv"'],
        "image_path": ['"sprite.png"'],
        "single_image_dim": ["20", "20"],
    }
    read = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(read, X, rtol=1e-6)
    lines = (folder / "metadata.tsv").read_bytes().decode().split("\n")
    assert lines == [
        "file\tclass",
        "a.jpg\tx",
        "tab here\ty",
        "line break again\tx",
        "-\t-",
        "ü  end\\ud800\ty",
        "",
    ]
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (60, 60)
        assert sprite.mode == "RGB"
        for number, colour in enumerate(COLOURS):
            assert sprite.getpixel((number % 3 * 20 + 10, number // 3 * 20 + 10)) == colour
        assert sprite.getpixel((50, 30)) == (255, 255, 255)
    assert sorted(path.name for path in folder.iterdir()) == [
        "metadata.tsv",
        "projector_config.pbtxt",
        "sprite.png",
        "tensors.tsv",
    ]


def test_one_column_has_no_header(tmp_path):
    projector.write(tmp_path, X, {"class": CLASSES})
    assert (tmp_path / "metadata.tsv").read_text() == "x\ny\nx\n-\ny\n"
    assert "image_path" not in fields(tmp_path)


def test_features_alone(tmp_path):
    projector.write(tmp_path, np.zeros((3, 4), np.float16))
    assert (tmp_path / "tensors.tsv").read_text() == "0\t0\t0\t0\n" * 3
    assert set(fields(tmp_path)) == {"tensor_name", "tensor_path", "tensor_shape"}
    assert not (tmp_path / "metadata.tsv").exists()


def test_what_lies_there_stays_and_ours_is_replaced(tmp_path):
    (tmp_path / "events.out").write_text("mine")
    (tmp_path / "mine.1.tmp").write_text("mine")
    for name in ("tensors.tsv", "projector_config.pbtxt"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(SpecError, match=f"{name}' was not written by featcache"):
            projector.write(tmp_path, X)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    projector.write(tmp_path, X)
    projector.write(tmp_path, X[:2])
    assert (tmp_path / "events.out").read_text() == (tmp_path / "mine.1.tmp").read_text() == "mine"
    assert len((tmp_path / "tensors.tsv").read_text().splitlines()) == 2


def test_nothing_is_half_written(tmp_path, monkeypatch):
    projector.write(tmp_path, X, None, thumbnails())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Image.Image, "save", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        projector.write(tmp_path, X, None, thumbnails())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_thumbnails_of_other_shapes_get_equal_squares(tmp_path):
    images = [
        Image.new("RGB", (400, 200), "red"),
        Image.new("L", (30, 60), 0),
        Image.new("RGBA", (50, 50), (0, 0, 0, 0)),
    ]
    projector.write(tmp_path, X[:3], None, images)
    assert fields(tmp_path)["single_image_dim"] == ["100", "100"]
    with Image.open(tmp_path / "sprite.png") as sprite:
        assert sprite.size == (200, 200)
        assert sprite.getpixel((50, 50)) == (255, 0, 0)
        assert sprite.getpixel((50, 10)) == (255, 255, 255)
        assert sprite.getpixel((150, 50)) == (0, 0, 0)
        assert sprite.getpixel((110, 50)) == (255, 255, 255)
        assert sprite.getpixel((50, 150)) == (255, 255, 255)


def test_many_thumbnails_shrink_to_the_largest_sprite(tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MAX_SPRITE", 40)
    projector.write(tmp_path, X, None, thumbnails())
    assert fields(tmp_path)["single_image_dim"] == ["13", "13"]
    with Image.open(tmp_path / "sprite.png") as sprite:
        assert sprite.size == (39, 39)
        assert sprite.getpixel((13 + 6, 13 + 6)) == COLOURS[4]


def test_text_is_escaped(tmp_path):
    name = 'a "quoted" \\ name\'s\nü'
    projector.write(tmp_path, X, name=name)
    (quoted,) = fields(tmp_path)["tensor_name"]
    assert quoted.isascii()
    unescaped = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), quoted[1:-1])
    assert unescaped.encode("latin-1").decode() == name


def test_the_config_is_what_protobuf_reads(tmp_path):
    config_pb2 = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    from google.protobuf import text_format

    projector.write(tmp_path, X, {"class": CLASSES}, thumbnails(), name='a "ü"')
    text = (tmp_path / "projector_config.pbtxt").read_text()
    (embedding,) = text_format.Parse(text, config_pb2.ProjectorConfig()).embeddings
    assert embedding.tensor_name == 'a "ü"'
    assert list(embedding.tensor_shape) == [5, 7]
    assert list(embedding.sprite.single_image_dim) == [20, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0],), r"features must be numbers \(n, d\), at least one; got \(7,\), float32"),
        ((X[:0],), "at least one"),
        ((np.array([["a"]]),), "must be numbers"),
        ((np.array([[1.0], [np.nan]]),), "features must be finite; row 1 is not"),
        ((X, {"class": ["a"]}), "The metadata column 'class' has 1 entries for 5 rows"),
        ((X, None, []), "There are 0 thumbnails for 5 rows"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(SpecError, match=message):
        projector.write(tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()
