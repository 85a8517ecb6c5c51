"""Data sets on the Hugging Face Hub, by a server that answers as it does."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from featcache.core.errors import SourceError
from featcache.data import clients, openers
from featcache.data.listing import list_images

FILES = {
    "train/cat/a b.png": b"1" * 10,
    "train/dog/ü#.png": b"2" * 2000,
    "README.md": b"#",
    ".gitattributes": b"",
}
ABOUT, TREE, FILE = "/api/datasets/me/some", "/api/datasets/me/some/tree/main", "/resolve/main/"


class Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        self.asked.append(path)
        if FILE in path:
            return self.send(200, FILES[path.partition(FILE)[2]])
        if path.startswith(TREE):
            below = path.removeprefix(TREE).lstrip("/")
            said = [
                {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                for name, data in FILES.items()
                if name.startswith(below)
            ]
        elif path == ABOUT:
            said = {"id": "me/some", "sha": "1" * 40, "siblings": []}
        else:
            return self.send(404, b"{}")
        return self.send(200, json.dumps(said).encode())

    def send(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def asked(monkeypatch):
    """Paths that are asked for on the Hub."""
    hub = pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "asked", [], raising=False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    clients.file_system.cache_clear()
    hub.HfFileSystem.clear_instance_cache()
    yield Hub.asked
    clients.file_system.cache_clear()
    hub.HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_data_set_is_listed_once_and_each_image_read_once(asked):
    source = openers.open_source("hf://datasets/me/some/train")
    images = [name.removeprefix("train/") for name in FILES if name.startswith("train/")]
    assert list(source.ids) == images
    assert source.class_names == ("cat", "dog")
    assert [path for path in asked if path.startswith(TREE)] == [f"{TREE}/train"]
    asked.clear()
    listing = list_images(source)
    assert sorted(asked) == [f"/datasets/me/some{FILE}train/{name}" for name in images]
    known = {
        id_: (listing.stamp(row), listing.digests[row].tobytes())
        for row, id_ in enumerate(source.ids)
    }
    asked.clear()
    list_images(openers.open_source("hf://datasets/me/some/train"), known=known)
    assert not [path for path in asked if FILE in path]


def test_a_data_set_that_is_not_there_is_one_line(asked):
    with pytest.raises(SourceError, match="'hf://datasets/me/none' does not exist: "):
        openers.open_source("hf://datasets/me/none")
