"""The health port of a process: `/metrics` for Prometheus, `/livez` and `/readyz` for Kubernetes.

livez   200 while the process answers and its own check passes: after a failure, restart it
readyz  200 while every check passes, else 503: send it no work; the body names what is down and why
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from shared.settings.base import ProcessSettings, SettingsError

#: Raises with the reason when what it checks is down; bounded by its own time-out.
Check = Callable[[], object]

_STATUS = {200: "200 OK", 404: "404 Not Found", 405: "405 Method Not Allowed", 503: "503 Service Unavailable"}
log = structlog.get_logger(__name__)


class HealthServer:
    """Serves the three paths from a thread: /metrics from `registry`. `port` is 0 where the settings ask for none.

    Raises `SettingsError` where the port can't be bound.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        *,
        live: Check | None = None,
        ready: Mapping[str, Check],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._live = {"process": live} if live else {}
        self._ready = dict(ready)
        self._metrics = make_wsgi_app(registry)
        self._server: WSGIServer | None = None
        self.port = 0
        if settings.metrics_port:
            self._server = self._bind(settings.metrics_host, settings.metrics_port)
            self.port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
            log.info("health port open", port=self.port)

    def require(self, ready: Mapping[str, Check]) -> None:
        """Replace the checks of /readyz: for a process that opens the port before it has loaded what they check."""
        self._ready = dict(ready)

    def close(self) -> None:
        """Close the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _bind(self, host: str, port: int) -> WSGIServer:
        try:
            return make_server(host, port, self._respond, _ThreadingServer, _SilentHandler)
        except OSError as error:
            raise SettingsError(
                f"TILEQ_METRICS_PORT={port} can't be bound at {host}: {error.strerror or error}"
            ) from None

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in ("/metrics", "/"):
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        status, body = self._answer(environ["REQUEST_METHOD"], path)
        start_response(_STATUS[status], [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else json.dumps(body).encode()]

    def _answer(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        checks = {"/livez": self._live, "/readyz": self._ready}.get(path)
        if checks is None:
            return 404, {"status": "unknown path; this port serves /metrics, /livez and /readyz"}
        if method not in ("GET", "HEAD"):
            return 405, {"status": "allowed methods: GET, HEAD"}
        failures = {name: reason for name, check in checks.items() if (reason := _failure(check)) is not None}
        if failures:
            log.warning("health check failed", path=path, failures=failures)
            return 503, {"status": "failed", "failures": failures}
        return 200, {"status": "ok"}


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log no line per probe."""


def _failure(check: Check) -> str | None:
    try:
        check()
    except Exception as error:  # the probe reports whatever fails
        return str(error) or type(error).__name__
    return None
