"""What is not marked slow, and so is of `make quick`, builds no full-size network and trains none.

A test that does fails and says that it wants `@pytest.mark.slow`. What uses the clip art's
features or a browser is marked by `conftest`.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest

FULL_SIZE = 1_000_000  # parameters; the tiny networks of the tests have some thousands

running: pytest.Item | None = None  # the test whose fixtures or body run
_is_watching = False


def check(what: str) -> None:
    """Fail the test that runs if it is said to be quick."""
    if running is not None and running.get_closest_marker("slow") is None:
        pytest.fail(f"{what}: mark this test with @pytest.mark.slow, so that `make quick` stays so")


def watch() -> None:
    """Look from now on at each network that is made or trained; Keras is not imported for it."""
    global _is_watching
    if _is_watching or "keras" not in sys.modules:
        return
    _is_watching = True
    from keras import Model
    from keras.src.models.functional import Functional

    make, fit = Functional.__init__, Model.fit

    # Keras compares the names of these arguments with those of a subclass
    def watched_make(
        self: Any, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any
    ) -> None:
        make(self, inputs, outputs, name=name, **kwargs)
        if (n_parameters := self.count_params()) > FULL_SIZE:
            check(f"A network of {n_parameters:,} parameters was built")

    @functools.wraps(fit)
    def watched_fit(self: Any, *arguments: Any, **options: Any) -> Any:
        check("Keras trained a network")
        return fit(self, *arguments, **options)

    Functional.__init__ = watched_make
    Model.fit = watched_fit
