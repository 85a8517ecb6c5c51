"""Listings: what one look found, for good."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from conftest import make_photos

from featcache.data import openers
from featcache.data.listing import list_images


@pytest.fixture
def listing(tmp_path):
    root = make_photos(tmp_path / "p")
    source = openers.open_source(root)
    (root / "pear" / "pear ü1.jpg").unlink()  # between opening and looking
    return list_images(source, 10_000)


def test_nothing_in_a_listing_changes(listing):
    for name in ("digests", "orientations", "stamps"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(listing, name)[0] = 0
    with pytest.raises(TypeError):
        listing.unreadable[0] = "because"
    with pytest.raises(FrozenInstanceError):
        listing.max_pixels = 3


def test_what_a_listing_was_made_of_may_change_without_it(listing):
    given = dict(listing.unreadable)
    digests = np.array(listing.digests)
    again = type(listing)(
        listing.source, digests, listing.orientations, listing.stamps, given, 10_000, 0
    )
    given.clear()
    assert dict(again.unreadable) == dict(listing.unreadable) != {}


def test_a_listing_travels(listing):
    again = pickle.loads(pickle.dumps(listing))
    assert again.source.ids == listing.source.ids
    assert dict(again.unreadable) == dict(listing.unreadable)
    assert (again.max_pixels, again.looked_at_ns) == (10_000, listing.looked_at_ns)
    for name in ("digests", "orientations", "stamps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(listing, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(again, name)[0] = 0


def test_a_part_of_a_listing_is_that_of_a_part_of_the_source(listing):
    (gone,) = listing.unreadable
    rows = np.array([0, gone, 20])
    some = listing.take(rows)
    assert some.source.ids == tuple(listing.source.ids[row] for row in rows)
    np.testing.assert_array_equal(some.digests, listing.digests[rows])
    assert some.unreadable == {1: listing.unreadable[gone]}
    assert some.stamp(1) is None
    assert some.stamp(0) == listing.stamp(0) is not None
