"""The store's statistics as Prometheus sees them."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared.errors import QueueUnavailable
from shared.ids import new_id
from shared.jobs import Job
from shared.store import transitions
from shared.store.client import Store, memory_store
from workers.reconciler.collector import StoreCollector


def scraped(store: Store) -> set[str]:
    registry = CollectorRegistry()
    registry.register(StoreCollector(store))
    return set(generate_latest(registry).decode().splitlines())


def test_jobs_workers_and_queues_are_shown() -> None:
    store = memory_store()
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60)
    store.run(transitions.submit("t", [job, replace(job, id=new_id("job"))], max_queued=10, grace=0))
    store.run(transitions.register_worker("m", "w", {}, 60))
    store.run(transitions.claim("m", "w", 60))
    store.run(transitions.cancel("t", new_id("job")))
    assert scraped(store) >= {
        "tileq_store_up 1.0",
        'tileq_jobs{state="queued"} 1.0',
        'tileq_jobs{state="running"} 1.0',
        'tileq_ready_jobs{model="m"} 1.0',
        'tileq_workers{model="m"} 1.0',
        'tileq_job_transitions_total{state="queued"} 2.0',
        'tileq_store_queue_size{queue="outbox"} 1.0',
        'tileq_store_queue_size{queue="leases"} 1.0',
        'tileq_store_queue_size{queue="unarchived"} 0.0',
        'tileq_store_queue_lateness_seconds{queue="unarchived"} 0.0',
        'tileq_store_queue_size{queue="batches"} 0.0',
        'tileq_store_queue_lateness_seconds{queue="batches"} 0.0',
    }


def test_a_job_whose_marker_is_missing_is_shown() -> None:
    store = memory_store()
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60)
    store.run(transitions.submit("t", [job], max_queued=10, grace=0))
    store.run(transitions.cancel("t", job.id))
    assert 'tileq_store_queue_size{queue="unarchived"} 1.0' in scraped(store)


def test_a_store_that_does_not_answer_is_down_and_has_no_other_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()

    def down(_: object) -> None:
        raise QueueUnavailable("down")

    monkeypatch.setattr(store, "run", down)
    samples = {line for line in scraped(store) if not line.startswith("#")}
    assert samples == {"tileq_store_up 0.0"}
