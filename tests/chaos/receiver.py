"""The receiver of the webhooks: verifies each, writes it into the ledger, and misbehaves on request."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self

from standardwebhooks import Webhook, WebhookVerificationError

from tests.chaos.ledger import Arrival, Ledger

Mood = Literal["well", "slow", "reset", "errors"]
SLOW_S = 3.0


class Receiver:
    """Listens on loopback while the block runs. For being down, put it behind a `FaultProxy`."""

    def __init__(self, ledger: Ledger, secret: str) -> None:
        self.mood: Mood = "well"
        self.counts: Counter[str] = Counter()  #: requests by mood
        self._ledger = ledger
        self._webhook = Webhook(secret)
        self._ending = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, headers: dict[str, str], body: str) -> None:
        """Write one request down."""
        event = json.loads(body)
        try:
            self._webhook.verify(body, headers)
            verified = True
        except WebhookVerificationError:
            verified = False
        self._ledger.arrive(
            Arrival(headers.get("webhook-id", ""), event["data"]["id"], event["type"], verified, time.time())
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                mood = receiver.mood
                receiver.counts[mood] += 1
                if mood == "slow":
                    receiver._ending.wait(SLOW_S)
                if mood == "reset":
                    self.connection.close()
                    return
                if mood != "errors":
                    receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(503 if mood == "errors" else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are part of the game."""
