"""Tar files in WebDataset's layout: files of one sample share a key, and lie side by side.

A key is a member's path up to the first dot of its name. Beside the image a sample may have `.cls`
(its class) and `.json` (an object with `label`, `labels`, `target`, `split`, `group`). Nothing is
unpacked: images are read where they lie.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.errors import SourceError, one_line
from featcache.core.labels import SPLITS, from_columns
from featcache.data.sources.base import Source, as_id, sorted_ids
from featcache.data.sources.contents import Members
from featcache.data.sources.folder import SUFFIXES
from featcache.data.sources.manifest import columns_of

CLASS, RECORD = "cls", "json"
BLOCK = tarfile.BLOCKSIZE


def open_archive(path: Path, root: str | None, target: str | None) -> Source:
    """Return the images in one tar file, which has no use for `root`; see `open_shards`."""
    path = path.resolve()
    return open_shards(path, [os.fspath(path)], target)


def open_shards(root: Path, archives: Sequence[str], target: str | None) -> Source:
    """Return the images in tar files; ids are SHARD/MEMBER, the shard relative to `root`.

    Raises
    ------
    SourceError
        When a tar file is damaged or compressed, has no images, or a member's name leads outside.
    """
    members: list[tuple[str, int, int, int]] = []  # id, archive, offset, size
    records: list[dict[str, Any]] = []
    passed_over = 0
    archives = sorted(archives)
    for number, archive in enumerate(archives):
        shard = as_id(os.path.relpath(archive, root)) if root.is_dir() else Path(archive).name
        images, known, others = _read_headers(archive)
        passed_over += others
        for member in images:
            members.append(
                (f"{shard}/{as_id(member.name)}", number, member.offset_data, member.size)
            )
            record = known.get(_key(member.name), {})
            top = shard.split("/")[0].lower()
            records.append({"split": top} | record if "/" in shard and top in SPLITS else record)
    if not members:
        raise SourceError(
            f"There are no images in the tar files of '{root}'; expected members ending in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    ids = [id_ for id_, *_ in members]

    def where(row: int) -> str:
        _, number, offset, _ = members[row]
        return f"'{ids[row]}', byte {offset} of '{archives[number]}'"

    order = sorted_ids(ids, where)
    annotations = from_columns(len(ids), columns_of(records, target, where), where)
    columns = np.array([member[1:] for member in members], np.int64)[order].T
    return Source(
        name=root.stem if root.is_file() else root.name,
        origin=os.fspath(root),
        ids=tuple(ids[row] for row in order.tolist()),
        contents=Members(tuple(archives), *columns),
        annotations=annotations.take(order),
        options={"target": target} if target else {},
        n_passed_over=passed_over,
    )


def _read_headers(
    archive: str,
) -> tuple[list[tarfile.TarInfo], dict[str, dict[str, Any]], int]:
    """Return a tar file's images, what is said of each key, and the number of other members."""
    images: list[tarfile.TarInfo] = []
    known: dict[str, dict[str, Any]] = defaultdict(dict)
    others, end = 0, 0
    try:
        with tarfile.open(archive, "r:", errorlevel=2) as tar:
            for member in tar:
                # data fill up whole blocks, and a block of zeros ends the file
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if not member.isfile():
                    continue
                _check_name(archive, member.name)
                name = member.name.rpartition("/")[2]
                extension = name.partition(".")[2].lower()
                if name.startswith("."):
                    others += 1
                elif extension in (CLASS, RECORD):
                    reader = tar.extractfile(member)
                    assert reader is not None
                    text = reader.read().decode("utf-8")
                    said = _said(extension, text, member.name, archive)
                    known[_key(member.name)].update(said)
                elif os.path.splitext(name)[1].lower() in SUFFIXES:
                    images.append(member)
                else:
                    others += 1
    except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        reason = one_line(error)
        raise SourceError(
            f"'{archive}' is damaged or no plain tar file, after {len(images)} images: {reason}. "
            f"Copy it again; unpack a compressed one first."
        ) from error
    with Path(archive).open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):  # tarfile takes many a cut for the end
            raise SourceError(
                f"'{archive}' is damaged: it breaks off after byte {end}, {len(images)} images. "
                f"Copy it again."
            )
    return images, known, others


def _check_name(archive: str, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"Member '{name}' of '{archive}' leads outside of it. Repack it.")


def _key(name: str) -> str:
    """Return a member's path up to the first dot of its name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _said(extension: str, text: str, name: str, archive: str) -> dict[str, Any]:
    if extension == CLASS:
        return {"label": text.strip()}
    try:
        record = json.loads(text)
    except ValueError as error:
        raise SourceError(f"Member '{name}' of '{archive}' is no JSON: {error}.") from error
    return record if isinstance(record, dict) else {}
