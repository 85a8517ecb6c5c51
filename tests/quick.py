"""What is not marked slow, and so is of `make quick`, builds no full-size network and trains none.

A test that does fails and says that it wants `@pytest.mark.slow`. What uses the clip art's
features or a browser is marked by `conftest`, and so is what takes long for another reason: it is
named in slow.txt, which `make slow-tests` writes anew from how long the last `make test` took.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

FULL_SIZE = 1_000_000  # parameters; the tiny networks of the tests have some thousands
LONG_S = 0.7  # seconds with its fixtures, of a test or of its slowest case
LIST = Path(__file__).with_name("slow.txt")

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


def name_of(item: pytest.Item) -> str:
    """Return the name of a test function as slow.txt has it: that of its module and its own."""
    return f"{item.module.__name__}.{item.originalname}"  # type: ignore[attr-defined]


@functools.cache
def named() -> frozenset[str]:
    """Return the names in slow.txt."""
    return frozenset(LIST.read_text(encoding="utf-8").split())


def write_list(results: Path) -> None:
    """Write slow.txt from the JUnit file of a run of all tests."""
    long = set()
    for case in ElementTree.parse(results).iter("testcase"):
        if float(case.attrib["time"]) > LONG_S:
            module = next(
                part for part in case.attrib["classname"].split(".") if part.startswith("test_")
            )
            long.add(f"{module}.{case.attrib['name'].partition('[')[0].partition('@')[0]}")
    LIST.write_text("".join(f"{name}\n" for name in sorted(long)), encoding="utf-8")


if __name__ == "__main__":
    write_list(Path(sys.argv[1]))
