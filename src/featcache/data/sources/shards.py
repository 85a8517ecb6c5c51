"""Tar files in WebDataset's layout: files of one sample share a key, and lie side by side.

A key is a member's path up to the first dot of its name. Beside the image a sample may have `.cls`
(its class) and `.json` (an object with `label`, `labels`, `target`, `boxes`, `split`, `group`).
Nothing is unpacked: images are read where they lie.
"""

from __future__ import annotations

import copy
import json
import os
import posixpath
import tarfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featcache.core.errors import SourceError, one_line
from featcache.core.labels import SPLITS, clean, from_columns
from featcache.core.text import composed, counted
from featcache.data import remote
from featcache.data.sources import passed_over
from featcache.data.sources.base import Source, as_id, sorted_ids
from featcache.data.sources.boxed import in_images
from featcache.data.sources.cells import columns_of
from featcache.data.sources.contents import Contents, Members
from featcache.data.sources.download import Download
from featcache.data.sources.objects import ObjectMembers, as_stamps
from featcache.data.sources.passed_over import SUFFIXES, PassedOver
from featcache.data.urls import is_url, name_of, shown

CLASS, RECORD = "cls", "json"
BLOCK = tarfile.BLOCKSIZE
AT_ONCE = 8  # tar files on a server whose headers are read


@dataclass
class Held:
    """What one tar file holds."""

    images: list[tarfile.TarInfo] = field(default_factory=list)
    said: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))  # by key
    others: list[str] = field(default_factory=list)  # names of other members
    left_out: set[str] = field(default_factory=set)  # folders, with all that is in them
    info: remote.Info = field(default_factory=dict)  # of the tar file, from its server

    def of(self, name: str) -> dict[str, Any]:
        """Return what is said of a member, be it in another Unicode form."""
        key = _key(name)
        return self.said.get(key) or self._in_one_form.get(composed(key), {})

    def not_taken(self) -> PassedOver:
        """Return what was not taken."""
        return PassedOver(
            Counter(passed_over.kind_of(name.rpartition("/")[2]) for name in self.others),
            Counter(folder.rpartition("/")[2] for folder in self.left_out),
        )

    def lost(self) -> Counter[str]:
        """Return by label how many members may be pictures that were not taken."""
        names = passed_over.may_be_lost([one.name for one in self.images], self.others)
        labels = (self.of(name).get("label") for name in names)
        return Counter(composed(clean(str(label))) for label in labels if label is not None)

    @cached_property
    def _in_one_form(self) -> dict[str, dict[str, Any]]:
        return {composed(key): record for key, record in self.said.items()}


def open_archive(path: Path | Download, root: str | None, target: str | None) -> Source:
    """Return the images in one tar file, which has no use for `root`; see `open_shards`."""
    place = path.url if isinstance(path, Download) else os.fspath(path.resolve())
    return open_shards(place, [place], target)


def open_shards(
    root: str, archives: Sequence[str], target: str | None, beside: PassedOver | None = None
) -> Source:
    """Return the images in tar files; ids are SHARD/MEMBER, the shard relative to `root`.

    Of tar files on a server only the headers are read, and whatever shares a block with them.

    Parameters
    ----------
    root : a folder's path or URL, or the one tar file's.
    beside : what lies beside the tar files.

    Raises
    ------
    SourceError
        When a tar file is damaged or compressed, has no images, or a member's name leads outside.
    """
    members: list[tuple[str, int, int, int]] = []  # id, archive, offset, size
    records: list[dict[str, Any]] = []
    not_taken, lost = beside or PassedOver(), Counter[str]()
    archives, name = sorted(archives), name_of(root) if is_url(root) else os.path.basename(root)
    is_alone = archives == [root]
    with ThreadPoolExecutor(AT_ONCE if is_url(root) else 1) as pool:
        every = list(pool.map(_read_headers, archives))
    for number, (archive, held) in enumerate(zip(archives, every, strict=True)):
        shard = as_id(name) if is_alone else as_id(archive[len(os.path.join(root, "")) :])
        not_taken += held.not_taken()
        lost += held.lost()
        for member in held.images:
            members.append(
                (f"{shard}/{as_id(member.name)}", number, member.offset_data, member.size)
            )
            record = held.of(member.name)
            top = shard.split("/")[0].lower()
            records.append({"split": top} | record if "/" in shard and top in SPLITS else record)
    if not members:
        raise SourceError(
            f"There are no images in the tar files of '{shown(root)}'; expected members ending in "
            f"{', '.join(sorted(SUFFIXES))}{not_taken.instead()}."
        )
    ids = [id_ for id_, *_ in members]

    def where(row: int) -> str:
        _, number, offset, _ = members[row]
        return f"'{ids[row]}', byte {offset} of '{shown(archives[number])}'"

    order = sorted_ids(ids, where)
    contents = _contents(archives, every, *np.array([one[1:] for one in members], np.int64).T)
    columns = in_images(columns_of(records, target, where), contents)
    annotations = from_columns(len(ids), columns, where)
    labels = annotations.labels if columns.label is not None else np.zeros(0, int)
    n_images = Counter(composed(annotations.class_names[label]) for label in labels[labels >= 0])
    return Source(
        name=os.path.splitext(name)[0] if is_alone else name,
        origin=shown(root),
        ids=tuple(ids[row] for row in order.tolist()),
        contents=contents.take(order),
        annotations=annotations.take(order),
        options={"target": target} if target else {},
        passed_over=not_taken,
        notes=passed_over.lost_classes(n_images, lost, "in members that were passed over"),
    )


