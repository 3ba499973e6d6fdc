"""Metrics of the engine, read from its statistics once a scrape."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from workers.vision.engine.base import Engine
from workers.vision.engine.stats import EngineStats


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
        yield from _requests(stats)
        if stats.memory_bytes is not None:
            yield GaugeMetricFamily("tileq_engine_memory_bytes", "Memory held on the device", value=stats.memory_bytes)
        if stats.pages:
            yield from _resident(stats)


def _requests(stats: EngineStats) -> Iterator[Metric]:
    requests = GaugeMetricFamily("tileq_engine_requests", "Requests in the engine by state", labels=["state"])
    requests.add_metric(["running"], stats.running)
    requests.add_metric(["waiting"], stats.waiting)
    yield requests
    yield CounterMetricFamily("tileq_engine_answered_requests", "Requests answered", value=stats.finished)
    yield CounterMetricFamily("tileq_engine_generated_tokens", "Tokens generated", value=stats.generated_tokens)
    step = 0.0 if stats.busy_since is None else time.monotonic() - stats.busy_since
    yield GaugeMetricFamily("tileq_engine_step_seconds", "Age of the step in progress, 0 when idle", value=step)


def _resident(stats: EngineStats) -> Iterator[Metric]:
    """What only the resident engine has: pages of keys and values, kept features, parts of a step."""
    pages = GaugeMetricFamily("tileq_engine_pages", "Pages of keys and values by use", labels=["use"])
    pages.add_metric(["total"], stats.pages)
    pages.add_metric(["requests"], stats.used_pages)
    pages.add_metric(["shared"], stats.shared_pages)
    yield pages
    yield GaugeMetricFamily("tileq_engine_feature_bytes", "Image features kept", value=stats.feature_bytes)
    yield CounterMetricFamily("tileq_engine_encoded_tiles", "Tiles encoded", value=stats.encoded_tiles)
    yield CounterMetricFamily("tileq_engine_feature_hits", "Tiles whose features were kept", value=stats.feature_hits)
    yield CounterMetricFamily("tileq_engine_prompt_tokens", "Prompt tokens answered", value=stats.prompt_tokens)
    yield CounterMetricFamily("tileq_engine_cached_tokens", "Prompt tokens from the cache", value=stats.cached_tokens)
    yield CounterMetricFamily("tileq_engine_preemptions", "Requests begun again for pages", value=stats.preemptions)
    yield CounterMetricFamily("tileq_engine_steps", "Steps of the engine", value=stats.steps)
    yield CounterMetricFamily(
        "tileq_engine_discarded_rows", "Rows computed for requests that had ended", value=stats.discarded_rows
    )
    computed = CounterMetricFamily(
        "tileq_engine_computed", "Tiles, rows and positions computed, wanted or as padding", labels=["unit", "use"]
    )
    for labels, count in stats.computed.items():
        computed.add_metric(labels, count)
    yield computed
    parts = CounterMetricFamily("tileq_engine_step_part_seconds", "Seconds in steps by part", labels=["part"])
    for part, seconds in stats.step_s.items():
        parts.add_metric([part], seconds)
    yield parts
    ratio = stats.cached_tokens / stats.prompt_tokens if stats.prompt_tokens else 0.0
    yield GaugeMetricFamily("tileq_engine_cache_hit_ratio", "Share of prompt tokens from the cache", value=ratio)
    paths = GaugeMetricFamily("tileq_engine_fast_path", "State of each fast path, 1", labels=["path", "state"])
    for name, state in stats.fast_paths.items():
        paths.add_metric([name, state], 1)
    yield paths
