"""Around every request: its id, its time, its log line, its numbers, and the headers that every answer carries.

A body that was not read to its end is read on for a moment, so that the client hears the refusal; then the line is cut.
"""

import asyncio
import re
import time
import uuid
from contextlib import suppress
from typing import Any

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.intake import metrics
from services.intake.errors import Unexpected, refusal

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_QUIET = ("/healthz", "/readyz")  #: whose log lines are for debugging only
_DRAIN_BYTES, _DRAIN_SECONDS = 4 << 20, 0.5
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
log = structlog.get_logger("services.intake")


class Reception:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(scope, receive, send)
        structlog.contextvars.bind_contextvars(request_id=visit.request.state.request_id)
        try:
            await self._app(scope, visit.receive, visit.send)
        except Exception:
            log.exception("a request failed in a way nobody thought of")
            if visit.status:
                raise  # half an answer is out; the server cuts the line
            answer = refusal(Unexpected(), visit.request)
            await answer(scope, visit.receive, visit.send)
        finally:
            visit.count()


class Visit:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope)
        sent = self.request.headers.get("x-request-id", "")
        self.request.state.request_id = sent if _SANE.fullmatch(sent) else uuid.uuid4().hex
        self.request.state.began = time.monotonic()
        self.status = 0
        self._receive = receive
        self._send = send
        headers = self.request.headers
        self._body_left = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._waiting = headers.get("expect", "").lower() == "100-continue"  # the client sends nothing until asked
        self._seconds = 0.0

    async def receive(self) -> Message:
        """Pass on what comes, and note when the body is complete."""
        self._waiting = False
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._body_left = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes, with the headers of every answer."""
        if message["type"] == "http.response.start":
            await self._drain()
            self.status = message["status"]
            self._seconds = time.monotonic() - self.request.state.began
            headers: list[tuple[bytes, bytes]] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request.state.request_id.encode()),
                *_HEADERS,
            ]
            if self._body_left:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    def count(self) -> None:
        """Write the request down: never its key, its query or its text."""
        scope, state = self.request.scope, self.request.state
        route = getattr(scope.get("route"), "path", "unmatched")
        code = getattr(state, "code", None)
        received = getattr(state, "received", 0)
        metrics.REQUESTS.labels(route, scope["method"] if route != "unmatched" else "", self.status).inc()
        metrics.SECONDS.labels(route).observe(self._seconds)
        metrics.RECEIVED.inc(received)
        if code:
            metrics.REFUSED.labels(code).inc()
        facts: dict[str, Any] = {
            "method": scope["method"],
            "route": route,
            "path": scope["path"][:200],
            "status": self.status,
            "seconds": round(self._seconds, 4),
            "bytes": received,
            "tenant": getattr(state, "tenant", None),
            "code": code,
        }
        (log.debug if route in _QUIET else log.info)("request", **{k: v for k, v in facts.items() if v is not None})

    async def _drain(self) -> None:
        if self._waiting or not self._body_left:
            return
        received = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._body_left and received < _DRAIN_BYTES:
                    received += len((await self.receive()).get("body", b""))
