from __future__ import annotations

import h5py
import numpy as np
import pytest

from featcache.core.errors import StoreError
from featcache.store import hdf5


def put_elsewhere(path, name, how):
    """Have a data set, or a group with data sets, of a file lie outside of it."""
    other = path.with_name("other.h5")
    with h5py.File(path, "r+") as file, h5py.File(other, "w") as outside:
        file.copy(name, outside, name="x")
        found = file[name]
        del file[name]
        if how == "external storage":
            path.with_name("secret").write_bytes(b"root:x:0:0:root:/root:/bin/bash\n" * 100_000)
            storage = [(str(path.with_name("secret")), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(name, found.shape, found.dtype, external=storage)
        elif how == "a virtual data set":
            layout = h5py.VirtualLayout(found.shape, found.dtype)
            layout[...] = h5py.VirtualSource(str(other), "x", found.shape)
            file.create_virtual_dataset(name, layout)
        elif how == "an external link":
            file[name] = h5py.ExternalLink(str(other), "x")
        else:
            file["on the way"] = h5py.ExternalLink(str(other), "/")
            file[name] = h5py.SoftLink("/on the way/x")


OF_A_DATA_SET = ["external storage", "a virtual data set"]
LINKS = ["an external link", "a link"]


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = np.arange(6.0).reshape(2, 3)
        file["group/y"] = np.arange(3)
        file.attrs["note"] = "of the user's own"
    return tmp_path / "f.h5"


@pytest.mark.parametrize(
    ("name", "how", "asked"),
    [
        *(("x", how, "x") for how in OF_A_DATA_SET + LINKS),
        *(("group/y", how, "group/y") for how in OF_A_DATA_SET + LINKS),
        *(("group", how, asked) for how in LINKS for asked in ("group", "group/y")),
    ],
)
def test_what_lies_outside_of_a_file_is_not_read(path, name, how, asked):
    with hdf5.reading(path) as file:
        assert file[asked] is not None
        assert asked in file
    put_elsewhere(path, name, how)
    with hdf5.reading(path) as file:
        with pytest.raises(StoreError, match=f"'{asked}' does not lie in .* it is {how}"):
            file[asked]
        if how in LINKS:  # to ask HDF5 would open the other file
            with pytest.raises(StoreError, match=f"it is {how}"):
                assert asked in file
        assert "neither" not in file
        assert file.attrs["note"] == "of the user's own"
