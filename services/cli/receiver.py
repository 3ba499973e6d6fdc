"""A webhook receiver on loopback, for `tileq demo`."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class ReceivedWebhook:
    """One webhook as it was received."""

    path: str
    headers: dict[str, str]
    body: str


class Receiver:
    """The received webhooks in order, and the URL to send them to."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.received: queue.SimpleQueue[ReceivedWebhook] = queue.SimpleQueue()

    def next(self, timeout: float) -> ReceivedWebhook | None:
        """Return the next webhook, or None if none comes within `timeout` seconds."""
        try:
            return self.received.get(timeout=timeout)
        except queue.Empty:
            return None


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("content-length", 0)), _MAX_BODY_BYTES)).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.put(ReceivedWebhook(self.path, headers, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver")
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
