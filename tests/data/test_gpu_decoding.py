"""JPEGs decoded by another decoder than TensorFlow's: a made-up one, and nvImageCodec on a CPU."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from featcache.core.errors import SpecError
from featcache.core.geometry import Geometry
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import gpu_decoding, image_ops, loading, nvimagecodec, openers
from featcache.data.listing import list_images
from featcache.models import judged_on

EXACT = ExtractionSpec("tiny", "00", (24, 20), "tf")
N = 19  # files of `folder` that are no rubbish


class MadeUp:
    """Decodes as Pillow does, and shows that it did by giving the negative, unless it is exact."""

    device = "/CPU:0"

    def __init__(self, exact=False, refuses=lambda height, width: False):
        self.exact, self.refuses = exact, refuses
        self.calls: list[list[tuple[int, int]]] = []  # sizes of what was decoded at once

    def opened(self, data):
        if not data.startswith(b"\xff\xd8"):
            return None
        image = Image.open(io.BytesIO(data))
        return SimpleNamespace(height=image.height, width=image.width, data=data)

    def decode(self, opened):
        self.calls.append([(one.height, one.width) for one in opened])
        return [self._image(one) for one in opened]

    def _image(self, one):
        if self.refuses(one.height, one.width):
            return None
        pixels = np.asarray(Image.open(io.BytesIO(one.data)).convert("RGB"))
        pixels = pixels if self.exact else 255 - pixels
        return SimpleNamespace(height=one.height, width=one.width, pixels=pixels)

    def as_tensor(self, image):
        return import_tensorflow().constant(image.pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of many sizes and kinds: JPEGs by turns, and others in between."""
    root = tmp_path_factory.mktemp("many") / "a"
    root.mkdir()
    rng = np.random.default_rng(0)

    def image(height, width):
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        return small.resize((width, height), Image.Resampling.BICUBIC)

    for number in range(1, 9):  # orientations
        exif = Image.Exif()
        exif[0x0112] = number
        image(30 + number, 50 - number).save(root / f"{2 * number:02d} turned.jpg", exif=exif)
    image(40, 40).save(root / "03 another.png")
    image(40, 41).convert("L").save(root / "05 grey.jpg")
    image(40, 42).save(root / "07 progressive.jpg", progressive=True)
    image(40, 43).convert("CMYK").save(root / "09 inks.jpg")
    clear = image(40, 44)
    clear.putalpha(90)
    clear.save(root / "11 clear.png")
    image(40, 45).save(root / "13 other.webp")
    image(12, 9).save(root / "15 tiny.jpg")
    image(40, 46).save(root / "17 one more.png")
    image(40, 47).save(root / "18 again.jpg", subsampling=0)
    image(40, 48).save(root / "19 yet.bmp")
    image(40, 49).save(root / "20 last.jpg")
    (root / "06 rubbish.jpg").write_bytes(b"\xff\xd8 no picture")
    return root.parent


def loaded(root, spec, *others, views=(0,), batch_size=7):
    """Images by id, of each spec; reasons by id; and the rows of each batch."""
    source = openers.open_source(root)
    listing = list_images(source)
    found, failed, rows = {}, {}, []
    for batch in loading.batches(
        listing, range(len(source)), specs=[spec, *others], views=views, batch_size=batch_size
    ):
        rows.append(batch.rows.tolist())
        failed |= {source.ids[row]: why.reason for row, why in batch.failures.items()}
        for place, row in enumerate(batch.rows.tolist()):
            found[source.ids[row]] = [np.asarray(images[place]) for images in batch.images]
    return found, failed, rows


@pytest.fixture
def use(monkeypatch):
    """Have a decoder in the GPU's place."""

    def put(codec):
        monkeypatch.setattr(nvimagecodec, "of_gpu", lambda: codec)
        return codec

    return put


def is_by_gpu(name):
    return name.endswith(".jpg") and "inks" not in name and "rubbish" not in name


def same(found, expected, atol=0.0):
    assert found.keys() == expected.keys()
    for name, images in expected.items():
        for mine, others in zip(found[name], images, strict=True):
            np.testing.assert_allclose(mine, others, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "options", [{}, {"views": 3, "augment": ("flip", "crop", "color")}], ids=["clean", "views"]
)
def test_rows_sizes_and_views_are_those_of_the_usual_way(folder, use, options):
    use(MadeUp(exact=True))
    exact = replace(EXACT, **options)
    other, views = replace(exact, image_size=(9, 33)), tuple(range(exact.views))
    expected, failed, rows = loaded(folder, exact, other, views=views)
    gpu = [replace(one, decoder="gpu") for one in (exact, other)]
    found, failed_too, rows_too = loaded(folder, *gpu, views=views)
    same(found, expected)
    assert len(found) == N
    assert failed_too == failed == {"a/06 rubbish.jpg": "no known image format"}
    assert rows_too == rows


