"""Reading rows from files that may turn out damaged, or that other processes replace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from featcache.store.hdf5 import file_state
from featcache.store.index import DamagedFileError, ReplacedFileError, Rows


class Attempts:
    """Tries at reading rows, each from the top when a lender failed during the one before.

    >>> attempts = Attempts(at_most=10)
    >>> for _ in attempts:
    ...     with attempts:
    ...         rows = attempts.rows([])  # and what reads them; `return` when it is done

    Parameters
    ----------
    at_most : tries; None is no limit.
    passed_by : files that lend nothing from the start.
    on_damage : told of each file that turns out damaged.
    """

    def __init__(
        self,
        at_most: int | None = None,
        passed_by: Iterable[Path] = (),
        on_damage: Callable[[DamagedFileError], None] = lambda error: None,
    ):
        # as they are now: another file in the place of one may lend again
        self._passed_by = {(path, file_state(path)) for path in passed_by}
        self._at_most = at_most
        self._on_damage = on_damage

    def __iter__(self) -> Iterator[int]:
        return iter(itertools.count() if self._at_most is None else range(self._at_most))

    def __enter__(self) -> Attempts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Keep the error of a lender back: the next try does without it, or finds it anew."""
        if isinstance(error, DamagedFileError):
            self._passed_by.add((error.path, file_state(error.path)))
            self._on_damage(error)
            return True
        return isinstance(error, ReplacedFileError)

    def rows(self, lenders: Iterable[Path]) -> Rows:
        """Return the rows of the files that are not known to be damaged."""
        return Rows(one for one in dict.fromkeys(lenders) if not self.passes_by(one))

    def passes_by(self, lender: Path) -> bool:
        """Return whether a file lends nothing: it is known to be damaged, or not to be asked."""
        return (lender, file_state(lender)) in self._passed_by
