"""An egress proxy on loopback that leads every tunnel to one port, and keeps what it was asked."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """A listening proxy. `answer` is sent instead of opening the tunnel where it is not empty."""

    port: int
    leads_to: int = 0
    answer: bytes = b""
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def authorities(self) -> list[str]:
        return [head.split()[1] for head in self.heads]


@contextmanager
def connect_proxy(leads_to: int = 0, answer: bytes = b"") -> Iterator[ConnectProxy]:
    """Listen while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = ConnectProxy(server.getsockname()[1], leads_to, answer)
        sockets: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def run(work: object, *args: object) -> None:
            threads.append(threading.Thread(target=work, args=args))  # type: ignore[arg-type]
            threads[-1].start()

        def relay(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve(client: socket.socket) -> None:
            with suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head and (part := client.recv(4096)):
                    head += part
                proxy.heads.append(head.decode("ascii"))
                if proxy.answer or not proxy.leads_to:
                    client.sendall(proxy.answer)
                    client.shutdown(socket.SHUT_WR)
                    return
                upstream = socket.create_connection(("127.0.0.1", proxy.leads_to))
                sockets.append(upstream)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                run(relay, upstream, client)
                relay(client, upstream)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    sockets.append(client)
                    run(serve, client)

        run(accept)
        try:
            yield proxy
        finally:
            for one in (server, *sockets):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            for thread in list(threads):
                thread.join()
