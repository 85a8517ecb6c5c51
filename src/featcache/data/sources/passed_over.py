"""What is an image and what lies between them: decided here, for folders, tar files and lists.

Nothing is opened; names decide. What is not taken is counted, so that it can be said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from featcache.core.text import counted, few

SUFFIXES = {  # files that are images by name; all others are passed over
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib"),
    *(".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"),
}
ARCHIVE = ".tar"
# folders of thumbnails, deleted files and resource forks, which nobody put there; in lower case.
# Those with a dot in front, as .thumbnails and .Trash-1000, are hidden, and left out as such
LEFT_BY_SYSTEMS = {
    *("__macosx", "network trash folder", "temporary items"),  # macOS, and zip files made on it
    *("$recycle.bin", "system volume information", "found.000"),  # Windows
    "lost+found",  # Linux
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin"),  # Synology
    *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
    "~snapshot",  # NetApp
}
OTHER_PICTURES = {  # endings of pictures from cameras and programs, in formats that are not taken
    *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".psd", ".xcf"),
    *(".svg", ".eps", ".ico", ".icns", ".exr", ".hdr", ".pcx", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
}
PACKED = {".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst"}
NO_PICTURES = {  # beside images; whatever has another ending, or none, may be a picture
    *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml"),
    *(".html", ".htm", ".pdf", ".log", ".ini", ".db", ".xmp", ".aae", ".lnk", ".url", ".parquet"),
    *(".mp4", ".mov", ".avi", ".mkv", ".m4v", ".3gp", ".webm", ".mp3", ".wav", ".m4a"),
    *(".npy", ".npz", ".h5", ".mat", ".py", ".sh", ".js", ".css", ".doc", ".docx", ".xls", ".xlsx"),
    *(".tar", ".cls", *PACKED),
}
LOST_SHARE = 0.1  # of a class's images; one that lost more is named
SHOWN_KINDS = 8


def ending(name: str) -> str:
    """Return a file name's ending in lower case, as .jpg."""
    return os.path.splitext(name)[1].lower()


def is_left_out(folder: str) -> bool:
    """Return whether a folder of this name is left out: hidden, or of a system's own."""
    return folder.startswith(".") or folder.lower() in LEFT_BY_SYSTEMS


def left_out_of(path: str) -> str:
    """Return the outermost folder in a path, with / in it, that is left out; "" where none is."""
    parts = path.split("/")
    for n, part in enumerate(parts[:-1], start=1):
        if is_left_out(part) and part not in (".", ".."):
            return "/".join(parts[:n])
    return ""


def images_among(names: Iterable[str]) -> set[str]:
    """Return which files are images, by their names."""
    suffix = os.path.splitext
    return {
        name for name in names if not name.startswith(".") and suffix(name)[1].lower() in SUFFIXES
    }


def is_image(name: str) -> bool:
    """Return whether a file of this name is an image."""
    return bool(images_among((name,)))


def is_archive(name: str) -> bool:
    """Return whether a file of this name is a tar file."""
    return not name.startswith(".") and ending(name) == ARCHIVE


def kind_of(name: str) -> str:
    """Return what a file that is passed over is counted as: its ending, as a rule."""
    suffix = ending(name)
    if name == ".DS_Store":
        return name
    if name.startswith("."):
        return "._*" if name.startswith("._") else f"hidden {suffix}".rstrip()
    return suffix or "without an ending"


@dataclass
class PassedOver:
    """What lies with images and is not taken."""

    files: Counter[str] = field(default_factory=Counter)  # by `kind_of`
    folders: Counter[str] = field(default_factory=Counter)  # left out with all in them, by name

    def __add__(self, other: PassedOver) -> PassedOver:
        return PassedOver(self.files + other.files, self.folders + other.folders)

    @property
    def n_files(self) -> int:
        """Number of files, without those in folders that are left out."""
        return self.files.total()

    def told(self) -> str:
        """Return how many files of which kind, as "3 .heic, 1 .db"."""
        return _told(self.files)

    def sentence(self) -> tuple[str, ...]:
        """Return how many files of which kind as a sentence, if there are any."""
        if not self.files:
            return ()
        return (f"Passed over {counted(self.n_files, 'other file')}: {self.told()}.",)

    def instead(self) -> str:
        """Return, to end a sentence on missing images with, what there is instead of them."""
        return f"; there are {self.told()}" if self.files else ""

    def remarks(self) -> tuple[str, ...]:
        """Return what a reader should know and can do, a sentence each."""
        made = []
        if self.folders:
            made.append(
                f"Left out folders that are hidden, or made by file managers and servers: "
                f"{_told(self.folders)}."
            )
        if pictures := sorted(OTHER_PICTURES & self.files.keys()):
            made.append(
                f"Pictures in {', '.join(pictures)} are not read; convert them to JPEG or PNG."
            )
        if packed := sorted(PACKED & self.files.keys()):
            made.append(f"Nothing in {', '.join(packed)} is read; unpack what has images.")
        return tuple(made)


def may_be_lost(images: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the paths of files that may be pictures, and have no image of their name beside them.

    A camera's raw file beside its JPEG, or a text beside an image, takes nothing away.
    """
    some = [path for path in others if _may_be_picture(os.path.basename(path))]
    if not some:
        return []
    taken = {name for path in images for name in (path, os.path.splitext(path)[0])}
    return [path for path in some if os.path.splitext(path)[0] not in taken]


def lost_classes(taken: Mapping[str, int], lost: Mapping[str, int], how: str) -> tuple[str, ...]:
    """Return a sentence that names the classes that lost more than `LOST_SHARE` of their images.

    Parameters
    ----------
    taken, lost : numbers of images by class.
    how : they were lost, as a part of the sentence.
    """
    total = {name: n + taken.get(name, 0) for name, n in lost.items()}
    found = [name for name, n in lost.items() if n > LOST_SHARE * total[name]]
    found.sort(key=lambda name: (-lost[name] / total[name], name))
    if not found:
        return ()
    named = [f"{lost[name]} of {total[name]} of class '{name}'" for name in found[:SHOWN_KINDS]]
    more = f" and of {len(found) - len(named)} more classes" if len(found) > len(named) else ""
    return (f"Images lost {how}: {', '.join(named)}{more}.",)


def in_left_out(paths: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence on listed paths that the folder they lie in would not have given."""
    found = [path for path in paths if left_out_of(path)]
    if not found:
        return ()
    return (
        f"Listed paths in hidden folders, or in those of file managers and servers, as thumbnails "
        f"are: {len(found)}; they were taken: {few(found)}.",
    )


def _told(counts: Counter[str]) -> str:
    order = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    more = f" and {len(order) - SHOWN_KINDS} more kinds" if len(order) > SHOWN_KINDS else ""
    return ", ".join(f"{n} {kind}" for kind, n in order[:SHOWN_KINDS]) + more


def _may_be_picture(name: str) -> bool:
    return not name.startswith(".") and ending(name) not in NO_PICTURES
