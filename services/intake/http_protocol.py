"""HTTP/1.1 connections of intake: uvicorn's protocol, with bounds on all that is sent before and around a body.

uvicorn reads a request head of any size for as long as it takes; after a request that asks for another protocol
(`Upgrade: h2c`, as Java's HttpClient and `curl --http2` do), it takes the body for the next request. What is no request
is answered here as every other refusal is, unless an earlier request of the connection still waits for its answer: that
answer is the last one then.
"""

import asyncio
import uuid

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.intake import metrics
from services.intake.openai.surface import COMMON
from shared.errors import HeadTooLarge, HeadTooSlow, Malformed, MethodNotAllowed, RequestError

MAX_HEAD_BYTES = 64 << 10  #: of the request line with all headers; also of chunk extensions and trailers in a row
MAX_HEADERS = 256
HEAD_TIMEOUT_S = 30.0  #: from the first byte of a head to its last one
LINGER_S = 1.0  #: a client that is still sending has this long to read the answer
_ONCE = (b"host", b"content-type")  #: repeated, two recipients would read them differently
log = structlog.get_logger("services.intake")


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection; used by the event loop."""

    _in_head = True  #: no request is being read beyond its head
    _head_began = False
    _bytes_since_progress = 0  #: since the last head, or piece of a body, was complete
    _timer: asyncio.TimerHandle | None = None
    _refusal: RequestError | None = None
    _ignores_input = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Wait for the first request as long as for a later one."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._unset_keepalive_if_required()
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        if self._ignores_input:
            return
        self._bytes_since_progress += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or Malformed("what was sent is not a request in HTTP/1.1"))
            return
        if self._bytes_since_progress > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge())
        elif self._in_head and self._bytes_since_progress and self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_timed_out)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._head_began = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers, which nothing here reads, are dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to serve the request."""
        self._refusal = self._head_problem()
        if self._refusal:
            raise self._refusal
        if self.parser.should_upgrade():
            return  # `_feed` begins again
        self._in_head, self._bytes_since_progress = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._bytes_since_progress = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if self.parser.should_upgrade():
            return
        self._in_head, self._head_began, self._bytes_since_progress = True, False, 0
        super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse `data`. A request for another protocol is read again without that header, and so served in HTTP/1.1.

        RFC 9110, 7.8. httptools would take what follows its head for the other protocol's, or for the next request.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                version = self.parser.get_http_version().encode()
                lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
                lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
                data = b"\r\n".join([*lines, b"", data[upgrade.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            else:
                return

    def _head_problem(self) -> RequestError | None:
        if self.parser.get_method() == b"CONNECT":
            return MethodNotAllowed("CONNECT is not allowed: this service is no proxy")
        names = [name for name, _ in self.headers]
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(names) > MAX_HEADERS:
            return HeadTooLarge()
        repeated = next((name.decode() for name in _ONCE if names.count(name) > 1), "")
        return Malformed(f"the request has more than one {repeated.title()} header") if repeated else None

    def _head_timed_out(self) -> None:
        self._timer = None
        if self._head_began:
            self._refuse(HeadTooSlow())
        else:
            self.transport.close()  # it sent blank lines only

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: RequestError) -> None:
        """Answer with `error`, or let the answers that are due be the last ones, and close."""
        self._ignores_input = True
        self._stop_timer()
        if self.cycle is None or self.cycle.response_complete:
            self._answer(error)
        elif not self.cycle.more_body:
            self.cycle.keep_alive = False
        elif self.pipeline or self.cycle.response_started:
            self.transport.close()
        else:
            self._answer(error)

    def _answer(self, error: RequestError) -> None:
        request_id = uuid.uuid4().hex
        body = COMMON.error_body(error, request_id)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", COMMON.error_media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request_id.encode()),
            *COMMON.headers,
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        metrics.REQUESTS.labels("unmatched", "", error.status).inc()
        metrics.REFUSED.labels(error.code).inc()
        log.info("request", route="unmatched", status=error.status, code=error.code, request_id=request_id)
        if isinstance(error, HeadTooLarge):
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()
