"""The backbones by name, each with its own preprocessing and default image size.

One preprocessing for every network is the classic silent mistake, so it stands in the network's
own line here, and goes as stock Keras layers inside the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core.errors import SpecError
from featcache.core.tensorflow import import_keras

DEFAULT = "efficientnet-lite0"
LITE0 = "efficientnet-lite0"
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, deviation of RGB/255
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    factory: str  # name in keras.applications; empty for our own
    image_size: int | tuple[int, int]  # default side, or height and width, in pixels
    preprocessing: str  # key of PREPROCESSING


def _family(preprocessing: str, **members: tuple[str, int]) -> dict[str, Entry]:
    return {
        name.replace("_", "-"): Entry(factory, size, preprocessing)
        for name, (factory, size) in members.items()
    }


CATALOGUE: dict[str, Entry] = {
    LITE0: Entry("", 224, "lite"),
    **_family(
        "caffe",
        resnet50=("ResNet50", 224),
        resnet101=("ResNet101", 224),
        resnet152=("ResNet152", 224),
        vgg16=("VGG16", 224),
        vgg19=("VGG19", 224),
    ),
    **_family(
        "tf",
        resnet50_v2=("ResNet50V2", 224),
        resnet101_v2=("ResNet101V2", 224),
        resnet152_v2=("ResNet152V2", 224),
        mobilenet=("MobileNet", 224),
        mobilenet_v2=("MobileNetV2", 224),
        inception_v3=("InceptionV3", 299),
        inception_resnet_v2=("InceptionResNetV2", 299),
        xception=("Xception", 299),
        nasnet_mobile=("NASNetMobile", 224),
        nasnet_large=("NASNetLarge", 331),
    ),
    **_family(
        "torch",
        densenet121=("DenseNet121", 224),
        densenet169=("DenseNet169", 224),
        densenet201=("DenseNet201", 224),
    ),
    **_family(
        "included",
        mobilenet_v3_small=("MobileNetV3Small", 224),
        mobilenet_v3_large=("MobileNetV3Large", 224),
        efficientnet_b0=("EfficientNetB0", 224),
        efficientnet_b1=("EfficientNetB1", 240),
        efficientnet_b2=("EfficientNetB2", 260),
        efficientnet_b3=("EfficientNetB3", 300),
        efficientnet_b4=("EfficientNetB4", 380),
        efficientnet_b5=("EfficientNetB5", 456),
        efficientnet_b6=("EfficientNetB6", 528),
        efficientnet_b7=("EfficientNetB7", 600),
        efficientnet_v2_b0=("EfficientNetV2B0", 224),
        efficientnet_v2_b1=("EfficientNetV2B1", 240),
        efficientnet_v2_b2=("EfficientNetV2B2", 260),
        efficientnet_v2_b3=("EfficientNetV2B3", 300),
        efficientnet_v2_s=("EfficientNetV2S", 384),
        efficientnet_v2_m=("EfficientNetV2M", 480),
        efficientnet_v2_l=("EfficientNetV2L", 480),
        convnext_tiny=("ConvNeXtTiny", 224),
        convnext_small=("ConvNeXtSmall", 224),
        convnext_base=("ConvNeXtBase", 224),
        convnext_large=("ConvNeXtLarge", 224),
        convnext_xlarge=("ConvNeXtXLarge", 224),
    ),
}


def _lite(x: Any) -> Any:
    return import_keras().layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocessing")(x)


def _tf(x: Any) -> Any:
    return import_keras().layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")(x)


def _torch(x: Any) -> Any:
    mean, deviation = (255.0 * np.array(values) for values in IMAGENET_STATISTICS)
    normalization = import_keras().layers.Normalization
    return normalization(mean=mean, variance=deviation**2, name="preprocessing")(x)


def _caffe(x: Any) -> Any:
    keras = import_keras()
    bgr = keras.ops.flip(x, axis=-1)
    normalization = keras.layers.Normalization
    return normalization(mean=CAFFE_MEAN_BGR, variance=(1.0,) * 3, name="preprocessing")(bgr)


# From RGB 0 to 255 to what the network was trained on; names as in keras.applications.
PREPROCESSING: dict[str, Callable[[Any], Any]] = {
    "lite": _lite,
    "tf": _tf,
    "torch": _torch,
    "caffe": _caffe,
    "included": lambda x: x,  # the network begins with its own preprocessing layers
}


def is_own(name: str) -> bool:
    """Return whether a backbone's name is that of a .keras file instead of the catalogue's."""
    return name.endswith(".keras")


def find(name: str) -> Entry:
    """Return a catalogue entry.

    Raises
    ------
    SpecError
        When there is none, with the nearest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}." if near else f"For example: {DEFAULT}, mobilenet-v2."
    raise SpecError(f"There is no backbone '{name}'. {hint}")
