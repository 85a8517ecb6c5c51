"""All of keras.applications. Keras downloads the ImageNet weights, once a machine."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core import process
from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks import initial_weights, measures, rewriting
from featcache.networks.providers.base import DEFAULT, Entry, Provider, short, size_error

if TYPE_CHECKING:
    import keras

# name, factory in keras.applications, default side in pixels; by preprocessing
_NETWORKS = {
    "caffe": (
        ("resnet50", "ResNet50", 224),
        ("resnet101", "ResNet101", 224),
        ("resnet152", "ResNet152", 224),
        ("vgg16", "VGG16", 224),
        ("vgg19", "VGG19", 224),
    ),
    "tf": (
        ("resnet50-v2", "ResNet50V2", 224),
        ("resnet101-v2", "ResNet101V2", 224),
        ("resnet152-v2", "ResNet152V2", 224),
        ("mobilenet", "MobileNet", 224),
        ("mobilenet-v2", "MobileNetV2", 224),
        ("inception-v3", "InceptionV3", 299),
        ("inception-resnet-v2", "InceptionResNetV2", 299),
        ("xception", "Xception", 299),
        ("nasnet-mobile", "NASNetMobile", 224),
        ("nasnet-large", "NASNetLarge", 331),
    ),
    "torch": (
        ("densenet121", "DenseNet121", 224),
        ("densenet169", "DenseNet169", 224),
        ("densenet201", "DenseNet201", 224),
    ),
    "included": (
        ("mobilenet-v3-small", "MobileNetV3Small", 224),
        ("mobilenet-v3-large", "MobileNetV3Large", 224),
        ("efficientnet-b0", "EfficientNetB0", 224),
        ("efficientnet-b1", "EfficientNetB1", 240),
        ("efficientnet-b2", "EfficientNetB2", 260),
        ("efficientnet-b3", "EfficientNetB3", 300),
        ("efficientnet-b4", "EfficientNetB4", 380),
        ("efficientnet-b5", "EfficientNetB5", 456),
        ("efficientnet-b6", "EfficientNetB6", 528),
        ("efficientnet-b7", "EfficientNetB7", 600),
        ("efficientnet-v2-b0", "EfficientNetV2B0", 224),
        ("efficientnet-v2-b1", "EfficientNetV2B1", 240),
        ("efficientnet-v2-b2", "EfficientNetV2B2", 260),
        ("efficientnet-v2-b3", "EfficientNetV2B3", 300),
        ("efficientnet-v2-s", "EfficientNetV2S", 384),
        ("efficientnet-v2-m", "EfficientNetV2M", 480),
        ("efficientnet-v2-l", "EfficientNetV2L", 480),
        ("convnext-tiny", "ConvNeXtTiny", 224),
        ("convnext-small", "ConvNeXtSmall", 224),
        ("convnext-base", "ConvNeXtBase", 224),
        ("convnext-large", "ConvNeXtLarge", 224),
        ("convnext-xlarge", "ConvNeXtXLarge", 224),
    ),
}
# family and licence of the weights as Keras names it, by how a name begins; the longest one counts
_FAMILIES = {
    "resnet": ("ResNet", "MIT"),
    "vgg": ("VGG", "CC BY 4.0"),
    "mobilenet": ("MobileNet", "Apache-2.0"),
    "mobilenet-v2": ("MobileNet V2", "Apache-2.0"),
    "mobilenet-v3": ("MobileNet V3", "Apache-2.0"),
    "inception-v3": ("Inception V3", "MIT"),
    "inception-resnet": ("Inception-ResNet V2", "Apache-2.0"),
    "xception": ("Xception", "MIT"),
    "nasnet": ("NASNet", "Apache-2.0"),
    "densenet": ("DenseNet", "BSD-3-Clause"),
    "efficientnet-b": ("EfficientNet", "Apache-2.0"),
    "efficientnet-v2": ("EfficientNet V2", "Apache-2.0"),
    "convnext": ("ConvNeXt", "MIT"),
}
FACTORIES = {name: factory for members in _NETWORKS.values() for name, factory, _ in members}


def build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    """Return a network of keras.applications; see `Provider`."""
    factory = getattr(import_keras().applications, FACTORIES[name])
    try:
        # Keras prints its download on stdout, which belongs to our results, and warns that weights
        # were trained at another size, which was asked for
        stdout = redirect_stdout(sys.stderr) if process.is_own() else nullcontext()
        with stdout, process.ignored(".*input_shape", UserWarning):
            backbone = factory(
                weights="imagenet" if weights == "imagenet" else None,
                include_top=False,
                input_shape=(*image_size, 3),
            )
    except ValueError as error:
        raise size_error(name, image_size, error) from error
    except Exception as error:  # get_file raises bare Exception when the network is down
        raise BackboneError(_no_download(name, error)) from error
    if weights != "imagenet":
        initial_weights.put(backbone, name, weights)
    return backbone


def _no_download(name: str, error: Exception) -> str:
    text = short(error)
    url = next((word.rstrip(":") for word in text.split() if word.startswith("http")), "")
    file = url.rsplit("/", 1)[-1] or "the file"
    return (
        f"The ImageNet weights of {name} could not be downloaded. Put {file} into "
        f"~/.keras/models/ by hand{f' (from {url})' if url else f' ({text})'}, "
        f"give --weights PATH, or use {DEFAULT}, which needs no download."
    )


def _entry(name: str, side: int, preprocessing: str) -> Entry:
    start = max((one for one in _FAMILIES if name.startswith(one)), key=len)
    family, licence = _FAMILIES[start]
    if start == "resnet" and name.endswith("-v2"):
        family, licence = "ResNet V2", ""  # Keras names none
    return Entry(side, preprocessing, family=family, licence=licence)


def _has_weights(name: str) -> bool:
    """Return whether Keras has downloaded a network's weights; Keras need not be imported."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return (home / "models" / measures.of(name).file).is_file()


PROVIDER = Provider(
    {
        name: _entry(name, side, preprocessing)
        for preprocessing, members in _NETWORKS.items()
        for name, _, side in members
    },
    build,
    has_weights=_has_weights,
    source="Keras",
    rewritten=rewriting.rewritten,
)
