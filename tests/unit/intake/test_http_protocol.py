"""What is sent before and around a request's body, on real connections."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.intake import http_protocol
from services.intake.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, BoundedHttpProtocol

POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
GET = b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def brief_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.1)


class App:
    """Answers each request with its path and body; notes the scopes that it saw."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        said = scope["path"].encode() + b" " + body
        length = (b"content-length", str(len(said)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": said})


def exchange(pieces: Sequence[bytes], app: App | None = None) -> bytes:
    """Return what a server answers to `pieces` until it closes the connection, or is silent for 2 s after the last."""

    async def run() -> bytes:
        served = app or App()
        config, state = uvicorn.Config(served, http=BoundedHttpProtocol, log_config=None), ServerState()
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: BoundedHttpProtocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await asyncio.wait_for(reader.read(), 2)
        finally:
            writer.close()
            server.close()

    return asyncio.run(run())


def code_of(answer: bytes) -> tuple[int, str]:
    """Return status and code of the only answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", head)
    assert b"connection: close" in head
    problem = json.loads(body)
    return int(head.split()[1]), problem["code"]


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * MAX_HEAD_BYTES,
        b"X: a\r\n" * (MAX_HEADERS + 1),
        b"a" * MAX_HEAD_BYTES + b": X",
        (b"X: " + b"a" * 1000 + b"\r\n") * 70,
    ],
)
@pytest.mark.parametrize("ending", [b"\r\n\r\n", b""])
def test_a_head_that_is_too_large_is_refused_whether_it_ends_or_not(head: bytes, ending: bytes) -> None:
    app = App()
    if not ending:
        head += b"a" * MAX_HEAD_BYTES
    assert code_of(exchange([POST, head, ending], app)) == (431, "headers_too_large")
    assert app.scopes == []


@pytest.mark.parametrize("flood", [b"5;" + b"a" * 16 * MAX_HEAD_BYTES, b"0\r\nX: " + b"a" * 16 * MAX_HEAD_BYTES])
def test_chunk_extensions_and_trailers_are_bounded_too(flood: bytes) -> None:
    assert code_of(exchange([CHUNKED + b"2\r\nhi\r\n", flood])) == (431, "headers_too_large")


def test_many_small_chunks_are_no_flood() -> None:
    body = b"1\r\na\r\n" * (MAX_HEAD_BYTES // 4)
    answer = exchange([POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", body, b"0\r\n\r\n"])
    assert answer.endswith(b"/echo " + b"a" * (MAX_HEAD_BYTES // 4))


def test_trailers_do_not_become_headers() -> None:
    app = App()
    exchange([CHUNKED + b"2\r\nhi\r\n0\r\nAuthorization: Bearer tq_x\r\n\r\n", GET], app)
    assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


def test_a_head_that_does_not_end_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    assert code_of(exchange([POST, b"X: a\r\n"])) == (408, "request_timeout")
    assert exchange([b"\r\n"]) == b""


def test_a_connection_that_sends_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = BoundedHttpProtocol.__init__

    def impatient(self: Any, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        self.timeout_keep_alive = 0.05

    monkeypatch.setattr(BoundedHttpProtocol, "__init__", impatient)
    assert exchange([]) == b""


@pytest.mark.parametrize("upgrade", [H2C, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("split", [0, 1, 40])
def test_a_request_that_asks_for_another_protocol_is_served_with_its_body(upgrade: bytes, split: int) -> None:
    sent = POST + upgrade + b"Content-Length: 19\r\n\r\n" + b"GET /x HTTP/1.1\r\n\r\n" + GET
    at = len(sent) - len(GET) - split
    answer = exchange([sent[:at], sent[at:]] if split else [sent])
    assert b"/echo GET /x HTTP/1.1\r\n\r\n" in answer
    assert answer.endswith(b"/second ")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_many_such_requests_at_once_are_all_served() -> None:
    one = b"GET / HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n"
    assert exchange([one * 300, GET]).count(b"HTTP/1.1 200 OK") == 301


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "malformed_request")),
        (POST + b"Content-Type: a/b\r\ncontent-type: c/d\r\n\r\n", (400, "malformed_request")),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", (405, "method_not_allowed")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "malformed_request")),
        (b"\x16\x03\x01\x02\x00\x01", (400, "malformed_request")),
        (CHUNKED + b"ZZ\r\n", (400, "malformed_request")),
    ],
)
def test_what_is_no_request_is_refused_as_a_problem(sent: bytes, refused: tuple[int, str]) -> None:
    assert code_of(exchange([sent])) == refused


def test_a_request_that_was_complete_is_answered_although_garbage_follows() -> None:
    answer = exchange([POST + b"Content-Length: 2\r\n\r\nhi}garbage\r\n\r\n"])
    assert answer.endswith(b"/echo hi")
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1
