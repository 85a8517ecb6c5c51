"""Several backbones, several layers and several views from one look at each image."""

from __future__ import annotations

import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
from conftest import make_image, wrap_runs
from PIL import Image

import featcache as fc
from featcache import extraction, heads, store
from featcache.core.errors import SourceError, SpecError, StoreError
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import augment, decoding, image_ops, loading, openers
from featcache.data.listing import list_images
from featcache.networks import backbones, registry
from featcache.store import cleaning, part_writer


@pytest.fixture
def extract_all(tmp_path):
    """`extraction.run_all` with a cache folder of the test's own."""

    def run(source, backbone=None, **options):
        settings = {"cache_dir": tmp_path / "cache", "batch_size": 4, "show_progress": False}
        return extraction.run_all(source, backbone, **(settings | options))

    return run


@pytest.fixture
def decoded(monkeypatch):
    """How often each file's bytes are asked for to be decoded, by TensorFlow or Pillow."""
    counted: Counter[int] = Counter()
    batches = loading.batches

    def counting(listing, rows, **options):
        counted.update(listing.source.ids[row] for row in rows)
        return batches(listing, rows, **options)

    monkeypatch.setattr(loading, "batches", counting)
    return counted


def test_several_backbones_give_what_each_gives_alone(
    photos, extract_all, two_backbones, decoded, tmp_path
):
    make_image(photos / "pear" / "as.bmp", (200, 10, 10), 7, (31, 22))  # Pillow's
    together = extract_all(photos, two_backbones, weights="random")
    assert set(decoded.values()) == {1}
    assert len(decoded) == 22
    for name, done in zip(two_backbones, together, strict=True):
        (alone,) = extract_all(photos, name, weights="random", cache_dir=tmp_path / name)
        assert done.features.fingerprint == alone.features.fingerprint
        assert done.features.ids == alone.features.ids
        np.testing.assert_array_equal(done.features.X, alone.features.X)
        assert (done.n_computed, done.hit) == (22, False)
    assert [done.features.shape for done in together] == [(22, 5), (22, 6)]
    assert all(done.hit for done in extract_all(photos, two_backbones, weights="random"))


def test_each_backbone_computes_only_what_it_misses(
    photos, extract_all, two_backbones, images_run, decoded
):
    extract_all(photos, two_backbones[0], weights="random")
    make_image(photos / "pear" / "new.png", (1, 2, 3), 900, (30, 30))
    images_run.clear()
    decoded.clear()
    first, second = extract_all(photos, two_backbones, weights="random")
    assert (first.n_computed, first.n_reused) == (1, 21)
    assert (second.n_computed, second.n_reused) == (22, 0)
    assert sum(images_run) == 23
    assert set(decoded.values()) == {1}


def test_layers_share_one_forward_pass(photos, extract, extract_all, tiny_backbone, images_run):
    layers = ["relu_1", "bn_2"]
    together = extract_all(photos, layer=layers, weights=str(tiny_backbone))
    assert sum(images_run) == 21
    for layer, done in zip(layers, together, strict=True):
        assert done.features.spec.layer == layer
        alone = extract(photos, layer=layer, cache_dir=photos.parent / layer)
        np.testing.assert_allclose(done.features.X, alone.features.X, rtol=1e-5, atol=1e-6)


def test_from_python_there_is_one_list_for_several(photos, tiny_backbone, tmp_path):
    some = fc.extract_all(
        photos,
        layers=["relu_1", "relu_2"],
        weights=str(tiny_backbone),
        cache_dir=tmp_path / "cache",
        show_progress=False,
    )
    assert [one.shape for one in some] == [(21, 8), (21, 12)]


def test_a_row_that_fails_for_one_backbone_is_there_for_the_other(
    photos, extract_all, two_backbones, monkeypatch
):
    def huge(run, batch):
        (outputs,) = run(batch)
        factor = 1e8 if outputs.shape[1] == 5 else 1
        return (outputs * np.where(np.arange(len(batch)) == 0, factor, 1)[:, None],)

    wrap_runs(monkeypatch, huge)
    first, second = extract_all(photos, two_backbones, weights="random", dtype="float16")
    assert first.n_failed == 6
    assert second.n_failed == 0
    assert len(second.features) == 21


