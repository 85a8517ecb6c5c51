from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from featcache.core.errors import SourceError
from featcache.data import openers


def pack(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(photos: Path, label="cls") -> list[tuple[str, bytes]]:
    """WebDataset's layout: an image and its label side by side under one key."""
    members = []
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        key = f"{number:04d}"
        members.append((key + path.suffix, path.read_bytes()))
        if label == "cls":
            members.append((f"{key}.cls", str(number % 11).encode()))
        else:
            about = {"label": path.parent.name, "group": f"g{number // 5}", "width": 3}
            members.append((f"{key}.json", json.dumps(about).encode()))
    return members


def test_shards_give_the_features_of_their_files(photos, extract, tmp_path, images_run):
    of_folder = extract(photos).features
    images_run.clear()
    pack(tmp_path / "shards" / "s0.tar", samples(photos)[:22])
    pack(tmp_path / "shards" / "s1.tar", samples(photos)[22:])
    done = extract(tmp_path / "shards")
    assert done.n_computed == 0
    assert not images_run
    assert done.features.ids[0] == "s0.tar/0000.png"
    assert done.features.ids[-1] == "s1.tar/0020.png"
    np.testing.assert_array_equal(done.features.X, of_folder.X)
    # class indices keep the order of numbers
    assert done.features.class_names == tuple(map(str, range(11)))
    assert done.features.labels.tolist() == [number % 11 for number in range(21)]
    assert extract(tmp_path / "shards").hit


def test_links_are_the_files_that_they_name(photos, tmp_path):
    image = next(photos.rglob("*.png")).read_bytes()
    with tarfile.open(pack(tmp_path / "a.tar", [("./a.png", image), ("a.cls", b"7")]), "a") as tar:
        for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            tar.addfile(link)
    source = openers.open_source(tmp_path / "a.tar")
    assert source.ids == ("a.tar/./a.png", "a.tar/b.png")
    assert [source.get(row) for row in range(2)] == [image, image]
    assert source.labels.tolist() == [0, -1]
    assert source.passed_over.n_files == 1
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link.type, link.linkname = tarfile.LNKTYPE, "gone.png"
        tar.addfile(link)
    with pytest.raises(SourceError, match=r"'c.png' of .* link to 'gone.png'.*hard-dereference"):
        openers.open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_class_and_a_record_the_record_counts(photos, tmp_path, order):
    image = next(photos.rglob("*.png")).read_bytes()
    said = [("a.cls", b"\xef\xbb\xbf7"), ("a.json", b'\xef\xbb\xbf{"label": "x"}')][::order]
    shard = pack(tmp_path / "a.tar", [("a.png", image), *said, ("b.png", image), ("b.cls", b"7")])
    assert openers.open_source(shard).class_names == ("7", "x")


def test_images_in_tar_files_are_decoded_like_files(photos, extract, tmp_path):
    expected = extract(photos, cache_dir=tmp_path / "other").features.X
    shard = pack(tmp_path / "one.tar", samples(photos))
    done = extract(shard)
    assert done.n_computed == 21
    np.testing.assert_allclose(done.features.X, expected, rtol=1e-5, atol=1e-6)


def test_records_and_split_folders(photos, tmp_path):
    members = samples(photos, "json")
    pack(tmp_path / "s" / "train" / "a.tar", members[:30])
    pack(tmp_path / "s" / "test" / "a.tar", members[30:])
    source = openers.open_source(tmp_path / "s")
    assert source.class_names == ("apple", "pear", "quince")
    assert source.splits == ("test",) * 6 + ("train",) * 15
    assert source.annotations.groups[-1] == "g2"


def test_several_images_of_one_key_share_its_label(photos, tmp_path):
    data = next(photos.rglob("*.jpg")).read_bytes()
    members = [("1.left.jpg", data), ("1.right.jpg", data), ("1.cls", b"7"), ("1.txt", b"words")]
    source = openers.open_source(pack(tmp_path / "a.tar", members))
    assert source.ids == ("a.tar/1.left.jpg", "a.tar/1.right.jpg")
    assert source.class_names == ("7",)
    assert source.labels.tolist() == [0, 0]
    assert source.n_passed_over == 1


def test_a_folder_with_images_is_not_of_shards(photos):
    pack(photos / "extra.tar", [("1.jpg", b"x")])
    source = openers.open_source(photos)
    assert len(source) == 21
    assert source.n_passed_over == 1


def test_a_bad_member_is_a_failure(photos, extract, tmp_path):
    members = samples(photos)
    members[4] = (members[4][0], b"broken")
    done = extract(pack(tmp_path / "a.tar", members))
    assert len(done.features) == 20
    assert [failure.id for failure in done.features.failures] == [f"a.tar/{members[4][0]}"]


@pytest.mark.parametrize("keep", [0.3, 0.4, 0.5, 0.6, 0.999])
def test_a_cut_off_shard_is_named(photos, tmp_path, keep):
    shard = pack(tmp_path / "a.tar", samples(photos))
    size = shard.stat().st_size
    # tar files end in blocks of zeros; less than those is still a whole file
    shard.write_bytes(shard.read_bytes()[: int(size * keep) - 10240])
    with pytest.raises(SourceError, match=r"a\.tar' is damaged.*Copy it again"):
        openers.open_source(shard)


@pytest.mark.parametrize(
    ("members", "mode", "message"),
    [
        ([("1.jpg", b"x")], "w:gz", "no plain tar file"),
        ([("../1.jpg", b"x")], "w", r"Member '\.\./1\.jpg' .*leads outside"),
        ([("/1.jpg", b"x")], "w", "leads outside"),
        (
            [("1.jpg", b"x"), ("1.jpg", b"y")],
            "w",
            r"the id 'a\.tar/1\.jpg': .*byte 512 .*byte 1536",
        ),
        ([("1.txt", b"x")], "w", "There are no images in the tar files"),
        ([("1.jpg", b"x"), ("1.json", b"{")], "w", r"Member '1\.json' .*is no JSON"),
        ([("1.jpg", b"x"), ("1.cls", b"\xff")], "w", "is damaged"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, members, mode, message):
    with pytest.raises(SourceError, match=message) as caught:
        openers.open_source(pack(tmp_path / "a.tar", members, mode))
    assert "\n" not in str(caught.value)


def test_no_tar_file_at_all(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar " * 200)
    with pytest.raises(SourceError, match="damaged or no plain tar file"):
        openers.open_source(tmp_path / "a.tar")
