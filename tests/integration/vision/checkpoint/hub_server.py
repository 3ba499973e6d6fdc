"""A stand-in for the hub that holds one repository: its listing, and its files with the hub's headers."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_SUFFIX = ".safetensors"  #: files that the hub keeps in LFS, named by their sha256


class Hub:
    """The repository's files, and the requests that came."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.downloads: list[str] = []
        self.url = ""

    def etag(self, name: str) -> str:
        """The hub's ETag: sha256 of a large file, git's sha1 of a small one."""
        data = self.files[name]
        if name.endswith(LARGE_SUFFIX):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def tree(self) -> list[dict[str, object]]:
        """The listing of the repository."""
        return [
            {"type": "file", "path": name, "size": len(data), "oid": self.etag(name)}
            for name, data in self.files.items()
        ]


@contextmanager
def serve_hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve `files` as every repository at every revision."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def _reply(self, with_body: bool) -> None:
            if self.path.startswith("/api/"):
                body = hub.tree() if "/tree/" in self.path else {"id": "org/name", "sha": COMMIT}
                self._send(json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)
                return
            name = self.path.rsplit("/", 1)[-1]
            if with_body:
                hub.downloads.append(name)
            etag = f'"{hub.etag(name)}"'
            headers = {"X-Repo-Commit": COMMIT, "ETag": etag, "X-Linked-ETag": etag}
            self._send(files[name], headers | {"X-Linked-Size": str(len(files[name]))}, with_body)

        def _send(self, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(200)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