def test_an_interrupted_run_of_two_goes_on_with_both(
    photos, extract_all, two_backbones, monkeypatch, images_run
):
    monkeypatch.setattr(part_writer, "PART_ROWS", 4)

    def failing(run, batch):
        if sum(images_run) >= 16:
            raise KeyboardInterrupt
        return run(batch)

    with monkeypatch.context() as patch:
        wrap_runs(patch, failing)
        with pytest.raises(KeyboardInterrupt):
            extract_all(photos, two_backbones, weights="random")
    done = extract_all(photos, two_backbones, weights="random")
    assert [one.n_reused for one in done] == [8, 8]
    assert sum(images_run) == 42


def test_two_runs_of_the_same_two_in_either_order_do_not_wait_for_ever(
    photos, extract_all, two_backbones
):
    forward = extract_all(photos, two_backbones, weights="random")
    again = extract_all(photos, two_backbones[::-1], weights="random", overwrite=True)
    assert [one.features.path for one in again] == [one.features.path for one in forward[::-1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backbone": ["vgg16", "resnet50"], "layer": ["x"]},
            "names a layer of one backbone",
        ),
        ({"backbone": ["vgg16", "resnet50"], "weights": "w.h5"}, "'w.h5' are of one backbone; 2"),
        ({"backbone": []}, "must name at least one"),
        ({"backbone": ["vgg16", "resnet"]}, "There is no backbone 'resnet'"),
        ({"views": 0}, "views must be a whole number, 1 to 100; got 0"),
        ({"views": 101}, "views must be a whole number, 1 to 100; got 101"),
        ({"views": True}, "views must be a whole number, 1 to 100; got True"),
        ({"views": "2"}, "views must be a whole number, 1 to 100; got '2'"),
        (
            {"augment": ["flip"]},
            "views is 1, the clean image alone, so there is nothing to augment",
        ),
        ({"layer": [3]}, r"backbone and layer must be names; got \[3\]"),
        ({"views": 3, "augment": ["blur"]}, "augment must be one of flip, crop, color; got 'blur'"),
    ],
)
def test_wrong_use(photos, extract_all, tmp_path, arguments, message):
    with pytest.raises(SpecError, match=message):
        extract_all(photos, **arguments)
    assert not list((tmp_path / "cache").glob("[!.]*"))


def test_one_file_or_several_is_two_functions(photos, tiny_backbone):
    weights = str(tiny_backbone)
    with pytest.raises(SpecError, match=r"layer must be one name; got \['relu_1'\]. For several"):
        fc.extract(photos, layer=["relu_1"], weights=weights)
    with pytest.raises(SpecError, match="extract_all takes layers, a list of names"):
        fc.extract_all(photos, layer="relu_1", weights=weights)
    with pytest.raises(SpecError, match="extract_all knows no option 'colour'"):
        fc.extract_all(photos, colour="red")


def test_two_names_for_the_same_are_one_file(photos, extract_all, two_backbones, monkeypatch):
    monkeypatch.setattr(registry, "DEFAULT", "small-5")
    (done,) = extract_all(photos, [None, "small-5", "small-5"], weights="random")
    assert done.n_computed == 21


def test_one_that_has_no_row_ends_the_run_after_the_other_is_there(
    photos, extract_all, two_backbones, monkeypatch
):
    def huge(run, batch):
        (outputs,) = run(batch)
        return (outputs * (1e8 if outputs.shape[1] == 5 else 1),)

    with monkeypatch.context() as patch:
        wrap_runs(patch, huge)
        with pytest.raises(
            SourceError, match=r"None of 21 images .* could be used for 'small-5-\w+\.h5'"
        ):
            extract_all(photos, two_backbones, weights="random", dtype="float16")
    (other,) = extract_all(photos, two_backbones[1], weights="random", dtype="float16")
    assert other.hit


