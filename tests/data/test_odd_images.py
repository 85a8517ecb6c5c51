"""Every file of `odd_images` becomes its own row, a failure with a reason, or is passed over."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import odd_images
import pytest
from odd_images import ALL_BAD, ALL_GOOD, BAD, EITHER, GOOD, MAX_PIXELS, PASSED_OVER, Expected

from featcache.core.geometry import Geometry
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import image_ops, loading, openers
from featcache.data.listing import list_images
from featcache.networks import backbones

# Levels of 255, at the network's size. None: Pillow decodes all but plain JPEG and PNG files, and
# TensorFlow decodes those to Pillow's very pixels, JPEG by its accurate integer transform. Both
# are then resized by the same op.
TOLERANCE = 0.0
SIZE = (32, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("odd") / "corpus"


@pytest.fixture(scope="module")
def expected(root) -> dict[str, Expected]:
    return odd_images.write(root)


def ids_of(expected: dict[str, Expected], verdict: str) -> list[str]:
    return sorted(id_ for id_, one in expected.items() if one.verdict == verdict)


def not_dividing(n: int) -> int:
    """Return a batch size that leaves an incomplete last batch of n images."""
    return next(size for size in (7, 8, 9) if n % size)


def at_size(one: Expected) -> np.ndarray:
    with import_tensorflow().device("/CPU:0"):  # where `tf.data` resizes
        return image_ops.resize(one.pixels, Geometry(SIZE, "bilinear")).numpy()


def as_tar(root: Path, expected: dict[str, Expected]) -> Path:
    """Pack what can be read into a tar file beside `root`."""
    source = openers.open_source(root)
    path = root.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for row, id_ in enumerate(source.ids):
            if not id_.startswith("links/"):
                data = source.get(row)
                member = tarfile.TarInfo(id_)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_corpus_is_what_it_is_meant_to_be(expected):
    print(odd_images.summary(expected))
    assert len(expected) >= 150
    odd = {
        id_: one.why or one.verdict
        for id_, one in expected.items()
        if one.verdict != PASSED_OVER
        and one.verdict != (GOOD if id_.split("/")[0] in ALL_GOOD else BAD)
        and id_.split("/")[0] not in EITHER
    }
    assert odd == {}
    assert {id_.split("/")[0] for id_ in ids_of(expected, BAD)} == {*EITHER, *ALL_BAD}
    assert {id_.split("/")[0] for id_ in ids_of(expected, GOOD)} == {*EITHER, *ALL_GOOD}


def test_every_file_is_a_row_or_a_failure_and_a_second_run_a_hit(
    root, expected, extract, images_run
):
    good, bad = ids_of(expected, GOOD), ids_of(expected, BAD)
    options = {"max_pixels": MAX_PIXELS, "batch_size": not_dividing(len(good))}
    first = extract(root, **options)
    reasons = {failure.id: failure.reason for failure in first.features.failures}
    assert set(first.features.ids) ^ set(good) == set()
    assert first.features.ids == tuple(good)
    assert sorted(reasons) == bad
    assert all(reason.strip() and len(reason.splitlines()) == 1 for reason in reasons.values())
    assert all(str(MAX_PIXELS) in reasons[id_] for id_ in bad if id_.startswith("too large/"))
    assert first.n_passed_over == len(ids_of(expected, PASSED_OVER))
    assert first.n_failed == len(bad)
    source = openers.open_source(root)
    contents = {source.get(row) for row, id_ in enumerate(source.ids) if id_ in set(good)}
    assert sum(images_run) == first.n_computed == len(contents)  # copies are computed once
    labels = [first.features.class_names[label] for label in first.features.labels]
    assert labels == [id_.split("/")[0] for id_ in good]

    images_run.clear()
    second = extract(root, **options)
    assert second.hit
    assert (second.n_computed, images_run) == (0, [])
    assert second.features.ids == first.features.ids
    assert second.features.failures == first.features.failures
    np.testing.assert_array_equal(second.features.X, first.features.X)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_pixels_of_row_i_are_those_of_image_i(kind, root, expected):
    source = openers.open_source(root if kind == "folder" else as_tar(root, expected))
    ids = [id_.removeprefix(f"{root.name}.tar/") for id_ in source.ids]
    listing = list_images(source, MAX_PIXELS)
    rows = [row for row in range(len(source)) if row not in listing.unreadable]
    failures: dict[int, str] = {}
    differences: dict[str, float] = {}
    for batch in loading.batches(
        listing,
        rows,
        specs=[ExtractionSpec("tiny", "00", SIZE, "tf")],
        batch_size=not_dividing(len(rows)),
    ):
        failures.update((row, one.reason) for row, one in batch.failures.items())
        for row, pixels in zip(batch.rows.tolist(), batch.clean, strict=True):
            assert ids[row] not in differences  # every row comes once
            one = expected[ids[row]]
            wrong = np.inf if one.pixels is None else np.abs(pixels - at_size(one)).max()
            differences[ids[row]] = float(wrong)
    assert {id_: wrong for id_, wrong in differences.items() if wrong > TOLERANCE} == {}
    assert sorted(differences) == [id_ for id_ in ids_of(expected, GOOD) if id_ in set(ids)]
    assert sorted(ids[row] for row in failures) == [
        id_ for id_ in ids_of(expected, BAD) if not id_.startswith("links/")
    ]


def test_features_of_row_i_are_those_of_image_i_alone(root, expected, extract, tiny_backbone):
    features = extract(root, max_pixels=MAX_PIXELS, batch_size=8).features
    backbone = backbones.build("tiny.keras", str(tiny_backbone), SIZE)
    extractor = import_tensorflow().function(backbones.frozen_extractor(backbone, features.spec))
    good = [row for row, id_ in enumerate(features.ids) if expected[id_].verdict == GOOD]
    ids = [features.ids[row] for row in good]
    pixels = np.stack([at_size(expected[id_]) for id_ in ids])
    alone = np.concatenate([extractor(image[None]) for image in pixels])
    is_close = np.isclose(features.X[good][:, None], alone[None], rtol=1e-4, atol=1e-5).all(axis=2)
    wrong = [id_ for row, id_ in enumerate(ids) if not is_close[row, row]]
    assert wrong == []
    # nor could another image's features be taken for them, but where it is the same image
    inputs = [image.tobytes() for image in pixels]
    np.testing.assert_array_equal(is_close, [[a == b for b in inputs] for a in inputs])
