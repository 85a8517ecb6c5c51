from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from featcache.core.errors import BackboneError, DiskError, SpecError
from featcache.core.tensorflow import import_tensorflow
from featcache.networks import backbones, engines
from featcache.networks.engines import choice, openvino, parity, tensorflow

SEEDS = (
    "resnet50",
    "vgg16",
    "mobilenet-v2",
    "inception-v3",
    "efficientnet-b0",
    "efficientnet-lite0",
)
SIZES = (1, 2, 5, 8)  # images per batch; no multiple of what OpenVINO takes at a time


def pixels(n, side=32, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (n, side, side, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone))
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    return backbones.frozen_extractor(backbone, resolved.spec)


@pytest.fixture(scope="module")
def two_taps(tiny_backbone):
    specs = [
        backbones.resolve(weights=str(tiny_backbone), layer=layer).spec
        for layer in ("relu_2", "relu_1")
    ]
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    return backbones.frozen_extractor(backbone, *specs)


def compiled_by(name, model, precision="float32"):
    """Every runtime of the catalogue; XLA runs on the CPU here, as on a GPU."""
    return {
        "openvino": lambda: openvino.compile_model(model, precision, None),
        "tensorflow": lambda: tensorflow.compile_model(model, precision, ["/CPU:0"], False),
        "xla": lambda: tensorflow.compile_model(model, precision, ["/CPU:0"], True),
        "plain": lambda: tensorflow.plain(model),
    }[name]()


ALL = ("openvino", "tensorflow", "xla", "plain")