def test_a_broken_image_alone_builds_no_network(photos, extract, monkeypatch):
    (photos / "pear" / "broken.jpg").write_bytes(b"broken")
    extract(photos, views=3)
    monkeypatch.setattr(backbones, "build", None)
    done = extract(photos, views=2)
    assert (done.n_computed, done.n_failed, done.n_reused) == (0, 1, 21)


def test_a_miss_of_which_rows_are_taken_over_is_none(photos, extract, capsys):
    extract(photos, pooling="max", show_progress=True)
    extract(photos, views=3, show_progress=True)
    assert (
        "No cached features: pooling was max, is avg; views was 1, is 3; augment was nothing"
        in (capsys.readouterr().err)
    )
    extract(photos, views=2, show_progress=True)
    extract(photos, show_progress=True)
    assert "No cached features" not in capsys.readouterr().err


def test_the_nearest_file_says_why(photos, extract_all, two_backbones, capsys):
    extract_all(photos, "small-5", weights="random", show_progress=True)
    extract_all(photos, "small-6", weights="random", show_progress=True)
    assert capsys.readouterr().err == "No cached features: backbone was small-5, is small-6.\n"
    extract_all(photos, "small-5", weights="random", pooling="max", show_progress=True)
    assert capsys.readouterr().err == "No cached features: pooling was avg, is max.\n"
    extract_all(photos, "small-6", weights="random", pooling="max", show_progress=True)
    assert capsys.readouterr().err == "No cached features: pooling was avg, is max.\n"


@pytest.mark.parametrize("option", ["backbone", "layer", "augment"])
@pytest.mark.parametrize("text", ["", " , "])
def test_an_option_that_names_nothing(photos, cli, option, text):
    done = cli("extract", photos, f"--{option}", text, "--views", "2")
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"Error: --{option} names nothing. Name something, or leave it out.\n"
    assert done.stderr == expected


def test_on_the_command_line(photos, cli, two_backbones):
    done = cli("extract", photos, "--backbone", "small-5, small-6", "--weights", "random")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote cache") == 2
    assert done.stdout.splitlines()[-1].startswith("It took ")
    done = cli("extract", photos, "--backbone", "small-5,small-6", "--weights", "random", "--json")
    assert done.stdout.count('"hit": true') == 2
    assert done.stdout.startswith('{"extractions": [')


# Views


def test_views_start_with_the_clean_image_and_differ(photos, extract):
    clean = extract(photos).features
    done = extract(photos, views=4)
    features = done.features
    assert features.spec.augment == ("flip", "crop", "color")
    assert features.views.shape == (21, 4, 12)
    assert features.views.dtype == np.float32
    np.testing.assert_array_equal(features.X, clean.X)
    np.testing.assert_array_equal(features.views[:, 0], clean.X)
    for row in features.views:
        assert len(np.unique(row.round(5), axis=0)) == 4
    with h5py.File(features.path) as file:
        assert file["views"].shape == (21, 4, 12)
        assert file["views"].fletcher32
    with pytest.raises(StoreError, match="has the clean images alone"):
        _ = clean.views


def test_views_of_an_image_do_not_depend_on_the_others(photos, extract, tmp_path):
    all_of_them = extract(photos, views=3).features
    few = tmp_path / "few"
    for id_ in all_of_them.ids[5:9]:
        (few / id_).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / id_, few / id_)
    some = extract(few, views=3, batch_size=5, cache_dir=tmp_path / "other").features
    np.testing.assert_allclose(some.views, all_of_them.views[5:9], rtol=1e-4, atol=1e-5)


def test_views_and_clean_features_lend_each_other_rows(photos, extract, images_run):
    extract(photos)
    assert sum(images_run) == 21
    images_run.clear()
    extract(photos, views=3)
    assert sum(images_run) == 2 * 21  # the clean one was there
    images_run.clear()
    five = extract(photos, views=5)
    assert sum(images_run) == 2 * 21
    assert (five.n_computed, five.n_reused) == (21, 0)
    images_run.clear()
    make_image(photos / "pear" / "new.png", (1, 2, 3), 900, (30, 30))
    done = extract(photos, views=5)
    assert sum(images_run) == 5
    assert (done.n_computed, done.n_reused) == (1, 21)
    images_run.clear()
    assert extract(photos).n_computed == 0
    assert extract(photos, views=2).n_computed == 0
    assert images_run == []
    assert extract(photos, views=2, augment=["flip"]).n_computed == 22  # another recipe
    assert sum(images_run) == 22


