"""Images in object storage: the same as in a folder, through faults, and nothing read twice."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import object_storage
import pytest
from conftest import make_photos
from PIL import Image

from featcache.core.errors import SourceError
from featcache.data import openers, retries
from featcache.data.listing import list_images
from featcache.data.sources import kept
from featcache.extraction.embedder import Embedder
from featcache.inference import predict
from featcache.inference.evaluate import evaluate

BUCKET = "photos"


@pytest.fixture
def storage(monkeypatch):
    """The server, whose faults are answered at once."""
    server = object_storage.serve()
    server.reset()
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.01)
    yield server
    server.reset()


@pytest.fixture
def uploaded(photos, storage):
    """A folder with images of every way to the network, and the same in a bucket."""
    palette = Image.open(next(photos.rglob("*.png"))).quantize(7)
    palette.save(photos / "apple" / "a palette #1?.png")
    palette.convert("RGB").save(photos / "pear" / "100% ü.webp")
    files = {
        f"in/{path.relative_to(photos).as_posix()}": path.read_bytes()
        for path in photos.rglob("*.*")
    }
    storage.put(BUCKET, files | {"in/": b"", "in/apple/": b"", "in/readme.txt": b"-"})
    storage.reset()
    return photos


def failing(request, n_before):
    """Let a listing and two of three reads fail, each in a way of its own, and then succeed."""
    if request.method != "GET" or n_before:
        return None
    return [*object_storage.FAULTS, None][sum(request.key.encode()) % 4]


def same(one, other):
    assert one.ids == other.ids
    assert one.labels.tolist() == other.labels.tolist()
    assert one.digests.tobytes() == other.digests.tobytes()
    assert one.X.tobytes() == other.X.tobytes()


def test_a_bucket_gives_what_the_folder_gives_through_every_fault(
    uploaded, storage, extract, tmp_path
):
    local = extract(uploaded, cache_dir=tmp_path / "local")
    storage.fault = failing
    far = extract(f"s3://{BUCKET}/in")
    assert [one.reason for one in far.features.failures] == []
    same(far.features, local.features)
    assert far.n_failed == 0
    faults = [failing(one, 0) for one in storage.requests if one.method == "GET"]
    assert set(faults) >= set(object_storage.FAULTS)
    lost = Counter(
        one.key
        for number, one in enumerate(storage.requests)
        if failing(one, sum(other.path == one.path for other in storage.requests[:number]))
        in ("503", "cut")
    )
    assert set((Counter(storage.got()) - lost).values()) == {1}  # no image twice

    storage.reset()
    again = extract(f"s3://{BUCKET}/in")
    assert again.hit
    assert [one.is_listing for one in storage.requests] == [True]


def test_what_is_new_or_another_is_read_once(uploaded, storage, extract):
    extract(f"s3://{BUCKET}/in/")
    storage.reset()
    new = (uploaded / "pear" / "100% ü.webp").read_bytes()
    old = (uploaded / "apple" / "apple ü0.png").read_bytes()
    for key, data in (("in/apple/apple ü1.jpg", old), ("in/quince/new.webp", new + b"\0")):
        storage.client.put_object(Bucket=BUCKET, Key=key, Body=data)
    storage.reset()
    done = extract(f"s3://{BUCKET}/in/")
    assert sorted(storage.got()) == ["in/apple/apple ü1.jpg", "in/quince/new.webp"]
    assert done.n_computed == 1  # of the other the row was there


def test_more_objects_than_a_page_has_are_listed_page_by_page(storage):
    names = [f"{n % 3}/{n:04d}.png" for n in range(1003)]
    storage.put_many("many", names)
    storage.reset()
    source = openers.open_source("s3://many")
    assert source.ids == tuple(sorted(names))
    assert [one.is_listing for one in storage.requests] == [True, True]
    assert source.name == "many"


def test_odd_keys_are_read_as_they_are(storage):
    keys = [
        "a b/é+&=.png",
        "a//b.png",
        "a/%41.png",
        "a/#?.png",
        "A/x.PNG",
        "a/../up.png",
        "a/0.png",
    ]
    files = {key: key.encode() for key in keys} | {"a/0.png": b""}
    storage.put("odd", {f"p/{key}": data for key, data in files.items()} | {"p": b"-", "p/": b""})
    source = openers.open_source("s3://odd/p")
    assert {id_: source.get(row) for row, id_ in enumerate(source.ids)} == files
    assert source.class_names == ("A", "a", "a b")


def test_an_object_that_is_gone_or_refused_is_a_failure_of_its_own_and_tried_again(
    uploaded, storage, extract
):
    source = openers.open_source(f"s3://{BUCKET}/in")
    gone, broken = "in/apple/apple ü1.jpg", "in/pear/pear ü1.jpg"
    storage.client.delete_object(Bucket=BUCKET, Key=gone)
    storage.reset()
    storage.fault = lambda request, n_before: "cut" if request.key == broken else None
    done = extract(source)
    reasons = {one.id: one.reason for one in done.features.failures}
    assert reasons.keys() == {gone[3:], broken[3:]}
    assert reasons[gone[3:]] == "there is no such object"
    assert "after several attempts" in reasons[broken[3:]]
    assert storage.got().count(broken) == retries.ATTEMPTS

    storage.reset()
    again = extract(f"s3://{BUCKET}/in")
    assert storage.got() == [broken]
    assert (again.n_failed, again.n_computed) == (0, 1)


def test_an_object_that_is_replaced_after_it_was_listed_is_looked_at_again(storage):
    storage.put("other", {"a/x.png": b"one", "a/y.png": b"-"})
    source = openers.open_source("s3://other")
    storage.client.put_object(Bucket="other", Key="a/x.png", Body=b"longer")
    listing = list_images(source)
    known = {"a/x.png": (listing.stamp(0), listing.digests[0].tobytes())}
    storage.reset()
    later = list_images(openers.open_source("s3://other"), known=known)
    assert sorted(storage.got()) == ["a/x.png", "a/y.png"]  # many are read at once
    assert later.digests[0].tobytes() == listing.digests[0].tobytes()


@pytest.mark.parametrize("fault", ["503", "expired"])
def test_a_storage_that_is_gone_ends_the_run_soon(storage, monkeypatch, fault):
    storage.put("dying", {f"a/{n:03d}.png": b"-" for n in range(40)})
    source = openers.open_source("s3://dying")
    storage.reset()
    storage.fault = lambda request, n_before: fault
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    with pytest.raises(SourceError, match=r"'s3://dying' gives nothing any more: .*kept\.$"):
        list_images(source)
    storage.reset()
    assert len(list_images(source).unreadable) == 0


def test_a_storage_that_goes_while_images_are_computed_costs_no_row(
    storage, extract, tmp_path, monkeypatch
):
    folder = make_photos(tmp_path / "photos", 18, classes=tuple("abcde"))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    storage.put("going", files)
    storage.reset()
    storage.fault = lambda request, n_before: "503" if len(storage.got()) > 45 else None
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    with pytest.raises(SourceError, match="'s3://going' gives nothing any more"):
        extract("s3://going")
    storage.reset()
    done = extract("s3://going")
    assert done.n_failed == 0
    assert done.n_reused > 10
    assert len(done.features) == len(files)


def test_what_was_read_is_kept_in_memory_and_then_on_the_disk(monkeypatch):
    monkeypatch.setattr(kept, "MEMORY_BYTES", 10)
    monkeypatch.setattr(kept, "DISK_BYTES", 10)
    made = kept.Kept()
    for name in "abcde":
        made.put(name, name.encode() * 5)
    assert [made.get(name) for name in "abcde"] == [b"aaaaa", b"bbbbb", None, b"ddddd", b"eeeee"]
    made.forget("d")
    assert made.get("d") is None
    assert pickle.loads(pickle.dumps(made)) is made


def manifest(folder: Path, cells: list[str]) -> Path:
    path = folder / "list.csv"
    lines = ["path,label", *(f'"{cell}",{n}' for n, cell in enumerate(cells))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("root", ["s3://photos/in", "{http}/photos/in"])
def test_a_manifest_has_paths_relative_to_a_url(uploaded, storage, root, tmp_path):
    cells = ["apple/a palette #1?.png", "pear/100% ü.webp", "apple/apple ü1.jpg"]
    path = manifest(tmp_path, cells)
    root = root.format(http=storage.url)
    source = openers.open_source(path, root=root)
    assert source.ids == tuple(sorted(cells))
    for row, id_ in enumerate(source.ids):
        assert source.get(row) == (uploaded / id_).read_bytes()
        assert source.stamp(row)[0] == len(source.get(row))
    assert (
        openers.reopen({"source": source.origin, "source_options": source.options}).ids
        == source.ids
    )
    with pytest.raises(SourceError, match="lies outside"):
        openers.open_source(manifest(tmp_path, ["../x.png"]), root=root)


def test_a_manifest_on_a_server_and_urls_in_it_leave_no_secret_anywhere(
    uploaded, storage, extract, tmp_path
):
    secret = "X-Amz-Signature=5ec2e7"
    web = f"{storage.url}/{BUCKET}/in/apple/apple%20%C3%BC1.jpg?{secret}"
    cells = [web, "apple/apple ü0.png", f"s3://{BUCKET}/in/pear/pear ü1.jpg", "apple/none.png"]
    storage.client.put_object(
        Bucket=BUCKET,
        Key="in/l.csv",
        Body=manifest(tmp_path, cells).read_bytes(),
        ACL="public-read",
    )
    url = f"{storage.url}/{BUCKET}/in/l.csv?{secret}"
    done = extract(url)
    assert [one.id for one in done.features.failures] == ["apple/none.png"]
    assert done.features.ids == (
        "apple/apple ü0.png",
        "apple/apple ü1.jpg",
        f"s3://{BUCKET}/in/pear/pear ü1.jpg",
    )
    assert "5ec2e7" not in repr(openers.open_source(url))
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"5ec2e7" in path.read_bytes()]
    assert done.features.provenance["source"] == f"{storage.url}/{BUCKET}/in/l.csv?..."
    with pytest.raises(SourceError, match="Give the images again"):
        openers.reopen(done.features.provenance)

    storage.reset()
    assert extract(url).hit
    assert sorted(storage.got()) == ["in/apple/none.png", "in/l.csv"]


def tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as writer:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.mark.parametrize("where", ["s3://shards", "{http}/shards/train/0.tar"])
def test_of_tar_files_on_a_server_headers_are_read_and_then_each_image_once(
    storage, where, extract, photos
):
    files = {f"{n}.png": next(photos.rglob("*.png")).read_bytes() + bytes(n) for n in range(3)}
    big = {"9.bin": bytes(4_000_000), **files, "0.cls": b"apple"}
    storage.put("shards", {"train/0.tar": tar(big)})
    storage.reset()
    source = openers.open_source(where.format(http=storage.url))
    n_bytes = sum(one.n_bytes for one in storage.requests)
    assert n_bytes < 1_000_000
    assert [id_.rpartition("/")[2] for id_ in source.ids] == sorted(files)
    assert source.class_names == ("apple",)
    storage.reset()
    extract(source)
    assert sorted(one.n_bytes for one in storage.requests) == sorted(map(len, files.values()))
    storage.reset()
    assert extract(source).hit
    assert storage.requests == []


def test_predict_and_embedder_take_urls(uploaded, storage):
    from featcache.extraction.embedder_input import open_images
    from featcache.inference.predict.inputs import opened

    local = str(uploaded / "apple" / "apple ü0.png")
    urls = [f"s3://{BUCKET}/in/{name}" for name in ("pear/pear ü1.jpg", "apple/apple ü1.jpg")]
    (source,) = opened([urls[0], local, urls[1], urls[0]])
    assert source.ids == (urls[0], local, urls[1], urls[0])
    assert source.get(1) == Path(local).read_bytes()
    assert source.get(2) == (uploaded / "apple" / "apple ü1.jpg").read_bytes()
    (folder,) = opened(f"s3://{BUCKET}/in/pear/")
    assert folder.ids == tuple(sorted(folder.ids))
    assert len(folder) == 8
    samples, places = open_images([urls[0], local, urls[1], urls[0]])
    assert [samples.places[place] for place in places] == [urls[0], local, urls[1], urls[0]]
    squeezed = openers.open_source(Path(f"s3://{BUCKET}/in"))
    assert squeezed.origin == f"s3://{BUCKET}/in"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/x", "does not exist: the bucket does not exist"),
        (f"s3://{BUCKET}/nothing", "There is nothing below"),
        (f"s3://{BUCKET}/bucket.tar", "does not exist: there is no such object"),
        ("s3://", "names nothing"),
        ("gs://bucket/x", r"needs gcsfs: pip install 'featcache\[gcs\]'"),
        ("az://bucket/x", r"needs adlfs: pip install 'featcache\[abfs\]'"),
        ("ftp://server/x", r"Nothing is read from 'ftp://'; URLs can begin with s3://"),
        ("file:///tmp", "Give a file's path instead"),
        ("s3://AKIA:5ec2e7@bucket/x", "has a password in it"),
        ("{http}/photos", "a web server does not list its files"),
        ("{http}/photos/none.csv?sig=5ec2e7", "there is no such object"),
        ("{http}/photos/in/readme.tar?sig=5ec2e7", "does not exist"),
        ("http://u:5ec2e7@127.0.0.1:1/l.csv?sig=5ec2e7", "cannot be had: .*after several attempts"),
    ],
)
def test_what_cannot_be_opened_is_one_line_without_secrets(uploaded, storage, url, said):
    with pytest.raises(SourceError, match=said) as caught:
        openers.open_source(url.format(http=storage.url))
    text = str(caught.value)
    assert "\n" not in text
    assert "5ec2e7" not in text
    assert text.rstrip("'").endswith((".", "]", "=true"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_bucket_that_may_not_be_read_says_where_credentials_come_from(
    uploaded, storage, monkeypatch
):
    monkeypatch.setattr(storage, "fault", lambda request, n_before: "403")
    with pytest.raises(SourceError, match=r"may not be read: Access Denied\. Log in by AWS's own"):
        openers.open_source(f"s3://{BUCKET}/in")
    assert len(storage.requests) == 1


def test_models_predict_and_are_judged_on_objects_as_on_files(
    uploaded, storage, lent_models, tmp_path
):
    model = lent_models(tmp_path / "m.keras")
    loaded = predict.load(model)
    local = loaded.predict(str(uploaded), show_progress=False)
    storage.reset()
    far = loaded.predict(f"s3://{BUCKET}/in", show_progress=False)
    assert [one.classes for one in far] == [one.classes for one in local]
    assert [one.scores for one in far] == [one.scores for one in local]
    assert set(Counter(storage.got()).values()) == {1}
    options = {"split": "all", "show_progress": False}
    judged = evaluate(model, f"s3://{BUCKET}/in", **options)
    assert judged.scores == evaluate(model, uploaded, **options).scores


def test_an_embedder_reads_each_object_once(uploaded, storage, tiny_backbone, tmp_path):
    paths = sorted(uploaded.rglob("*.*"))
    urls = [f"s3://{BUCKET}/in/{path.relative_to(uploaded).as_posix()}" for path in paths]
    options = {"weights": str(tiny_backbone), "batch_size": 4}
    expected = Embedder(cache_dir=tmp_path / "local", **options).transform(paths)
    embedder = Embedder(cache_dir=tmp_path / "far", **options)
    assert embedder.transform(urls).tobytes() == expected.tobytes()
    assert set(Counter(storage.got()).values()) == {1}
    storage.reset()
    assert embedder.transform(urls[::-1]).tobytes() == expected[::-1].tobytes()
    assert storage.got() == []


def test_what_a_web_server_refuses_is_said_without_its_url(storage, tmp_path):
    storage.put("web", {"a.png": b"-"})
    storage.client.put_object_acl(Bucket="web", Key="a.png", ACL="private")
    path = manifest(tmp_path, [f"{storage.url}/web/a.png?sig=5ec2e7"])
    source = openers.open_source(path)
    for ask in (source.get, source.stamp):
        with pytest.raises(OSError, match=r"^\[Errno 5\] 403 FORBIDDEN$"):
            ask(0)
    storage.reset()
    storage.fault = lambda request, n_before: "503"
    with pytest.raises(OSError, match=r"^\[Errno 5\] 503 .* \(after several attempts\)$"):
        source.stamp(0)