@pytest.mark.parametrize("name", ALL)
def test_every_runtime_gives_what_keras_gives_for_batches_of_every_size(name, model):
    run = compiled_by(name, model)
    for n in (*SIZES, 3):
        images = pixels(n, seed=n)
        (got,) = run(images)
        assert got.shape == (n, 12)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_several_outputs_keep_their_order(name, two_taps):
    images = pixels(5)
    got = compiled_by(name, two_taps)(images)
    assert [one.shape for one in got] == [(5, 12), (5, 8)]
    for one, expected in zip(got, two_taps(images), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_batches_in_flight_come_back_in_order_each_with_its_own(name, model):
    run = compiled_by(name, model)
    batches = [(number, pixels(n, seed=number)) for number, n in enumerate((4, 4, 7, 1, 4, 2))]
    got = list(engines.in_order(iter(batches), run.start, run.ahead))
    assert [number for number, _ in got] == list(range(6))
    for (_, (one,)), (_, images) in zip(got, batches, strict=True):
        np.testing.assert_allclose(one, model(images), rtol=1e-4, atol=1e-5)


def test_several_devices_take_batches_in_turn(tmp_path, tiny_backbone):
    """Two logical CPUs stand for two GPUs; they must be made before TensorFlow starts."""
    code = f"""
import numpy as np
from featcache.core.tensorflow import import_tensorflow
from featcache.networks import backbones, engines
from featcache.networks.engines import tensorflow
tf = import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
spec = backbones.resolve(weights={str(tiny_backbone)!r}).spec
backbone = backbones.build("tiny.keras", {str(tiny_backbone)!r}, (32, 32))
model = backbones.frozen_extractor(backbone, spec)
run = tensorflow.compile_model(model, "float32", ["/CPU:0", "/CPU:1"], False)
assert run.where == "2 CPUs" and run.ahead == 3
ran = []
inner = tensorflow.TensorFlow._run
def watched(self, function, device, images):
    ran.append(device)
    return inner(self, function, device, images)
tensorflow.TensorFlow._run = watched
images = [np.full((3, 32, 32, 3), 9 * i, np.float32) for i in range(5)]
got = list(engines.in_order(enumerate(images), run.start, run.ahead))
assert [number for number, _ in got] == [0, 1, 2, 3, 4]
assert sorted(ran) == ["/CPU:0"] * 3 + ["/CPU:1"] * 2, ran
for (_, (one,)), batch in zip(got, images):
    np.testing.assert_allclose(one, model(batch), rtol=1e-4, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_both_runtimes_agree_for_every_seed(name, monkeypatch):
    """Real weights for efficientnet-lite0, random ones for others; natural images for all.

    Of 96 pixels, at which every layer is there as it is at the networks' own sizes.
    """
    from sklearn.datasets import load_sample_images

    # both runtimes start with the same graph, most of the time goes into tracing it
    monkeypatch.setattr(tensorflow, "constant_graph", traced_once(tensorflow.constant_graph))
    weights = "imagenet" if name == "efficientnet-lite0" else "random"
    resolved = backbones.resolve(name, weights=weights, image_size=96)
    backbone = resolved.backbone or backbones.build(name, weights, (96, 96))
    model = backbones.frozen_extractor(backbone, resolved.spec)
    tf = import_tensorflow()
    images = tf.image.resize(np.stack(load_sample_images().images), (96, 96)).numpy()
    expected = compiled_by("plain", model)(images)
    for other in ("openvino", "tensorflow"):
        found = engines.Closeness.of(compiled_by(other, model)(images), expected)
        assert found.largest_difference < 1e-4, (other, found)


def traced_once(constant_graph):
    graph_of = functools.cache(constant_graph)
    return lambda model, device="/CPU:0": graph_of(model, device)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["openvino", "tensorflow", "xla"])
def test_lower_precision_is_near_but_another_number(name, precision, model, two_taps):
    if name == "openvino" and not openvino.can_compute(precision):
        pytest.skip(f"OpenVINO does not compute in {precision} on this CPU")
    for network in (model, two_taps):
        images = pixels(6)
        expected = compiled_by("plain", network)(images)
        got = compiled_by(name, network, precision)(images)
        assert all(one.dtype == np.float32 for one in got)
        found = engines.Closeness.of(got, expected)
        assert found.cosine > 0.99
        assert found.largest_difference > 1e-6


def test_auto_on_a_cpu(model, monkeypatch):
    assert engines.compile_frozen(model, device="cpu").name == "openvino"
    assert engines.compile_frozen(model, device="cpu", runtime="tensorflow").name == "tensorflow"
    monkeypatch.setattr(choice, "_has_openvino", lambda: False)
    assert engines.compile_frozen(model, device="cpu").name == "tensorflow"
    with pytest.raises(SpecError, match=r"not installed. Run `pip install 'featcache\[cpu\]'`"):
        engines.compile_frozen(model, runtime="openvino")


def test_a_precision_that_the_cpu_lacks_goes_to_tensorflow(model, monkeypatch):
    monkeypatch.setattr(openvino, "can_compute", lambda precision: False)
    run = engines.compile_frozen(model, device="cpu", precision="bfloat16")
    assert run.name == "tensorflow"
    with pytest.raises(SpecError, match="OpenVINO cannot compute in bfloat16 on this CPU"):
        engines.compile_frozen(model, runtime="openvino", precision="bfloat16")


def test_what_openvino_cannot_convert_goes_to_tensorflow(model, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("no rule for\nop Strange")

    monkeypatch.setattr(openvino, "compile_model", failing)
    said = []
    assert engines.compile_frozen(model, device="cpu", say=said.append).name == "tensorflow"
    assert said == [
        "Warning: OpenVINO cannot convert the network; taking TensorFlow. no rule for op Strange"
    ]
    with pytest.raises(BackboneError, match="OpenVINO cannot convert the network: no rule for op"):
        engines.compile_frozen(model, runtime="openvino")


def test_a_gpu_that_is_not_there(model):
    if import_tensorflow().config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert engines.gpus("auto") == engines.gpus("cpu") == []
    with pytest.raises(SpecError, match="TensorFlow sees no GPU"):
        engines.compile_frozen(model, device="gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "torch"}, "runtime must be one of auto, tensorflow, openvino"),
        ({"device": "tpu"}, "device must be one of auto, cpu, gpu"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16"),
        ({"runtime": "openvino", "device": "gpu"}, "openvino runs on the CPU, and device is gpu"),
    ],
)
def test_wrong_use(model, options, message):
    with pytest.raises(SpecError, match=message):
        engines.compile_frozen(model, **options)


class Wrong(engines.Compiled):
    """Gives something else than Keras."""

    name, where = "openvino", "CPU"

    def __init__(self, model, change):
        self.model, self.change = model, change

    def start(self, images):
        return lambda: (self.change(np.array(self.model(images))),)


def halved_nan(outputs):
    outputs[0, 0] = np.nan
    return outputs


@pytest.mark.parametrize("change", [lambda outputs: outputs * 1.001, halved_nan])
def test_a_compiled_model_that_is_wrong_is_replaced_with_a_warning(model, change):
    said = []
    images = pixels(3)
    run, found = engines.agree(Wrong(model, change), model, images, "float32", said.append)
    assert run.name == "tensorflow"
    assert found.holds
    (message,) = said
    assert message.startswith("Warning: openvino gives other numbers than Keras here, by ")
    assert message.endswith("Going on with TensorFlow, which is slower.")
    np.testing.assert_allclose(run(images)[0], model(images), rtol=1e-4, atol=1e-5)


def test_keras_itself_has_the_last_word(model, monkeypatch):
    monkeypatch.setattr(
        tensorflow, "compile_model", lambda *arguments, **options: Wrong(model, np.negative)
    )
    wrong = Wrong(model, np.negative)
    run, found = engines.agree(wrong, model, pixels(3), "float32", lambda text: None)
    assert found.holds
    np.testing.assert_array_equal(run(pixels(3))[0], model(pixels(3)))


def test_one_that_agrees_stays_and_nothing_is_said(model):
    said = []
    compiled = compiled_by("openvino", model)
    assert engines.agree(compiled, model, pixels(9), "float32", said.append)[0] is compiled
    assert said == []


def test_xla_compiles_once_for_a_run(model, monkeypatch):
    shapes = set()  # XLA compiles once for each
    padded = tensorflow.padded

    def watched(images, size):
        images = padded(images, size)
        shapes.add(tuple(images.shape))
        return images

    monkeypatch.setattr(tensorflow, "padded", watched)
    run = compiled_by("xla", model)
    run, found = engines.agree(run, model, pixels(20), "float32", lambda text: None)
    assert found.holds
    for n in (20, 20, 7, 1):
        np.testing.assert_allclose(run(pixels(n))[0], model(pixels(n)), rtol=1e-4, atol=1e-5)
    assert shapes == {(20, 32, 32, 3)}


def out_of_memory(at_most, function):
    """Do what `function` does, for no more than so many images at once."""
    tf = import_tensorflow()

    def run(images):
        if len(images) > at_most:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return function(images)

    return run


def test_what_does_not_fit_into_memory_is_computed_in_halves(model):
    said = []
    constant = tensorflow.constant_graph(model)
    run = tensorflow.TensorFlow([out_of_memory(6, constant)], ["/CPU:0"], said.append)
    images = pixels(30)
    started = [run.start(images), run.start(images[:4])]
    (got,), (few,) = (finish() for finish in started)
    expected = constant(import_tensorflow().constant(images))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # oneDNN's sums go by the batch
    np.testing.assert_allclose(few, got[:4], rtol=1e-5)
    assert run.fits == 3
    assert said == [
        "30 images at once do not fit into memory; going on with 15 (--batch-size 15).",
        "15 images at once do not fit into memory; going on with 7 (--batch-size 7).",
        "7 images at once do not fit into memory; going on with 3 (--batch-size 3).",
    ]
    none = tensorflow.TensorFlow([out_of_memory(0, constant)], ["/CPU:0"])
    with pytest.raises(BackboneError, match="An image of 32 x 32 pixels does not fit into memory"):
        none(images)


def test_how_near_lower_precision_comes_is_said(model):
    said = []
    wrong = Wrong(model, lambda outputs: outputs + 0.01)
    run, found = engines.agree(wrong, model, pixels(20), "bfloat16", said.append)
    assert run is wrong
    assert said == [
        f"bfloat16 by openvino: cosine similarity to float32 {found.cosine:.4f} "
        f"(the lowest of {parity.N_IMAGES} images)."
    ]


def test_rows_of_zeros_have_no_direction_and_no_scale():
    zeros = (np.zeros((2, 3)),)
    assert engines.Closeness.of(zeros, zeros) == engines.Closeness(0.0, 1.0)
    assert not engines.Closeness.of((np.ones((2, 3)),), zeros).holds


def test_what_is_finite_in_neither_is_the_same_and_draws_no_warning():
    nan, inf = np.nan, np.inf
    one = (np.array([[1, nan, inf, inf], [3, 4, 5, 6]], np.float32),)
    other = (np.array([[1, inf, nan, -inf], [3, 4, 5, 6]], np.float32),)
    assert engines.Closeness.of(one, other) == engines.Closeness(0.0, 1.0)
    finite = (np.array([[1, 2, inf, inf], [3, 4, 5, 6]], np.float32),)
    assert engines.Closeness.of(one, finite).largest_difference == inf
    assert engines.Closeness.of(finite, one).largest_difference == inf


def kept_in(folder, **graph):
    return engines.ConversionCache(folder, "00ff", graph)


def test_a_converted_model_is_kept_under_the_digest_of_its_weights(model, tmp_path, monkeypatch):
    first = openvino.compile_model(model, "float32", kept_in(tmp_path, layer="a"))
    (folder,) = (tmp_path / "00ff").iterdir()
    assert {path.name for path in folder.iterdir()} == {"model.xml", "model.bin", "digest"}
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "_converted", None)  # a second conversion would fail
        again = openvino.compile_model(model, "float32", kept_in(tmp_path, layer="a"))
    np.testing.assert_array_equal(first(pixels(3))[0], again(pixels(3))[0])
    openvino.compile_model(model, "float32", kept_in(tmp_path, layer="b"))
    assert len(list((tmp_path / "00ff").iterdir())) == 2


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "digest"])
@pytest.mark.parametrize("damage", ["flip", "cut", "no text", "remove"])
def test_a_damaged_kept_model_is_converted_again(name, damage, model, tmp_path):
    expected = openvino.compile_model(model, "float32", kept_in(tmp_path))(pixels(3))[0]
    (file,) = tmp_path.glob(f"00ff/*/{name}")
    data = bytearray(file.read_bytes())
    if damage == "no text":
        data[:3] = b"\xff\xfe\xff"
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    got = openvino.compile_model(model, "float32", kept_in(tmp_path))(pixels(3))[0]
    np.testing.assert_array_equal(got, expected)
    assert file.is_file()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_in_the_place_of_a_kept_model_makes_way(model, tmp_path):
    openvino.compile_model(model, "float32", kept_in(tmp_path))
    (folder,) = (tmp_path / "00ff").iterdir()
    shutil.rmtree(folder)
    folder.write_text("in the way")
    openvino.compile_model(model, "float32", kept_in(tmp_path))
    assert (folder / "model.xml").is_file()


def test_no_room_for_the_conversion_is_no_obstacle(model, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = []
    assert engines.compile_frozen(model, device="cpu", say=said.append).name == "tensorflow"
    (text,) = said
    assert "taking TensorFlow instead of OpenVINO. There is no room for" in text
    assert "or set TMPDIR to a folder on another disk" in text
    with pytest.raises(DiskError, match="no room"):
        engines.compile_frozen(model, runtime="openvino")


def test_no_room_to_keep_the_converted_model_is_nobodys_fault(model, tmp_path, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("as OpenVINO says it: bad stream")

    monkeypatch.setattr("openvino.save_model", full)
    said = []
    compiled = engines.compile_frozen(model, kept=kept_in(tmp_path), say=said.append)
    assert (compiled.name, said) == ("openvino", [])
    assert not list(tmp_path.rglob("*.xml"))


def test_where_nothing_can_be_kept_it_still_runs(model, tmp_path):
    (tmp_path / "file").write_text("no folder")
    run = openvino.compile_model(model, "float32", kept_in(tmp_path / "file"))
    assert run(pixels(3))[0].shape == (3, 12)


def test_the_graph_is_described_in_json(model, tmp_path):
    json.dumps(kept_in(tmp_path, image_size=[32, 32]).graph)


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_threads_that_share_a_network_each_get_their_own(name, model):
    run = compiled_by(name, model)
    batches = [pixels(9, seed=seed) for seed in range(4)]
    expected = [run(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for got, wanted in zip(pool.map(run, batches), expected, strict=True):
                np.testing.assert_array_equal(got[0], wanted)
