"""One image in the style of another: pixels are changed until the frozen backbone sees both.

Shows: a backbone of featcache used from Keras, as a loss. What is where (the map of a layer) stays
that of the first image; which channels go together (Gram matrices of several layers) becomes that
of the second. Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural
networks".

    python pipelines/style_transfer.py CONTENT STYLE --out styled.png

300 steps of 320 pixels take two to three minutes on two cores with efficientnet-lite0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import featcache as fc
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.networks import backbones, registry

SMOOTHNESS = 0.03  # weight of differences between neighbouring pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("content", type=Path, help="the image to change")
    parser.add_argument("style", type=Path, help="the image whose style it gets")
    parser.add_argument("--out", type=Path, default=Path("styled.png"))
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--size", type=int, default=320, help="pixels of the longer side")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--strength", type=float, default=30.0, help="of the style")
    options = parser.parse_args()
    try:
        styled = transfer(options)
    except (fc.FeatcacheError, OSError) as error:
        sys.exit(f"Error: {error}")
    Image.fromarray(styled).save(options.out)
    print(f"Wrote {options.out}")


def transfer(options: argparse.Namespace) -> np.ndarray:
    """Return the changed image, (height, width, 3) uint8."""
    tf, keras = import_tensorflow(), import_keras()
    content = opened(options.content, options.size)
    style = opened(options.style, options.size)
    of_content = maps_of(options, content.shape[:2])
    of_style = maps_of(options, style.shape[:2])
    wanted = of_content(content[None])
    place = len(wanted) // 2  # a map from the middle says what is where
    styles = [style_of(one) for one in of_style(style[None])]
    pixels = tf.Variable(content[None])
    adam = keras.optimizers.Adam(2.0)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            found = of_content(pixels)
            here = relative(found[place], wanted[place])
            how = sum(off_style(a, b) for a, b in zip(found, styles, strict=True))
            rough = tf.reduce_mean(tf.image.total_variation(pixels)) / tf.size(pixels, tf.float32)
            loss = here + options.strength * how / len(styles) + SMOOTHNESS * rough
        adam.apply([tape.gradient(loss, pixels)], [pixels])
        pixels.assign(tf.clip_by_value(pixels, 0.0, 255.0))
        return loss, here, how / len(styles)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("Styling", total=options.steps)
        for _ in range(options.steps):
            _, here, how = step()
            said = f"content off by {float(here):.2f}, style by {float(how):.2f}"
            progress.update(bar, advance=1, description=said)
    return np.asarray(pixels[0]).round().astype(np.uint8)


def opened(path: Path, size: int) -> np.ndarray:
    """Return an image, its longer side that long, (height, width, 3) float32, 0 to 255."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    # whole multiples of the largest stride, so that maps of content and pixels fit
    scale = size / max(image.size)
    width, height = (max(32, round(side * scale / 32) * 32) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), np.float32)


def maps_of(options: argparse.Namespace, size: tuple[int, int]):
    """Return the frozen backbone from images to the last map of each resolution but the least."""
    keras = import_keras()
    resolved = backbones.resolve(options.backbone, weights=options.weights, image_size=size)
    network = resolved.backbone or backbones.build(
        resolved.spec.backbone, resolved.weights, resolved.spec.image_size
    )
    network.trainable = False
    last = {
        layer.output.shape[1]: layer.output
        for layer in network.layers
        if len(getattr(layer.output, "shape", ())) == 4 and layer.output.shape[-1] > 3
    }
    taps = list(last.values())
    seen = keras.Model(network.inputs[0], taps[:-1] or taps)
    image = keras.Input((*size, 3))
    before = registry.preprocessing(resolved.spec.preprocessing)(image)
    model = keras.Model(image, [before, *seen(before, training=False)])  # colours are a map, too
    return lambda batch: model(batch, training=False)


def style_of(maps):
    """Return (c, c) and (c,): which channels of maps (1, height, width, c) go together, and means.

    Taken apart, as the mean is most of a Gram matrix and little of a style.
    """
    tf = import_tensorflow()
    flat = tf.reshape(maps, (-1, maps.shape[-1]))
    mean = tf.reduce_mean(flat, axis=0)
    centred = flat - mean
    n_places = tf.cast(tf.shape(flat)[0], tf.float32)
    return tf.matmul(centred, centred, transpose_a=True) / n_places, mean


def off_style(maps, wanted):
    """Return how far the style of maps is from the wanted one; 1 is as far as having none."""
    matrix, mean = style_of(maps)
    return relative(matrix, wanted[0]) + relative(mean, wanted[1])


def relative(found, wanted):
    """Return the squared difference of two tensors, as a part of the wanted one's square."""
    tf = import_tensorflow()
    return tf.reduce_sum((found - wanted) ** 2) / tf.reduce_sum(wanted**2)


if __name__ == "__main__":
    main()
