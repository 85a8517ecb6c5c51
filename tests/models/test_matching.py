"""What a source says is matched with a model's outputs by name."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from featcache.core.errors import SourceError
from featcache.core.labels import Columns, from_columns
from featcache.models.matching import matched, strangers

NFC, NFD = "caf\u00e9", "cafe\u0301"


def model(*names, task="classification", says_unknown=False):
    card = SimpleNamespace(task=task, class_names=names, learnt_names=names, open_set=None)
    if says_unknown:
        card.class_names, card.open_set = (*names, "unknown"), {}
    return card


@pytest.mark.parametrize(("ours", "theirs"), [(NFC, NFD), (NFD, NFC), (NFC, NFC)])
@pytest.mark.parametrize("exactly", [False, True])
def test_classes_in_another_unicode_form_are_the_same(ours, theirs, exactly):
    about = from_columns(3, Columns(label=["tea", theirs, None]))
    y, absent = matched(about, model("tea", ours), "photos", exactly=exactly)
    assert (y.tolist(), absent) == ([0, 1, -1], ())
    several = from_columns(2, Columns(labels=[["tea", theirs], [theirs]]))
    y, _ = matched(several, model("tea", ours, task="multi-label"), "photos", exactly=exactly)
    assert y.tolist() == [[1, 1], [0, 1]]


def test_a_target_in_another_unicode_form():
    columns = Columns(targets=[[1.0, 2.0], [3.0, 4.0]], target_names=("tea", NFD))
    y, _ = matched(from_columns(2, columns), model(NFC, task="regression"), "photos")
    np.testing.assert_array_equal(y, [[2.0], [4.0]])
    columns.target_names = (NFD, NFC)  # both are there: they are two
    y, _ = matched(from_columns(2, columns), model(NFC, task="regression"), "photos")
    np.testing.assert_array_equal(y, [[2.0], [4.0]])


def test_other_names_are_other_classes():
    about = from_columns(1, Columns(label=["cafe"]))
    with pytest.raises(SourceError, match=f"only the source has cafe, only the model {NFC}"):
        matched(about, model(NFC), "photos")


@pytest.mark.parametrize("other", ["moss", "unknown"])
def test_other_classes_are_unknown_to_a_model_that_says_so(other):
    about = from_columns(4, Columns(label=["tea", other, None, NFD]))
    open_ = model("tea", NFC, "mate", says_unknown=True)
    y, absent = matched(about, open_, "photos")
    assert (y.tolist(), absent) == ([0, 3, -1, 1], ("mate",))
    assert strangers(about, open_) == (other,)
