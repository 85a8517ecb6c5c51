r"""Paths as people and other systems write them, and the files that are meant.

A name can be in Unicode's form NFC in a list and in NFD on the disk, as a Mac's files have it, or
the reverse; and a list made on Windows has \ between folders. A file that is there as it is written
is never taken for another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from featcache.core.text import composed

WINDOWS = "\\"


def is_of_windows(path: str) -> bool:
    r"""Return whether a path has \, where this system has / between folders."""
    return os.sep != WINDOWS and WINDOWS in path


@dataclass
class Disk:
    """Finds files; a folder is listed once, and only if something in it is not as written."""

    n_other_form: int = 0  # paths that were found in another Unicode form
    n_of_windows: int = 0  # paths that were found with / in place of \
    _names: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # by folder and form NFC
    _folders: dict[str, list[str]] = field(default_factory=dict)

    def find(self, path: str) -> str:
        """Return the path of the file or folder that is meant; as given where there is none."""
        if (path.isascii() and not is_of_windows(path)) or os.path.lexists(path):
            return path
        if found := self._in_other_form(path):
            self.n_other_form += 1
            return found
        if is_of_windows(path):
            turned = path.replace(WINDOWS, "/")
            if found := turned if os.path.lexists(turned) else self._in_other_form(turned):
                self.n_of_windows += 1
                return found
        return path

    def remarks(self) -> tuple[str, ...]:
        """Return what was found otherwise than it was written, a sentence each."""
        made = []
        if self.n_other_form:
            made.append(
                f"Paths in another Unicode form (NFC, NFD) than on the disk: {self.n_other_form}; "
                f"the files were taken."
            )
        if self.n_of_windows:
            made.append(
                f"Paths with \\ between folders, as in Windows: {self.n_of_windows}; read as /."
            )
        return tuple(made)

    def _in_other_form(self, path: str) -> str | None:
        """Return the one file that differs from a missing one in its Unicode form alone."""
        found = self._alike(path)
        return found[0] if len(found) == 1 else None

    def _alike(self, path: str) -> list[str]:
        head, tail = os.path.split(path.rstrip(os.sep))
        return [
            os.path.join(folder, name)
            for folder in self._folders_alike(head)
            for name in self._listed(folder).get(composed(tail), ())
        ]

    def _folders_alike(self, path: str) -> list[str]:
        if path not in self._folders:
            itself = [path] if os.path.isdir(path or os.curdir) else []
            others = [] if path.isascii() else self._alike(path)
            self._folders[path] = list(dict.fromkeys(itself + others))
        return self._folders[path]

    def _listed(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder or os.curdir):
                    names.setdefault(composed(name), []).append(name)
            except OSError:
                pass  # a file, or not to be read: nothing in it can be found
            self._names[folder] = names
        return self._names[folder]