def _contents(
    archives: Sequence[str],
    every: Sequence[Held],
    archive: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
) -> Contents:
    if not is_url(archives[0]):
        return Members(tuple(archives), archive, offsets, sizes)
    stamps = as_stamps([held.info for held in every])[archive]
    stamps[stamps[:, 0] >= 0, 0] = sizes[stamps[:, 0] >= 0]
    return ObjectMembers(tuple(archives), archive, offsets, sizes, stamps)


def _opened(archive: str) -> tuple[BinaryIO, remote.Info]:
    return remote.archive(archive) if is_url(archive) else (Path(archive).open("rb"), {})


def _read_headers(place: str) -> Held:
    """Return what a tar file holds."""
    file, info = _opened(place)
    held, end, archive = Held(info=info), 0, shown(place)
    stored: dict[str, tarfile.TarInfo] = {}
    try:
        with file, tarfile.open(fileobj=file, mode="r:", errorlevel=2) as tar:
            for member in tar:
                # data fill up whole blocks, and a block of zeros ends the file
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if not (member.isfile() or member.islnk() or member.issym()):
                    continue
                _check_name(archive, member.name)
                name = member.name.rpartition("/")[2]
                if member.islnk():  # a file of two names is packed once
                    member = _of_link(archive, member, stored)
                stored[posixpath.normpath(member.name)] = member
                extension = name.partition(".")[2].lower()
                if folder := passed_over.left_out_of(member.name):
                    held.left_out.add(folder)
                elif member.issym():
                    held.others.append(member.name)
                elif extension in (CLASS, RECORD) and not name.startswith("."):
                    reader = tar.extractfile(member)
                    assert reader is not None
                    text = reader.read().decode("utf-8-sig")
                    said = _said(extension, text, member.name, archive)
                    known = held.said[_key(member.name)]
                    # whichever comes first, the record says more
                    known.update(said if extension == RECORD else said | known)
                elif passed_over.is_image(name):
                    held.images.append(member)
                else:
                    held.others.append(member.name)
            file.seek(end)
            is_ended = file.read(BLOCK) == bytes(BLOCK)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"'{archive}' cannot be read: {error.strerror or error}.") from None
    except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        reason = one_line(error)
        raise SourceError(
            f"'{archive}' is damaged or no plain tar file, after "
            f"{counted(len(held.images), 'image')}: "
            f"{reason}. Copy it again; unpack a compressed one first."
        ) from error
    if not is_ended:  # tarfile takes many a cut for the end
        raise SourceError(
            f"'{archive}' is damaged: it breaks off after byte {end}, "
            f"{counted(len(held.images), 'image')}. Copy it again."
        )
    return held


def _check_name(archive: str, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"Member '{name}' of '{archive}' leads outside of it. Repack it.")


def _of_link(
    archive: str, link: tarfile.TarInfo, stored: Mapping[str, tarfile.TarInfo]
) -> tarfile.TarInfo:
    """Return the member that a hard link is another name of, by that name."""
    found = stored.get(posixpath.normpath(link.linkname))
    if found is None:
        raise SourceError(
            f"Member '{link.name}' of '{archive}' is a link to '{link.linkname}', which is not in "
            f"it. Pack it again with --hard-dereference."
        )
    named = copy.copy(found)
    named.name = link.name
    return named


def _key(name: str) -> str:
    """Return a member's path up to the first dot of its name."""
    folder, slash, file = posixpath.normpath(name).rpartition("/")
    return folder + slash + file.partition(".")[0]


def _said(extension: str, text: str, name: str, archive: str) -> dict[str, Any]:
    if extension == CLASS:
        return {"label": text.strip()}
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"Member '{name}' of '{archive}' is no JSON: {error}.") from error
    return record if isinstance(record, dict) else {}