def test_a_flipped_view_is_the_flipped_image(photos, extract, tiny_backbone):
    """Straight from Pillow and Keras, for images of which the draw says that they are mirrored."""
    features = extract(photos, views=2, augment="flip").features
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    extractor = backbones.frozen_extractor(backbone, features.spec)
    n_mirrored = 0
    for id_, digest, row in zip(features.ids, features.digests, features.views, strict=True):
        pixels = decoding.decode((photos / id_).read_bytes())
        image = np.asarray(image_ops.resize(pixels, features.spec.geometry))
        mirrored = augment.draws(digest, (1,))[0, 0] < 0.5
        n_mirrored += bool(mirrored)
        expected = extractor((image[:, ::-1] if mirrored else image)[None])[0]
        np.testing.assert_allclose(row[1], expected, rtol=1e-4, atol=1e-5)
    assert 0 < n_mirrored < 21


@pytest.mark.parametrize("way", ["flip", "crop", "color"])
def test_an_augmentation_keeps_shape_and_range(way):
    tf = import_tensorflow()
    rng = np.random.default_rng(0)
    image = tf.constant(rng.uniform(0, 255, (37, 51, 3)).astype(np.float32))
    for number in range(40):
        drawn = tf.constant(rng.random(augment.N_DRAWS).astype(np.float32))
        made = np.asarray(getattr(augment, way)(image, drawn))
        assert made.min() >= 0
        assert made.max() <= 255
        if way == "crop":
            share = made.shape[0] * made.shape[1] / (37 * 51)
            assert 0.45 <= share <= 1.0, (number, made.shape)
        else:
            assert made.shape == (37, 51, 3)


def test_the_extremes_of_a_crop_stay_inside():
    image = import_tensorflow().reshape(np.arange(2 * 3 * 3, dtype=np.float32), (2, 3, 3))
    for drawn in (np.zeros(8), np.full(8, 1 - 2**-24)):
        made = augment.crop(image, drawn.astype(np.float32))
        assert made.shape[0] >= 1
        assert made.shape[1] >= 1


def test_draws_are_uniform_and_the_same_for_ever():
    digests = np.random.default_rng(0).integers(0, 256, (2000, 16), np.uint8)
    drawn = np.stack([augment.draws(digest, (1, 2)) for digest in digests])
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.03)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.08
    # other numbers would be other views under the same fingerprint: a new format version
    np.testing.assert_allclose(
        augment.draws(np.arange(16, dtype=np.uint8), (1,))[0, :3],
        [0.04678595, 0.05253589, 0.22823995],
        atol=1e-6,
    )


def test_a_damaged_chunk_of_views_is_found_and_mended(photos, extract, images_run):
    from featcache.extraction.repair import repair

    features = extract(photos, views=3).features
    before = features.views
    with h5py.File(features.path) as file:
        offset = file["views"].id.get_chunk_info(2).byte_offset
    data = bytearray(features.path.read_bytes())
    data[offset + 40] ^= 1
    features.path.write_bytes(data)
    damaged = store.Features(features.path)
    assert len(damaged.X) == 21
    with pytest.raises(StoreError, match="checksum of rows 0–20 does not match"):
        _ = damaged.views
    damage = store.verify(damaged)
    assert damage.rows == ((0, 20),)
    assert repair(features.path, show_progress=False) == (damage, 21)
    np.testing.assert_allclose(store.Features(features.path).views, before, rtol=1e-4, atol=1e-5)


def test_salvage_keeps_the_whole_views(photos, extract, monkeypatch, images_run):
    from featcache.extraction.repair import repair
    from featcache.store import hdf5

    monkeypatch.setattr(hdf5, "CHUNK_ROWS", 7)
    features = extract(photos, views=3).features
    with h5py.File(features.path) as file:
        offset = file["views"].id.get_chunk_info(4).byte_offset
    data = bytearray(features.path.read_bytes())
    data[offset + 40] ^= 1
    features.path.write_bytes(data)
    images_run.clear()
    assert repair(features.path, show_progress=False)[1] == 7
    assert sum(images_run) == 21
    assert not store.verify(store.Features(features.path))


