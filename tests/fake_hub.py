"""A hub on the loopback with one dataset repository: as much of the Hugging Face hub's HTTP interface as is needed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

REPOSITORY = "somebody/some-data"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALLEST_LFS = 1500  # bytes; smaller files are in git itself, and the hub says no sha256 of them


class FakeHub:
    """What the repository holds, how it misbehaves, and what it was asked.

    files: content by path. says_hashes: whether large files are kept by their sha256. wrong_hashes: paths of which it
    says another. cuts: by path, after how many bytes of each next answer the connection ends. refuses: paths that are
    answered with 503 once their cuts are used up. downloads: (path, first byte) of each, in order.
    strange: requests that nobody should make.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.says_hashes = True
        self.wrong_hashes: set[str] = set()
        self.cuts: dict[str, list[int]] = {}
        self.refuses: set[str] = set()
        self.knows_ranges = True
        self.downloads: list[tuple[str, int]] = []
        self.strange: list[str] = []
        self.endpoint = ""

    def downloaded(self) -> list[str]:
        """Names of the files that were asked for, the published manifest left out."""
        return [path.rpartition("/")[2] for path, _ in self.downloads if path != "datasets/manifest.json"]

    def info(self, path: str) -> dict:
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if self.says_hashes and len(content) >= SMALLEST_LFS:
            said = b"other" if path in self.wrong_hashes else content
            entry["lfs"] = {"oid": hashlib.sha256(said).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer takes 40 ms

        def do_GET(self) -> None:
            if self.path == f"/api/datasets/{REPOSITORY}":
                self._json({"id": REPOSITORY, "sha": COMMIT})
            elif self.path.startswith(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):
                path = unquote(self.path.partition(f"/resolve/{COMMIT}/")[2])
                if path in hub.files:
                    self._answer(302, b"", Location=f"/storage/{path}")
                else:
                    self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
            elif self.path.startswith("/storage/"):
                self._file(unquote(self.path.removeprefix("/storage/")))
            else:
                hub.strange.append(self.path)
                self._answer(404, b"", **{"X-Error-Code": "RepoNotFound"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path != f"/api/datasets/{REPOSITORY}/paths-info/{COMMIT}":
                self._answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
                return
            self._json([hub.info(path) for path in parse_qs(body)["paths"] if path in hub.files])

        def _file(self, path: str) -> None:
            wanted = self.headers.get("Range") if hub.knows_ranges else None
            first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            hub.downloads.append((path, first))
            if self.headers["Accept-Encoding"] != "identity":  # compressed, a file cannot be continued
                hub.strange.append(f"{path} in {self.headers['Accept-Encoding']}")
            if path in hub.refuses and not hub.cuts.get(path):
                self._answer(503, b"")
                return
            content = hub.files[path][first:]
            cut = hub.cuts[path].pop(0) if hub.cuts.get(path) else len(content)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content)))
            if wanted:
                total = first + len(content)
                self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
            self.end_headers()
            self.wfile.write(content[:cut])
            self.close_connection = cut < len(content)

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode())

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve_hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """A hub with these files, until the end of the block."""
    hub = FakeHub(files)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
