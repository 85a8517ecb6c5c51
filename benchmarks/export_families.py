"""One network of every family, exported to ONNX, TFLite and OpenVINO, run there and compared.

    python benchmarks/export_families.py [--only NAME ...] [--side 96] [--images 5]

Networks of the catalogue have random weights, those of folders are the small ones of the tests, and
all a head of three outputs: what a converter makes of a graph does not depend on weights. Compared
are outputs with those of the Keras model, relative to the largest of them. Goals: every family goes
into every format, and differs by 1e-3 at most.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import page

from featcache.core.errors import FeatcacheError
from featcache.core.tensorflow import import_keras
from featcache.models.export import runners, writers
from featcache.networks import backbones

CATALOGUE = (
    "efficientnet-lite0",
    "resnet50",
    "resnet50-v2",
    "vgg16",
    "mobilenet",
    "mobilenet-v2",
    "mobilenet-v3-small",
    "inception-v3",
    "inception-resnet-v2",
    "xception",
    "nasnet-mobile",
    "densenet121",
    "efficientnet-b0",
    "efficientnet-v2-b0",
    "convnext-tiny",
)
FOLDERS = Path(__file__).parent.parent / "tests" / "networks" / "reference"
FORMATS = ("onnx", "tflite", "openvino")


def model_of(name: str, side: int) -> Any:
    """Return a Keras model of a backbone and a head of three outputs.

    Parameters
    ----------
    name : of the catalogue, or of a folder of the tests.
    side : of images, for the catalogue.
    """
    keras = import_keras()
    folder = FOLDERS / name
    if folder.is_dir():
        side = 64 if "convnext" in name else 24
        resolved = backbones.resolve(str(folder), image_size=side)
    else:
        resolved = backbones.resolve(name, weights="random", image_size=side)
    network = resolved.backbone or backbones.build(
        resolved.spec.backbone, resolved.weights, resolved.spec.image_size
    )
    extractor = backbones.frozen_extractor(network, resolved.spec)
    head = keras.layers.Dense(3, name="scores")
    return keras.Model(extractor.input, head(extractor.output))


def exported(model: Any, format: str, images: np.ndarray, folder: Path) -> dict[str, Any]:
    """Return how a file of a model differs from it, its size, and how long writing it took."""
    path = folder / f"model{writers.FORMATS[format].suffix}"
    start = time.perf_counter()
    writers.write(format, model, None, path, images)
    seconds = time.perf_counter() - start
    found = runners.RUNNERS[writers.FORMATS[format].kind](str(path))(images)
    expected = np.asarray(model(images, training=False))
    return {
        "difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
        "seconds": seconds,
        "size_bytes": sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file()),
    }


def one_family(name: str, side: int, n_images: int) -> dict[str, Any]:
    """Return what every format gave, or why it did not."""
    model = model_of(name, side)
    shape = (n_images, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    found: dict[str, Any] = {"backbone": name, "side": shape[1]}
    for format in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[format] = exported(model, format, images, Path(folder))
            except Exception as error:  # runtimes raise kinds of their own
                found[format] = {"error": f"{type(error).__name__}: {error}"}
    import_keras().utils.clear_session()  # forty networks do not fit into memory
    return found


def cell(one: dict[str, Any]) -> str:
    """Return what the table says of a format."""
    if "error" in one:
        return str(one["error"])[:60]
    size = one["size_bytes"] / 1e6
    return f"{one['difference']:.0e}, {size:.1f} MB, {one['seconds']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="backbones, or folders of the tests")
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--images", type=int, default=5)
    options = parser.parse_args()
    folders = sorted(path.name for path in FOLDERS.iterdir())
    rows = []
    for name in options.only or [*CATALOGUE, *folders]:
        try:
            one = one_family(name, options.side, options.images)
        except FeatcacheError as error:
            parser.error(str(error))
        print(json.dumps(one), flush=True)
        rows.append((name, str(one["side"]), *(cell(one[format]) for format in FORMATS)))
    print(page.table(("backbone", "pixels", *FORMATS), rows))
    print(f"\n{options.images} images, random weights. {page.machine()}.")


if __name__ == "__main__":
    main()
