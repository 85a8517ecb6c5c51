"""A server that answers as the Hugging Face Hub does, for one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = "people/tiny-dino"


class Hub:
    """What is on it, and what was asked of it.

    Parameters
    ----------
    folder : with the files of the repository's main branch.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.commit = "1" * 40
        self.asked: list[str] = []  # method and path of each request
        self.status: tuple[int, str] | None = None  # with which all is refused, and its error code
        self.cut_after: int | None = None  # bytes of a file, then the line goes dead

    def files(self) -> dict[str, bytes]:
        """Return each file's bytes by its name."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


@contextmanager
def serving(hub: Hub):
    """Yield the address of a server of it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if hub.status is not None:
                code, error = hub.status
                self.send_response(code)
                self.send_header("X-Error-Code", error)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            about, tree = f"/api/models/{REPOSITORY}/revision/", f"/api/models/{REPOSITORY}/tree/"
            if path.startswith((about, tree)):
                revision = path.removeprefix(about).removeprefix(tree)
                if revision not in ("main", hub.commit):
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RevisionNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_json(self.about() if path.startswith(about) else self.tree())
                return
            self.send_file(path.rpartition("/")[2], with_body)

        def about(self):
            siblings = [{"rfilename": name} for name in hub.files()]
            return {"id": REPOSITORY, "sha": hub.commit, "siblings": siblings}

        def tree(self):
            return [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                for name, data in hub.files().items()
            ]

        def send_json(self, value):
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def send_file(self, name, with_body):
            data = hub.files()[name]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{etag(data)}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if not with_body:
                return
            if hub.cut_after is not None and len(data) - start > hub.cut_after:
                self.wfile.write(data[start : start + hub.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def etag(data: bytes) -> str:
    """Return a digest of a file as the Hub gives it."""
    return hashlib.sha1(data).hexdigest()
