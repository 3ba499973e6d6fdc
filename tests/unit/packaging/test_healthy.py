"""A container's own question: am I healthy?"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import socket

import pytest

from infra.docker.healthy import main


class _Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_process_that_answers_is_healthy(url: str) -> None:
    assert main(f"{url}/metrics") == 0


def test_a_process_that_refuses_is_not(url: str) -> None:
    assert main(f"{url}/healthz") == 1


def test_nobody_there_is_not_healthy_either() -> None:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        assert main(f"http://127.0.0.1:{free.getsockname()[1]}/metrics") == 1


def test_something_that_is_not_http_is_not_healthy() -> None:
    with socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        assert main(f"http://127.0.0.1:{server.getsockname()[1]}/metrics") == 1
        thread.join()
