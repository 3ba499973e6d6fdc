"""A webhook receiver on loopback that a test can take down and bring back on the same port."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from services.cli.local.ports import free_ports


@dataclass(frozen=True)
class Arrived:
    """One request as it came."""

    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass
class Receiver:
    """Where webhooks go, what came, and what is answered."""

    port: int
    status: int = 204
    arrived: list[Arrived] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where to send webhooks."""
        return f"http://127.0.0.1:{self.port}/hook"

    def types(self) -> list[str]:
        """The types of the events that came, in order."""
        return [one.json["type"] for one in self.arrived]

    @contextmanager
    def up(self) -> Iterator[None]:
        """Listen while the block runs; before and after, connections are refused."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.arrived.append(Arrived({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


def receiver() -> Receiver:
    """Return a receiver on a free port, not listening yet."""
    (port,) = free_ports(1)
    return Receiver(port)