def test_parts_of_views_are_no_leftovers_and_go_when_they_are_done(photos, extract, monkeypatch):
    monkeypatch.setattr(part_writer, "PART_ROWS", 4)
    done = []

    def failing(run, batch):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return run(batch)

    with monkeypatch.context() as patch:
        wrap_runs(patch, failing)
        with pytest.raises(KeyboardInterrupt):
            extract(photos, views=3)
    cache = photos.parent / "cache"
    assert list(cache.glob("*/*.parts/part-*.h5"))
    assert cleaning.removable(cache) == []
    features = extract(photos, views=3).features
    assert not features.path.with_name(features.path.name + ".parts").exists()


def test_info_names_the_views(photos, extract, cli):
    path = extract(photos, views=3, augment=["crop", "flip"]).features.path
    assert "3: the clean image, 2 by flip, crop" in cli("info", path).stdout


@pytest.fixture
def fitted(monkeypatch):
    """Every call of a head's fit and outputs: rows and groups."""
    calls = []
    kind = heads.CATALOGUE["linear-svm"]
    fit, outputs = kind.fit, kind.outputs

    def watched_fit(self, X, y, groups=None):
        calls.append(("fit", X, y, groups))
        return fit(self, X, y, groups)

    def watched_outputs(self, X):
        calls.append(("outputs", X, None, None))
        return outputs(self, X)

    monkeypatch.setattr(kind, "fit", watched_fit)
    monkeypatch.setattr(kind, "outputs", watched_outputs)
    return calls


def test_heads_train_on_all_views_and_are_judged_on_clean_images(photos, extract, fitted):
    features = extract(photos, views=3).features
    owner = {row.tobytes(): i for i, view in enumerate(features.views) for row in view}
    clean = {row.tobytes() for row in features.X}
    held_out = set(features.rows("test").tolist())
    fc.fit_heads(features, ["linear-svm"], cv=3, jobs=1, report=False, show_progress=False)
    judged, trained_on = [], []
    for what, X, y, groups in fitted:
        X = X.astype(features.dtype)  # a head may be handed the precision it computes in
        rows = [owner[row.tobytes()] for row in X]
        if what == "fit":
            assert all(count == 3 for count in Counter(rows).values())
            np.testing.assert_array_equal(y, features.labels[rows])
            assert len(np.unique([rows, groups], axis=1).T) == len(rows) // 3
            assert not held_out & set(rows)
            trained_on = rows
            continue
        assert all(row.tobytes() in clean for row in X)
        judged.append(set(rows))
        # no view of an image that judges was trained on
        assert judged[-1] == held_out or not judged[-1] & set(trained_on)
    assert judged[-1] == held_out
    assert judged.count(held_out) == 1


def test_fit_heads_on_views_and_stitch(photos, extract, tmp_path, cli):
    features = extract(photos, views=2).features
    dense = {"hidden": (), "epochs": 3}
    quick = {"dense": dense, "cv": 3, "jobs": 1, "report": False, "show_progress": False}
    board = fc.fit_heads(features, ["logreg", "dense"], **quick)
    assert board.n_train + board.n_test == 21
    fc.stitch(board["logreg"], tmp_path / "m.keras", show_progress=False)
    (one,) = fc.load(tmp_path / "m.keras", cache_dir=None).predict(
        photos / "pear" / "pear ü1.jpg", show_progress=False
    )
    assert one.classes[0] in features.class_names
    done = cli("fit-heads", features.path, "--cv", "3", "--heads", "logreg", "--jobs", "1")
    assert f"of {board.n_train} training images, 2 views each, with" in done.stdout


# Decoding at a smaller scale


