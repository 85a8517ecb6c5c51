from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack

import pytest

from featcache.core import process


def test_what_is_written_to_descriptor_2_is_caught_in_our_own_process(capfd):
    with process.owned(), process.stderr_caught() as caught:
        os.write(2, b"from C++\n")
        print("from Python", file=sys.__stderr__)
    assert caught.said == b"from C++\nfrom Python\n"
    assert capfd.readouterr().err == ""


def test_in_somebody_elses_process_descriptors_are_left_alone(capfd, monkeypatch):
    assert not process.is_own()
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup2", lambda *_: pytest.fail("a descriptor was swapped"))
        with process.stderr_caught() as caught:
            os.write(2, b"heard\n")
    assert caught.said == b""
    assert capfd.readouterr().err == "heard\n"


def test_an_error_gives_descriptor_2_back(capfd):
    with pytest.raises(KeyError), process.owned(), process.stderr_caught():
        raise KeyError
    assert not process.is_own()
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_filters_of_warnings_are_as_they_were_once_all_have_left():
    """Two threads, one after the other in, and the first one out again while the second is in."""
    before = list(warnings.filters)
    first, second = ExitStack(), ExitStack()
    first.enter_context(process.ignored("odd", UserWarning))
    second.enter_context(process.ignored("odd", UserWarning))
    warnings.filterwarnings("ignore", "of the user's own")  # meanwhile, by a third
    first.close()
    warnings.warn("odd", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning, match="strange"):
        warnings.warn("strange", UserWarning, stacklevel=1)
    second.close()
    with pytest.raises(UserWarning, match="odd"):
        warnings.warn("odd", UserWarning, stacklevel=1)
    assert warnings.filters[1:] == before
    assert warnings.filters[0][1].pattern == "of the user's own"


def test_filters_that_were_reset_meanwhile_stay_so():
    with process.ignored(module="PIL"):
        warnings.resetwarnings()
    assert warnings.filters == []