def test_only_plain_jpegs_are_decoded_by_it(folder, use):
    codec = use(MadeUp())
    expected, _, _ = loaded(folder, EXACT)
    found, _, _ = loaded(folder, replace(EXACT, decoder="gpu"))
    for name, (image,) in expected.items():
        wanted = 255 - image if is_by_gpu(name) else image
        np.testing.assert_allclose(found[name][0], wanted, atol=1e-3, err_msg=name)
    assert sum(map(len, codec.calls)) == sum(map(is_by_gpu, expected)) == 13


@pytest.mark.parametrize("way", ["some", "all", "no room"])
def test_what_it_cannot_decode_goes_the_usual_way_in_its_place(
    folder, use, way, monkeypatch, capsys
):
    codec = use(MadeUp(exact=True, refuses=lambda height, width: way == "all" or width in (45, 46)))
    n_left = 2 if way == "some" else 13
    if way == "no room":
        tf = import_tensorflow()

        def full(image):
            raise tf.errors.ResourceExhaustedError(None, None, "made up")

        codec.as_tensor = full
    expected, failed, rows = loaded(folder, EXACT)
    found, failed_too, rows_too = loaded(folder, replace(EXACT, decoder="gpu"))
    same(found, expected)
    assert (failed_too, rows_too) == (failed, rows)
    assert capsys.readouterr().err == (
        f"decoder gpu: {n_left} of 13 JPEG files could not be decoded by the GPU and went the "
        f"usual way.\n"
    )


def test_large_images_are_decoded_a_few_at_a_time(folder, use, monkeypatch):
    codec = use(MadeUp(exact=True))
    monkeypatch.setattr(gpu_decoding, "PIXELS", 3_000)
    expected, _, _ = loaded(folder, EXACT)
    found, _, _ = loaded(folder, replace(EXACT, decoder="gpu"))
    same(found, expected)
    assert sum(map(len, codec.calls)) == 13
    assert max(map(len, codec.calls)) == 2
    for call in codec.calls:
        assert len(call) == 1 or sum(height * width for height, width in call) <= 3_000


def test_a_file_that_is_gone_by_then_is_no_end(folder, use, tmp_path):
    use(MadeUp(exact=True))
    root = tmp_path / "a"
    root.mkdir()
    for name in ("02 turned.jpg", "04 turned.jpg"):
        (root / name).write_bytes((folder / "a" / name).read_bytes())
    source = openers.open_source(tmp_path)
    listing = list_images(source)
    (root / "02 turned.jpg").unlink()
    spec = replace(EXACT, decoder="gpu")
    first, last = loading.batches(listing, range(2), specs=[spec], batch_size=4)
    assert (first.rows.tolist(), last.rows.tolist()) == ([1], [])
    assert last.failures[0].has_changed


@pytest.mark.parametrize("resize", ["bilinear", "antialias", "bicubic", "letterbox"])
@pytest.mark.parametrize("crop", ["none", "center", "center 0.875"])
@pytest.mark.parametrize("size", [(7, 90), (33, 32), (300, 5)])
def test_what_gpus_can_compute_is_what_is_computed_elsewhere(resize, crop, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32)
    geometry = Geometry((24, 40), resize, crop)
    expected = image_ops.resize(image, geometry)
    np.testing.assert_allclose(image_ops.resize_on_gpu(image, geometry), expected, atol=1e-2)


# What is missing


def test_without_a_gpu_an_error_says_what_would_help(photos, extract, monkeypatch):
    monkeypatch.setattr(import_tensorflow().config, "list_physical_devices", lambda kind=None: [])
    nvimagecodec.of_gpu.cache_clear()
    with pytest.raises(SpecError, match=r"TensorFlow sees no GPU. Extract with --decoder exact"):
        extract(photos, decoder="gpu")


