"""Each verb of the fault proxy does to a connection what it says."""

import socket
import threading
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest

from tests.chaos.proxy import FaultProxy, Network, Trigger
from tests.waiting import eventually


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """An echo server; everything that it is sent comes back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server
        server.shutdown(socket.SHUT_RDWR)


def serve(server: socket.socket) -> None:
    try:
        while True:
            threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
    except OSError:
        return


def echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(1000):
                connection.sendall(data)
        except OSError:
            return


@pytest.fixture
def proxy(upstream: socket.socket) -> Iterator[FaultProxy]:
    with Network() as network:
        yield network.proxy("p", upstream.getsockname()[1])


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=2)


def said(connection: socket.socket, text: bytes = b"x") -> bytes:
    connection.sendall(text)
    return connection.recv(1000)


def test_what_is_sent_arrives_and_the_answer_too(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"hello") == b"hello"
    eventually(lambda: proxy.connections == 0)


def test_a_cut_resets_what_is_open_and_refuses_what_comes_until_healed(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert said(connection) == b"x"
        proxy.cut()
        with pytest.raises(ConnectionError):
            said(connection)
    with pytest.raises(ConnectionError), connect(proxy) as refused:
        said(refused)
    proxy.heal()
    with connect(proxy) as healed:
        assert said(healed) == b"x"
    assert (proxy.counts["reset"], proxy.counts["refused"]) == (1, 1)


def test_a_black_hole_keeps_everything_back_until_healed(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        proxy.hold()
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            said(connection)
        proxy.heal()
        connection.settimeout(2)
        assert connection.recv(10) == b"x"


def test_a_stranded_connection_never_works_again_and_a_new_one_does(proxy: FaultProxy) -> None:
    with connect(proxy) as old, connect(proxy) as new:
        assert said(old) == b"x"
        proxy.strand()
        proxy.heal()
        old.settimeout(0.1)
        with pytest.raises(TimeoutError):
            said(old)
        with connect(proxy) as fresh:
            assert said(fresh) == b"x"
        assert new.fileno() > 0


def test_every_http_request_gets_the_answer_that_was_ordered(proxy: FaultProxy) -> None:
    proxy.refuse_http("503 Slow Down", "<Error/>")
    for _ in range(2):
        answer = httpx.put(f"http://127.0.0.1:{proxy.port}/a", content=b"y" * 100_000)
        assert (answer.status_code, answer.text) == (503, "<Error/>")
    assert proxy.counts["answered"] == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trigger_acts_once_at_the_request_that_it_waits_for(
    proxy: FaultProxy, when: Literal["before", "after"]
) -> None:
    acted: list[str] = []
    with connect(proxy) as connection:
        proxy.trigger = Trigger(
            lambda data: data == b"now", lambda: acted.append("!"), "before" if when == "before" else "after"
        )
        assert said(connection, b"not yet") == b"not yet"
        with pytest.raises(ConnectionError):
            said(connection, b"now")
    assert acted == ["!"]
    with connect(proxy) as connection:
        assert said(connection, b"now") == b"now"
    assert acted == ["!"]


def test_new_connections_go_to_the_new_upstream(proxy: FaultProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, connect(proxy) as old:
        assert said(old) == b"x"
        proxy.upstream = other.getsockname()[1]
        other.settimeout(2)
        with connect(proxy):
            other.accept()[0].close()
        assert said(old) == b"x"
