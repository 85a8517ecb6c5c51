"""Images at a network's size, against Pillow, whose results original preprocessings are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import featcache as fc
from featcache.core.errors import SpecError
from featcache.core.geometry import GREY, Geometry, crop_of, inside, placement, share_of
from featcache.core.spec import ExtractionSpec
from featcache.data import loading
from featcache.data.image_ops import resize, resize_on_gpu
from featcache.extraction.listing import look

SPEC = ExtractionSpec("tiny", "00", (28, 28), "tf")
KERNELS = {"antialias": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def photo(height, width):
    """Smooth and sharp at once, with values at both ends, which cubic kernels overshoot."""
    rows, columns = np.mgrid[:height, :width]
    waves = 127.5 + 127.5 * np.sin(rows / 5)[..., None] * np.cos(columns[..., None] / [3, 4, 7])
    waves[height // 3 : height // 2, width // 4 :] = 255
    return waves.round().astype(np.uint8)


def by_pillow(image, size, method):
    """In float: of bytes Pillow rounds and cuts off between rows and columns."""
    channels = [Image.fromarray(image[..., one].astype(np.float32)) for one in range(3)]
    made = [np.asarray(one.resize(size[::-1], KERNELS[method])) for one in channels]
    return np.clip(np.stack(made, axis=-1), 0, 255)


@pytest.mark.parametrize("method", KERNELS)
@pytest.mark.parametrize("shape", [(60, 45), (45, 61), (20, 23)])
def test_all_of_an_image_is_what_pillow_makes_of_it(method, shape):
    image = photo(*shape)
    found = resize(image, Geometry((28, 28), method))
    np.testing.assert_allclose(found, by_pillow(image, (28, 28), method), atol=1e-2)


@pytest.mark.parametrize("method", KERNELS)
@pytest.mark.parametrize("shape", [(60, 45), (45, 61), (20, 23), (32, 32)])
@pytest.mark.parametrize("size", [(28, 28), (28, 21)])
def test_the_middle_is_what_is_cut_out_after_resizing(method, shape, size):
    image = photo(*shape)
    (height, width), share = size, 0.875
    least = round(height / share), round(width / share)
    factor = max(least[0] / shape[0], least[1] / shape[1])
    new = [max(int(side * factor + 1e-3), low) for side, low in zip(shape, least, strict=True)]
    whole = by_pillow(image, new, method)
    top, left = (new[0] - height) // 2, (new[1] - width) // 2
    found = resize(image, Geometry(size, method, "center 0.875"))
    np.testing.assert_allclose(found, whole[top : top + height, left : left + width], atol=1e-2)


def test_the_largest_middle_of_an_image_of_that_size_is_the_image():
    image = photo(28, 28)
    for method in ("bilinear", "antialias", "bicubic"):
        found = resize(image, Geometry((28, 28), method, "center"))
        np.testing.assert_allclose(found, image, atol=1e-3)


@pytest.mark.parametrize("make", [resize, resize_on_gpu])
@pytest.mark.parametrize("shape", [(60, 45), (45, 61), (20, 23), (1, 90), (32, 32)])
@pytest.mark.parametrize("size", [(28, 28), (28, 21)])
def test_a_letterbox_is_what_pillow_makes_with_grey_beside_it(make, shape, size):
    image, geometry = photo(*shape), Geometry(size, "letterbox")
    ((high, wide),) = inside(np.array([shape]), size).tolist()
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    wanted = np.full((*size, 3), GREY, np.float32)
    wanted[top : top + high, left : left + wide] = by_pillow(image, (high, wide), "antialias")
    found = make(image.astype(np.float32), geometry)
    np.testing.assert_allclose(found, wanted, atol=1e-2)
    ((scales,), (offsets,)) = placement(np.array([shape]), geometry)
    np.testing.assert_allclose(offsets, (top, left))
    np.testing.assert_allclose(scales * shape, (high, wide))


def test_a_letterbox_keeps_proportions_and_fills_one_side():
    sizes = np.random.default_rng(0).integers(1, 5000, (2000, 2))
    new = inside(sizes, (320, 240))
    assert (new <= (320, 240)).all()
    assert (new == (320, 240)).any(axis=1).all()
    exact = sizes * np.minimum(320 / sizes[:, 0], 240 / sizes[:, 1])[:, None]
    assert np.abs(new - np.maximum(exact, 1)).max() <= 0.5


def test_a_letterbox_has_nothing_to_crop():
    with pytest.raises(SpecError, match="letterbox keeps all of an image; leave out crop"):
        replace(SPEC, resize="letterbox", crop="center")


def test_several_geometries_come_from_one_decoding():
    source = fc.open_source([photo(60, 45), photo(45, 61)])
    specs = [SPEC, replace(SPEC, crop="center")]
    specs += [replace(SPEC, resize=method) for method in ("bicubic", "letterbox")]
    listing = look(source, 10**6, {}, False)
    (batch,) = loading.batches(listing, [0, 1], specs=specs, batch_size=4)
    for images, spec in zip(batch.images, specs, strict=True):
        for row, image in enumerate(images[:, 0]):
            wanted = resize(source.contents.get(row), spec.geometry)
            np.testing.assert_allclose(image, wanted, atol=1e-3)


def test_shares_are_written_and_read():
    assert (share_of("none"), share_of("center"), crop_of(1.0)) == (1.0, 1.0, "center")
    assert share_of(crop_of(224 / 256)) == 224 / 256
    assert Geometry((224, 200), "bilinear", "center 0.875").side == 256
    for crop in ("middle", "center 1.5", "center 0", "center 0.0", "center .5", "", None, 0.5):
        with pytest.raises(SpecError, match="crop must be none, or center and a share below 1"):
            replace(SPEC, crop=crop)