def test_without_nvimagecodec_an_error_says_how_to_install_it(photos, extract, monkeypatch):
    config = import_tensorflow().config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: ["made up"])
    monkeypatch.setattr(config.experimental, "set_memory_growth", lambda gpu, grows: None)
    monkeypatch.setattr(nvimagecodec, "_is_installed", lambda: False)
    nvimagecodec.of_gpu.cache_clear()
    with pytest.raises(SpecError, match=r"not installed. Run `pip install 'featcache\[gpu-dec"):
        extract(photos, decoder="gpu")


def test_a_gpu_that_decodes_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(nvimagecodec, "missing", lambda: None)
    monkeypatch.setattr(nvimagecodec, "Codec", lambda: MadeUp(refuses=lambda height, width: True))
    nvimagecodec.of_gpu.cache_clear()
    with pytest.raises(SpecError, match="cannot decode on this GPU: a small JPEG file came to no"):
        nvimagecodec.of_gpu()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "device is cpu. Use --device auto, or --decoder exact"),
        ({"decode_scale": True}, "decodes large JPEGs whole. Leave out --decode-scale"),
    ],
)
def test_options_that_go_against_it_are_errors(photos, extract, options, message):
    with pytest.raises(SpecError, match=message):
        extract(photos, decoder="gpu", **options)


def test_a_model_of_such_images_works_without_a_gpu_and_says_how(folder, monkeypatch, capsys):
    described = SimpleNamespace(spec=replace(EXACT, decoder="gpu"), max_pixels=10**6)
    source = openers.open_source(folder)
    for reason, decoder in ((None, "gpu"), (nvimagecodec.NO_GPU, "exact")):
        monkeypatch.setattr(nvimagecodec, "missing", lambda reason=reason: reason)
        judged_on._says_that_no_gpu_decodes.cache_clear()
        for _ in range(2):
            assert judged_on.read_as(described, source).spec.decoder == decoder
    assert capsys.readouterr().err == (
        "The model learnt from images that a GPU decoded. Here they are decoded exactly, as "
        "TensorFlow sees no GPU.\n"
    )
    judged_on._says_that_no_gpu_decodes.cache_clear()


# All the way


def test_it_is_part_of_the_fingerprint_and_says_how_far_it_is(folder, extract, use, capsys):
    codec = use(MadeUp(refuses=lambda height, width: width == 44))
    exact = extract(folder).features
    done = extract(folder, decoder="gpu", show_progress=True)
    assert done.features.fingerprint != exact.fingerprint
    assert done.features.ids == exact.ids
    assert [one.id for one in done.features.failures] == ["a/06 rubbish.jpg"]
    assert (done.n_computed, len(codec.calls)) == (N, 4)
    for number, name in enumerate(exact.ids):
        is_other = np.abs(done.features.X[number] - exact.X[number]).max() > 1e-3
        assert is_other == (is_by_gpu(name) and name != "a/12 turned.jpg"), name
    cosine = done.features.provenance["cosine_to_exact_decoder"]
    said = capsys.readouterr().err
    assert f"decoder gpu: cosine similarity to exact {cosine:.4f} (the lowest of 4 images)" in said
    assert "decoder gpu: 1 of 13 JPEG files could not be decoded by the GPU" in said

    use(None)  # what is there needs no GPU
    assert extract(folder, decoder="gpu").hit


# nvImageCodec itself


@pytest.fixture(scope="module")
def on_cpu():
    """The decoders that nvImageCodec has on CPUs, by the same calls."""
    try:
        is_there = importlib.util.find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        pytest.skip("nvImageCodec is not installed: featcache[gpu-decoder]")
    return nvimagecodec.Codec("/CPU:0")


def test_nvimagecodec_decodes_every_plain_jpeg(folder, use, on_cpu, capsys):
    use(on_cpu)
    expected, failed, rows = loaded(folder, EXACT)
    found, failed_too, rows_too = loaded(folder, replace(EXACT, decoder="gpu"))
    same(found, expected, atol=0.5)  # one libjpeg as another, as a rule to the last bit
    assert (failed_too, rows_too) == (failed, rows)
    assert "usual way" not in capsys.readouterr().err


def test_nvimagecodec_says_what_it_cannot_decode(on_cpu, folder):
    whole = (folder / "a" / "20 last.jpg").read_bytes()
    damaged = on_cpu.opened(whole[:-300])
    good = on_cpu.opened(whole)
    assert on_cpu.opened(b"\x89PNG\r\n\x1a\n") is None
    assert on_cpu.opened(b"\xff\xd8 no picture") is None
    first, second = on_cpu.decode([damaged, good])
    assert first is None
    assert on_cpu.as_tensor(second).shape == (40, 49, 3)
