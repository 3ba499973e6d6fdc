"""Servers that misbehave: raw sockets on loopback, one thread for each connection, everything closed at the end."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Behave = Callable[[socket.socket], object]

LINE = b"HTTP/1.1 200 OK\r\n"


@dataclass
class BadReceiver:
    """A listening receiver: its port, and the requests and connections it saw."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)  #: asked for by SNI

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


@contextmanager
def bad_receiver(behave: Behave, *, tls: ssl.SSLContext | None = None, reads: bool = True) -> Iterator[BadReceiver]:
    """Listen on loopback while the block runs; read each request (unless told not to) and then `behave`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = BadReceiver(server.getsockname()[1])
        ending = threading.Event()
        open_now: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(10)
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                    open_now.append(connection)
                if reads:
                    seen.requests.append(read_request(connection))
                behave(connection)

        def accept() -> None:
            while not ending.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.connections += 1
                open_now.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

        if tls is not None:
            tls.sni_callback = lambda _, name, __: seen.names.append(name)
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield seen
        finally:
            ending.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            for connection in open_now:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            for thread in (accepting, *threads):
                thread.join()


def read_request(connection: socket.socket) -> bytes:
    """Read one request, as long as its content-length says."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


def says(answer: bytes) -> Behave:
    """Send `answer` and close."""
    return lambda connection: connection.sendall(answer)


def answers(status: int, headers: str = "", body: bytes = b"") -> Behave:
    """Respond as a correct server does."""
    head = f"HTTP/1.1 {status} Reason\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return says(head.encode("latin-1") + body)


def floods(beginning: bytes, again: bytes) -> Behave:
    """Send `beginning`, then `again` without end."""

    def flood(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(again * 100)

    return flood


def drips(beginning: bytes, again: bytes, every: float = 0.05) -> Behave:
    """Send `beginning`, then `again` slowly without end."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while not threading.Event().wait(every):
            connection.sendall(again)

    return drip


def is_silent(connection: socket.socket) -> None:
    """Say nothing until the other side goes."""
    connection.recv(1)


def hangs_up(connection: socket.socket) -> None:
    """Close without a word."""
