"""Metrics of the job store: jobs by state, queue sizes, and how overdue the oldest member of each queue is."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.errors import QueueUnavailable
from shared.store.client import Store
from shared.store.stats import get_stats


class StoreCollector(Collector):
    """Reads the store's statistics once a scrape; yields `tileq_store_up` 0 alone where the store does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        """Name nothing beforehand, so that registering asks the store nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families of this scrape."""
        up = GaugeMetricFamily("tileq_store_up", "1 while the job store answers")
        try:
            census = self._store.run(get_stats())
        except QueueUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield _family("tileq_jobs", "Jobs by state", "state", census.states)
        moves = CounterMetricFamily("tileq_job_transitions", "Transitions into each state", labels=["state"])
        for state, count in census.moves.items():
            moves.add_metric([state], count)
        yield moves
        repairs = CounterMetricFamily("tileq_repairs", "Lost leases, retries and indexes set right", labels=["what"])
        for what, count in census.repairs.items():
            repairs.add_metric([what], count)
        yield repairs
        yield _family(
            "tileq_ready_jobs",
            "Jobs a worker could claim now",
            "model",
            {m: c.queued for m, c in census.models.items()},
        )
        yield _family("tileq_workers", "Workers alive", "model", {m: c.workers for m, c in census.models.items()})
        sizes = {"outbox": census.outbox, "leases": census.leases, "hooks": census.hooks, "trash": census.trash}
        yield _family("tileq_queue_size", "Members of the store's queues", "queue", sizes)
        ages = {"outbox": census.outbox_age, "leases": census.lease_age, "hooks": census.hooks_age}
        yield _family("tileq_queue_lateness_seconds", "How overdue the oldest member is", "queue", ages)


def _family(name: str, text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
