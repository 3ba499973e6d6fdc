"""HEAD requests, and answers to requests whose body was not read."""

import asyncio
from typing import Any

import pytest

from services.intake.middleware import RequestMiddleware
from services.intake.native import NATIVE
from tests.unit.intake.app_fixture import App

PATHS = ("/healthz", "/readyz", "/v1/models", "/v1/jobs", "/openapi.json")


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(intake: App, path: str) -> None:
    got, head = intake.http.get(path), intake.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("rest", ["", "/events", "/deliveries", "/result"])
def test_head_of_a_job_ends_also_where_get_would_stream(intake: App, rest: str) -> None:
    id = intake.accepted() if rest == "/events" else intake.answered()
    answer = intake.http.head(f"/v1/jobs/{id}{rest}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert intake.context.changes.waiting == 0


def test_head_of_what_is_not_there_is_404(intake: App) -> None:
    answer = intake.http.head("/v1/jobs/job_x")
    assert (answer.status_code, answer.content) == (404, b"")


class Connection:
    """A client that sends `chunks` and notes what it receives and how much of its body was read by then."""

    def __init__(self, chunks: int) -> None:
        self.unread = chunks
        self.received: list[tuple[str, int]] = []

    async def receive(self) -> dict[str, Any]:
        if not self.unread:
            await asyncio.Event().wait()
        self.unread -= 1
        return {"type": "http.request", "body": bytes(100_000), "more_body": self.unread > 0}

    async def send(self, message: Any) -> None:
        self.received.append((message["type"], self.unread))

    def scope(self, **headers: str) -> dict[str, Any]:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": sent}


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"too large"})


def served(connection: Connection, **headers: str) -> None:
    middleware = RequestMiddleware(refuse, NATIVE)
    asyncio.run(asyncio.wait_for(middleware(connection.scope(**headers), connection.receive, connection.send), 20))


def test_an_answer_is_sent_before_the_rest_of_the_body_is_read_and_the_connection_stays_until_then() -> None:
    connection = Connection(chunks=50)
    served(connection, content_length="5000000")
    assert connection.received == [
        ("http.response.start", 50),
        ("http.response.body", 50),
        ("http.response.body", 0),
    ]


def test_a_client_that_waits_to_be_asked_for_its_body_is_not_asked() -> None:
    connection = Connection(chunks=50)
    served(connection, content_length="5000000", expect="100-continue")
    assert connection.received == [("http.response.start", 50), ("http.response.body", 50)]


def test_a_small_body_is_read_first_so_that_the_connection_stays_open() -> None:
    connection = Connection(chunks=1)
    served(connection, content_length="60000")
    assert connection.received == [("http.response.start", 0), ("http.response.body", 0)]


def test_a_client_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.middleware.LINGER_SILENCE_S", 0.01)

    class Silent(Connection):
        async def receive(self) -> dict[str, Any]:
            return await asyncio.Event().wait()  # type: ignore[return-value]

    connection = Silent(chunks=1)
    served(connection, content_length="5000000")
    assert len(connection.received) == 3


@pytest.mark.parametrize("length", ["0" * 5000, "000"])
def test_a_length_of_many_zeros_is_no_body(intake: App, length: str) -> None:
    answer = intake.http.get("/healthz", headers={"Content-Length": length})
    assert answer.status_code == 200
    assert "connection" not in answer.headers
