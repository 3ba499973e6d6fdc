"""Prometheus: every process shows its numbers on a port of its own."""

import structlog
from prometheus_client import start_http_server

from shared.settings import ProcessSettings


def serve_metrics(settings: ProcessSettings) -> None:
    """Serve `/metrics` on `metrics_host:metrics_port` from a thread; port 0 serves none."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
        structlog.get_logger(__name__).info("metrics served", port=settings.metrics_port)
