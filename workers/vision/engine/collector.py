"""Metrics of the engine, read from its statistics once a scrape."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from workers.vision.engine.base import Engine


class EngineCollector(Collector):
    """Yields the families of `EngineStats`; none at all where the engine can't tell (its device is lost)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        """Name nothing beforehand, so that registering asks the engine nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families of this scrape."""
        try:
            stats = self._engine.stats()
        except Exception:  # the watchdog reports it and ends the process
            return
        requests = GaugeMetricFamily("tileq_engine_requests", "Requests in the engine by state", labels=["state"])
        requests.add_metric(["running"], stats.running)
        requests.add_metric(["waiting"], stats.waiting)
        yield requests
        yield CounterMetricFamily("tileq_engine_answered_requests", "Requests answered", value=stats.finished)
        yield CounterMetricFamily("tileq_engine_generated_tokens", "Tokens generated", value=stats.generated_tokens)
        step = 0.0 if stats.busy_since is None else time.monotonic() - stats.busy_since
        yield GaugeMetricFamily("tileq_engine_step_seconds", "Age of the step in progress, 0 when idle", value=step)
        if stats.memory_bytes is not None:
            yield GaugeMetricFamily("tileq_engine_memory_bytes", "Memory held on the device", value=stats.memory_bytes)
