"""What a family of networks says of itself: its names, and how one becomes a Keras model.

A family is one file here with a `PROVIDER`, and one line in the registry. Nothing outside that
file knows a name of the family, where its weights come from or what its images look like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.core.errors import SpecError, one_line

if TYPE_CHECKING:
    import keras

DEFAULT = "efficientnet-lite0"  # its weights come with the installation
WORDS = ("imagenet", "random")  # what weights may be, other than a path
Scheme = Callable[[Any], Any]  # a Keras tensor of RGB, 0 to 255, to what the network expects


@dataclass(frozen=True)
class Entry:
    """What is known of a network without building it."""

    image_size: int | tuple[int, int]  # default side, or height and width, in pixels
    preprocessing: str  # a name that `registry.preprocessing` knows
    pooling: str = "avg"  # what is taken where nobody says
    resize: str = "bilinear"  # how images are interpolated where nobody says
    share: float = 1.0  # of an image's sides, that its authors take from the middle
    stretched: str = ""  # what to know where all of an image is taken instead, a sentence
    remarks: tuple[str, ...] = ()  # what else to know of how images get to it
    family: str = ""
    licence: str = ""  # of its weights, where its authors say one


def given_path(name: str, weights: str) -> Path | None:
    """Return the path that weights are, unless they are a word."""
    return None if weights in WORDS else Path(weights)


@dataclass(frozen=True)
class Provider:
    """A family of networks.

    `build` takes a name, weights and (height, width), and returns the bare network without its
    classifier. Weights are imagenet, random or an absolute path. It raises SpecError for images
    that the network does not take, and BackboneError for weights that cannot be had or are of
    another architecture.

    `weights_path` takes a name and weights, and returns where they lie, or None where only
    building tells them. It raises BackboneError where they are not installed.

    `identity` takes the path of the weights and the digest of that file, and returns what
    identifies the network; for most that is the digest.

    `has_weights` takes a name, and returns whether its ImageNet weights are on this machine.

    `rewritten` takes the network that `build` gave, whose weights may have to tell what it is, and
    returns one that gives the same sooner, with the same names of layers.

    `again` takes the name and the digest of the weights that a spec has, and returns what to ask
    for to have that network again; for most that is the name.
    """

    entries: Mapping[str, Entry]
    build: Callable[[str, str, tuple[int, int]], keras.Model]
    weights_path: Callable[[str, str], Path | None] = given_path
    preprocessing: Mapping[str, Scheme] = field(default_factory=dict)  # of this family alone
    identity: Callable[[Path, str], str] = lambda path, digest: digest
    rewritten: Callable[[keras.Model], keras.Model] = lambda model: model
    again: Callable[[str, str], Any] = lambda name, digest: name
    has_weights: Callable[[str], bool] = lambda name: False
    source: str = ""  # where its ImageNet weights come from, in a word or two


def size_error(name: str, image_size: tuple[int, int], error: BaseException) -> SpecError:
    """Return the error for images that a network does not take."""
    height, width = image_size
    return SpecError(f"{name} does not take images of {height} x {width} pixels: {short(error)}")


def short(error: BaseException) -> str:
    """Return an error's text on one line of at most 200 characters."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