def large(path, size=(640, 480), **options):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("size", "ratio"),
    [((640, 512), 8), ((640, 511), 4), ((128, 900), 2), ((127, 900), 1), ((255, 255), 2)],
)
def test_the_ratio_keeps_twice_the_size(tmp_path, size, ratio):
    data = large(tmp_path / "x.jpg", size).read_bytes()
    decoded = decoding.decode(data, side=32)
    assert decoded.shape[:2] == (-(-size[1] // ratio), -(-size[0] // ratio))
    assert min(decoded.shape[:2]) >= min(64, *size)


def test_both_decoders_scale_to_the_same_pixels(tmp_path):
    root = tmp_path / "p"
    exif = Image.Exif()
    exif[0x0112] = 6
    large(root / "a" / "plain.jpg")
    large(root / "a" / "progressive.jpg", progressive=True)
    large(root / "b" / "rotated.jpg", exif=exif)
    large(root / "b" / "xmp.jpg", xmp=b'<x tiff:Orientation="1"/>')  # Pillow's
    large(root / "b" / "one.png")
    large(root / "b" / "small.jpg", (100, 90))
    source = openers.open_source(root)
    spec = ExtractionSpec("tiny", "00", (32, 32), "tf", decode_scale=True)
    listing = list_images(source)
    assert listing.orientations[source.ids.index("b/rotated.jpg")] == 6
    assert not listing.orientations[source.ids.index("b/xmp.jpg")]
    seen = {}
    for batch in loading.batches(listing, range(6), specs=[spec], batch_size=2):
        seen.update(zip(batch.rows.tolist(), batch.clean, strict=True))
    assert len(seen) == 6
    for row, pixels in seen.items():
        by_pillow = decoding.decode(source.get(row), side=32)
        expected = image_ops.resize(by_pillow, spec.geometry)
        np.testing.assert_array_equal(pixels, expected)


def test_decode_scale_is_part_of_the_fingerprint(tmp_path, extract):
    large(tmp_path / "p" / "a" / "x.jpg")
    large(tmp_path / "p" / "b" / "x.png")
    plain = extract(tmp_path / "p").features
    scaled = extract(tmp_path / "p", decode_scale=True).features
    assert plain.fingerprint != scaled.fingerprint
    assert np.abs(plain.X[0] - scaled.X[0]).max() > 1e-6
    np.testing.assert_allclose(plain.X[1], scaled.X[1], rtol=1e-5)  # only JPEGs scale


def test_a_faster_decoder_is_part_of_the_fingerprint_and_says_how_far_it_is(
    tmp_path, extract, capsys
):
    large(tmp_path / "p" / "a" / "x.jpg")
    large(tmp_path / "p" / "b" / "x.png")
    exact = extract(tmp_path / "p").features
    fast = extract(tmp_path / "p", decoder="fast", show_progress=True).features
    assert exact.fingerprint != fast.fingerprint
    assert np.abs(exact.X[0] - fast.X[0]).max() > 1e-6
    np.testing.assert_allclose(exact.X[0], fast.X[0], rtol=0.02, atol=1e-3)  # levels off, no more
    np.testing.assert_allclose(exact.X[1], fast.X[1], rtol=1e-5)  # only JPEGs are decoded so
    lengths = np.linalg.norm(exact.X[:], axis=1) * np.linalg.norm(fast.X[:], axis=1)
    cosine = ((exact.X[:] * fast.X[:]).sum(axis=1) / lengths).min()
    assert fast.provenance["cosine_to_exact_decoder"] == pytest.approx(cosine, abs=2e-6)
    assert "cosine_to_exact_decoder" not in exact.provenance
    said = f"decoder fast: cosine similarity to exact {cosine:.4f} (the lowest of 2 images)."
    assert said in capsys.readouterr().err


def test_decode_scale_with_several_backbones_is_of_each_ones_own_size(
    tmp_path, extract_all, two_backbones
):
    large(tmp_path / "p" / "a" / "x.jpg", (500, 400))
    large(tmp_path / "p" / "b" / "y.jpg", (900, 700))
    options = {"weights": "random", "decode_scale": True}
    together = extract_all(tmp_path / "p", two_backbones, **options)
    for name, done in zip(two_backbones, together, strict=True):
        (alone,) = extract_all(tmp_path / "p", name, cache_dir=tmp_path / name, **options)
        np.testing.assert_array_equal(done.features.X, alone.features.X)
