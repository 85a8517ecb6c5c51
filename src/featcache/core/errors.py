"""The errors featcache raises on purpose, each a single line that a user can act on.

Every error is a :class:`FeatcacheError` and also the builtin that fits it, so library users may
catch either. The message names the object that is wrong, what was expected, what was got and what
to do next; it never spans lines, because the command line prints it as it is.
"""

from __future__ import annotations


def one_line(what: object, limit: int | None = None) -> str:
    """Return what an error, of another library say, or a text says, on one line."""
    return " ".join(str(what).split())[:limit]


class FeatcacheError(Exception):
    """Base of all expected failures; the command line exits with `exit_code`."""

    exit_code = 1


class SpecError(FeatcacheError, ValueError):
    """An option or a name is wrong: an unknown backbone, layer, pooling, head, …"""

    exit_code = 2


class SourceError(FeatcacheError, OSError):
    """The images cannot be had: an empty folder, a missing file, nothing readable."""


class BackboneError(FeatcacheError, RuntimeError):
    """The network cannot be built or its weights cannot be had or do not fit."""


class EngineError(FeatcacheError, RuntimeError):
    """The engine that is to compute is missing, does not answer, or its workers do not fit."""


class StoreError(FeatcacheError, OSError):
    """A feature file is missing, damaged, incomplete or of another format version."""


class StorageError(FeatcacheError):
    """Object storage does not give or take what a cache folder in it needs.

    No builtin's child: who passes by a file that cannot be read must not pass by this, and compute
    what is only out of reach.
    """


class DiskError(FeatcacheError, OSError):
    """A file or folder cannot be written: there is no room, or it may not be written to."""


class HeadError(FeatcacheError, ValueError):
    """A head cannot be fitted, saved or loaded with what it was given."""


class StitchError(FeatcacheError, RuntimeError):
    """Backbone and head do not make one model that predicts what was measured."""
