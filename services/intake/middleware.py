"""What surrounds every request: its id, its log line, its metrics, and the headers that every answer carries.

HEAD is served as GET without a body. A request body that was not read to its end is read on for a while after the
answer was sent (as nginx's lingering close does), since a client that is still sending would not see the answer.
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
from services.intake.audit import audit
from services.intake.errors import Unexpected, error_response
from services.intake.rate_limits import limit_headers
from services.intake.surface import Surface, surface_of

LINGER_BYTES = 512 << 20
LINGER_S = 10.0
LINGER_SILENCE_S = 2.0
LINGER_BYTES_PER_S = 1 << 20  #: below this a client is not waited for any longer
SMALL_BODY_BYTES, SMALL_BODY_S = 64 << 10, 0.5  #: of an unread body that is read before the answer
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_QUIET_ROUTES = ("/healthz", "/readyz")  #: their log lines are for debugging only
log = structlog.get_logger("services.intake")


class RequestMiddleware:
    """ASGI middleware.

    `default` is the surface of paths that match no route; `root_path` the path under which a reverse proxy serves the
    application, whether the proxy strips it from requests or not.
    """

    def __init__(self, app: ASGIApp, default: Surface, root_path: str = "") -> None:
        self._app = app
        self._default = default
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = RequestScope(self._under_root(scope), receive, send, self._default)
        structlog.contextvars.bind_contextvars(request_id=request.request.state.request_id)
        try:
            await self._app(request.scope, request.receive, request.send)
        except Exception:
            if request.head_answered:
                return  # the body of a HEAD request was cut off
            log.exception("unhandled exception while serving a request")
            if request.status:
                raise  # part of the answer is sent; the server closes the connection
            answer = error_response(Unexpected(), request.request, self._default)
            await answer(request.scope, request.receive, request.send)
        finally:
            request.record()

    def _under_root(self, scope: Scope) -> Scope:
        """Return `scope` with a path that begins with `root_path`, as ASGI has it."""
        path: str = scope["path"]
        if not self._root_path or path.startswith(f"{self._root_path}/"):
            return {**scope, "root_path": self._root_path}
        return {**scope, "root_path": self._root_path, "path": self._root_path + path}


class BodyNotWanted(OSError):
    """A HEAD request has its answer; raised into a route that goes on sending a body."""


class RequestScope:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, default: Surface) -> None:
        self.method: str = scope["method"]
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self.request = Request(self.scope)
        sent = self.request.headers.get("x-request-id", "")
        self.request.state.request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        self.request.state.began = time.monotonic()
        self.status = 0
        self.head_answered = False
        self._default = default
        self._receive = receive
        self._send = send
        headers = self.request.headers
        length = headers.get("content-length", "0").lstrip("0")
        self._body_left = "transfer-encoding" in headers or bool(length)
        self._announced = int(length) if length.isdigit() else LINGER_BYTES
        self._client_waits = headers.get("expect", "").lower() == "100-continue"  # and sends nothing until asked
        self._seconds = 0.0

    async def receive(self) -> Message:
        """Pass on what the client sends, and note when its body is complete."""
        self._client_waits = False
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._body_left = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application sends, with the headers of every answer."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self.method == "HEAD":
            await self._end_head(message)
            return
        elif not message.get("more_body", False) and self._lingers:
            await self._send({**message, "more_body": True})
            await self._drain(LINGER_BYTES, LINGER_S)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def record(self) -> None:
        """Count and log the request: never its key, its query or its text."""
        scope, state = self.request.scope, self.request.state
        route = getattr(scope.get("route"), "path", "unmatched")
        code = getattr(state, "code", None)
        received = getattr(state, "received", 0)
        principal = getattr(state, "principal", None)
        audit(self.request, route, self.status, code)
        metrics.REQUESTS.labels(route, self.method if route != "unmatched" else "", self.status).inc()
        metrics.SECONDS.labels(route).observe(self._seconds)
        metrics.RECEIVED.inc(received)
        if code:
            metrics.REFUSED.labels(code).inc()
        facts: dict[str, Any] = {
            "method": self.method,
            "route": route,
            "path": scope["path"][:200],
            "status": self.status,
            "seconds": round(self._seconds, 4),
            "bytes": received,
            "tenant": principal.tenant if principal else None,
            "code": code,
        }
        level = log.debug if route in _QUIET_ROUTES else log.info
        level("request", **{name: value for name, value in facts.items() if value is not None})

    @property
    def _lingers(self) -> bool:
        return self._body_left and not self._client_waits

    async def _start(self, message: Message) -> None:
        if self._lingers and self._announced <= SMALL_BODY_BYTES:
            await self._drain(SMALL_BODY_BYTES, SMALL_BODY_S)  # so that the connection stays open
        self.status = message["status"]
        self._seconds = time.monotonic() - self.request.state.began
        sent = list(message.get("headers", ()))
        if not any(name.lower() == b"cache-control" for name, _ in sent):
            sent.append((b"cache-control", b"no-store"))  # answers are a tenant's own
        message["headers"] = [
            *sent,
            *limit_headers(self.request),
            (b"x-request-id", self.request.state.request_id.encode()),
            *surface_of(self.scope, self._default).headers,
            *([(b"connection", b"close")] if self._body_left else []),
        ]

    async def _end_head(self, message: Message) -> None:
        if not self.head_answered:
            self.head_answered = True
            await self._send({"type": "http.response.body", "body": b""})
        if message.get("more_body", False):
            raise BodyNotWanted

    async def _drain(self, max_bytes: int, max_s: float) -> None:
        """Read the rest of the body, for `LINGER_SILENCE_S` and as much longer as a client needs that sends fast."""
        received, began = 0, time.monotonic()
        with suppress(TimeoutError):
            while self._body_left and received < max_bytes:
                allowed_s = min(max_s, LINGER_SILENCE_S + received / LINGER_BYTES_PER_S)
                async with asyncio.timeout(began + allowed_s - time.monotonic()):
                    received += len((await self.receive()).get("body", b""))
