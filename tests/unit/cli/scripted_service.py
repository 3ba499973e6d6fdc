"""A service that answers as it was told, over httpx's mock transport."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

JOB = "job_01m84yn9wff3w4avjtx2vn7fcwkasqyqe222"
Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def job(state: str = "succeeded", **more: Any) -> dict[str, Any]:
    """Return a job as the API shows it."""
    ended = state in ("succeeded", "failed", "cancelled", "expired")
    whole: dict[str, Any] = {
        "id": JOB,
        "object": "job",
        "state": state,
        "model": "tileq-demo",
        "created_at": "2026-11-23T20:00:00.000Z",
        "started_at": None,
        "ended_at": "2026-11-23T20:00:01.000Z" if ended else None,
        "expires_at": None,
        "attempt": 1,
        "max_attempts": 3,
        "queue_position": 2 if state == "queued" else None,
        "progress": None,
        "images": [],
        "output": {"text": "A cup.", "finish_reason": "stop"} if state == "succeeded" else None,
        "error": None,
        "usage": None,
        "timings": None,
        "webhook": {"url": None, "events": [], "payload": None, "state": "none", "attempts": 0},
        "metadata": {},
        "parent": None,
        "batch": None,
        "custom_id": None,
        "retry_of": None,
    }
    return whole | more


def problem(status: int, code: str, *, retry_after: int | None = None, **more: Any) -> httpx.Response:
    """Return an error as the API shows it."""
    headers = {"content-type": "application/problem+json"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    body = {"type": "about:blank", "title": "No", "status": status, "code": code, "detail": f"{code} it is"} | more
    return httpx.Response(status, json=body, headers=headers)


def stream(*events: tuple[str, str, Any], broken: bool = False) -> httpx.Response:
    """Return an event stream of (id, name, data); `broken`: the connection dies behind them."""

    def chunks() -> Iterator[bytes]:
        for id, name, data in events:
            yield f"event: {name}\nid: {id}\ndata: {json.dumps(data)}\n\n".encode()
        if broken:
            raise httpx.ReadError("connection reset")

    return httpx.Response(200, content=chunks(), headers={"content-type": "text/event-stream"})


class Service(httpx.MockTransport):
    """Gives the replies of each path in turn, the last one again and again; keeps what was asked."""

    def __init__(self, replies: dict[str, list[Reply]]) -> None:
        super().__init__(self._answer)
        self._replies = replies
        self.asked: list[httpx.Request] = []

    def to(self, path: str) -> list[httpx.Request]:
        """What was asked of `path`."""
        return [request for request in self.asked if request.url.path == path]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        replies = self._replies[request.url.path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply
