"""Metrics of the job store: jobs by state, queue sizes, and how overdue the oldest member of each queue is."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.errors import QueueUnavailable
from shared.store.client import Store
from shared.store.stats import StoreStats, get_stats


class StoreCollector(Collector):
    """Reads the store's statistics once a scrape; yields `tileq_store_up` 0 alone where the store does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        """Name nothing beforehand, so that registering does not read the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this scrape."""
        up = GaugeMetricFamily("tileq_store_up", "1 while the job store answers, else 0")
        try:
            stats = self._store.run(get_stats())
        except QueueUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _metrics(stats)


def _metrics(stats: StoreStats) -> Iterator[Metric]:
    queued = {model: of.queued for model, of in stats.models.items()}
    workers = {model: of.workers for model, of in stats.models.items()}
    sizes = {name: getattr(stats, name) for name in ("outbox", "leases", "hooks", "trash", "unarchived", "batches")}
    ages = {
        "outbox": stats.outbox_age,
        "leases": stats.lease_age,
        "hooks": stats.hooks_age,
        "unarchived": stats.unarchived_age,
        "batches": stats.batches_age,
    }
    yield _add(GaugeMetricFamily("tileq_jobs", "Jobs by state", labels=["state"]), stats.states)
    yield _add(GaugeMetricFamily("tileq_ready_jobs", "Queued jobs that can be claimed now", labels=["model"]), queued)
    yield _add(GaugeMetricFamily("tileq_workers", "Workers with a current registration", labels=["model"]), workers)
    yield _add(
        CounterMetricFamily("tileq_job_transitions_total", "Transitions by state", labels=["state"]), stats.moves
    )
    yield _add(
        CounterMetricFamily("tileq_store_repairs_total", "Lost leases, retries and repaired indexes", labels=["what"]),
        stats.repairs,
    )
    yield _add(GaugeMetricFamily("tileq_store_queue_size", "Members of the store's queues", labels=["queue"]), sizes)
    yield _add(
        GaugeMetricFamily("tileq_store_queue_lateness_seconds", "Time since the oldest was due", labels=["queue"]), ages
    )


def _add(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float] | Mapping[str, int]
) -> GaugeMetricFamily | CounterMetricFamily:
    for value, count in values.items():
        family.add_metric([value], count)
    return family
