"""A webhook receiver on loopback, as small as a backend's can be."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Arrived:
    """One webhook as it came."""

    path: str
    headers: dict[str, str]
    body: str


class Receiver:
    """What came, in order, and where to send it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()

    def next(self, timeout: float) -> Arrived | None:
        """Return the next webhook, or None if none comes within `timeout` seconds."""
        try:
            return self.arrived.get(timeout=timeout)
        except queue.Empty:
            return None


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("content-length", 0)), _LARGEST)).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.arrived.put(Arrived(self.path, headers, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what arrived is shown by whoever waits for it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver")
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
