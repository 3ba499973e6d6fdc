"""What tests of outbound calls share: scripted look-ups, a dial that leads to loopback, a spy on sockets."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shared.outbound.ssrf import Address, Lookup
from tests.unit.shared.outbound.test_ssrf import PUBLIC, looks_up


class Nat:
    """Dials: remembers every address, and leads all of them to one port of loopback."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.dialled: list[str] = []

    def __call__(self, address: Address, port: int, timeout: float) -> socket.socket:
        self.dialled.append(str(address))
        if not self.port:
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.create_connection(("127.0.0.1", self.port), timeout)


SPIES: list[list[object]] = []


def _spy(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for seen in SPIES:
            seen.append(arguments[1])


sys.addaudithook(_spy)  # never taken away again: Python has no way to


@contextmanager
def spied_connections() -> Iterator[list[object]]:
    """Give the addresses that any socket of this process is connected to meanwhile, as Python's audit events tell."""
    seen: list[object] = []
    SPIES.append(seen)
    try:
        yield seen
    finally:
        SPIES.remove(seen)


class Answers:
    """Looks up: one scripted answer after another, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked = 0
        self._answers = answers

    def __call__(self, host: str, port: int, **_: Any) -> Sequence[tuple[Any, ...]]:
        self.asked += 1
        return looks_up(*self._answers[self.asked - 1])(host, port)


def fails(*_: Any, **__: Any) -> Sequence[tuple[Any, ...]]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def takes_too_long(*_: Any, **__: Any) -> Sequence[tuple[Any, ...]]:
    threading.Event().wait(2)
    return []


def flips() -> Lookup:
    """Leads home, then to a public address: what a look-up of its own between check and connection would fall for."""
    return Answers(("127.0.0.1",), (PUBLIC,))


#: Everything that leads home, by a name whose look-up is scripted.
LEADS_HOME: dict[str, Callable[[], Lookup]] = {
    "to a private address": lambda: looks_up("10.0.0.1"),
    "to this machine, then out": flips,
    "A out, AAAA home": lambda: looks_up(PUBLIC, "fd00:ec2::254"),
    "AAAA out, A home": lambda: looks_up("2606:4700::1111", "192.168.0.1"),
    "by an alias inside": lambda: looks_up("169.254.169.254"),  # an alias is followed before addresses are seen
    "nowhere": lambda: fails,
    "late": lambda: takes_too_long,
}
