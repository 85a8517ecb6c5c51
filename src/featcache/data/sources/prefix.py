"""Folders in object storage: the objects whose keys begin alike, as a folder's files are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from featcache.data import remote
from featcache.data.sources import passed_over
from featcache.data.sources.base import Source
from featcache.data.sources.folder import Found, understood_as
from featcache.data.sources.objects import Objects, as_stamps
from featcache.data.urls import name_of


def walk(url: str) -> tuple[Found, Mapping[str, remote.Info]]:
    """Return what lies below a URL, and what its listing says of each image.

    Raises
    ------
    SourceError
        When it cannot be listed.
    """
    found, infos, left_out = Found(), {}, set()
    for path, info in remote.listed(url).items():
        name = path.rpartition("/")[2]
        place = f"{url}/{path}"
        if folder := passed_over.left_out_of(path):
            left_out.add(folder)
        elif passed_over.is_image(name):
            found.images.append(place)
            infos[place] = info
        elif path:  # else it is the object that is called as the folder is
            kind = found.archives if passed_over.is_archive(name) else found.others
            kind.append(place)
    found.left_out = Counter(folder.rpartition("/")[2] for folder in left_out)
    return found, infos


def open_prefix(url: str, found: Found, infos: Mapping[str, remote.Info]) -> Source:
    """Return the images that `walk` found below a URL as a source."""
    return understood_as(url, found, name_of(url), lambda places: listed(places, infos))


def listed(places: tuple[str, ...], infos: Mapping[str, remote.Info]) -> Objects:
    """Return objects of which a listing says what tells that they are unchanged."""
    return Objects(places, as_stamps([infos[place] for place in places]))
