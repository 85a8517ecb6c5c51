from __future__ import annotations

import io
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from featcache.data import decoding
from featcache.data.pillow import own_limit


def test_pillows_limit_is_back_when_the_last_of_all_threads_is_done(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    first, second = ExitStack(), ExitStack()
    first.enter_context(own_limit())
    second.enter_context(own_limit())
    first.close()
    assert Image.MAX_IMAGE_PIXELS is None, "the second still decodes"
    second.close()
    assert Image.MAX_IMAGE_PIXELS == 77


def test_a_limit_that_was_set_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    with own_limit():
        Image.MAX_IMAGE_PIXELS = 5
    assert Image.MAX_IMAGE_PIXELS == 5


def test_our_limit_alone_decides_wherever_an_image_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # from 20 on it is an error
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, "PNG")
    assert decoding.decode(file.getvalue()).shape == (9, 9, 3)
    with pytest.raises(decoding.UnreadableImageError, match="9 x 9 pixels are more than 80"):
        decoding.decode(file.getvalue(), max_pixels=80)


def test_pillows_remarks_are_dropped(monkeypatch):
    def remark(image):
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "x.py", 1, module="PIL.x")
        return np.asarray(image)

    monkeypatch.setattr(decoding, "upright", remark)
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, "PNG")
    decoding.decode(file.getvalue())  # a warning is an error here
