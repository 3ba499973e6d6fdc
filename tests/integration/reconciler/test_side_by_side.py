"""Several reconcilers on one real store, beside workers: every job and batch ends once, every hint is due once."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from shared.broker import DELIVERY_DUE, JOB_AVAILABLE, Hints
from shared.connections.redis_client import connect
from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import WebhookTarget
from shared.settings.roles import Settings
from shared.storage import MemoryStorage
from shared.store import batches, transitions
from shared.store.client import Store
from shared.store.stats import get_stats
from workers.reconciler.reconcile import Reconciler

pytestmark = pytest.mark.integration
RECONCILERS = 4
WITHIN_S = 30.0
HOOK = WebhookTarget(url="http://h/", host="h", events=["job.failed", "job.expired"])
BATCH_HOOK = '{"url":"http://h/","host":"h","payload":"full","events":["batch.ended"]}'
GONE_S = 0.001  #: a lease or deadline that has passed by the next look


class RecordedHints(Hints):
    """Hints that are only written down."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def ids(self, task: str) -> Counter[str]:
        """How often each id was hinted at."""
        return Counter(id for sent, id in self.sent if sent == task)

    def _send(self, task: str, name: str, id: str, unless_waiting: int = 0) -> bool:
        self.sent.append((task, id))
        return True

    def depth(self, name: str) -> int:
        return 0


class Several:
    """Reconcilers with a connection each, over one store."""

    def __init__(self, make_store: Callable[[], Store]) -> None:
        self.store = make_store()
        self.make_store = make_store
        self.hints = RecordedHints()
        settings = Settings(redispatch=60, retry_backoff=0)
        self.reconcilers = [Reconciler(make_store(), MemoryStorage(), self.hints, settings) for _ in range(RECONCILERS)]

    def run(self, step: Callable[[Reconciler], None], done: Callable[[], bool], *beside: Callable[[], object]) -> None:
        """Repeat `step` in every reconciler, and `beside` in threads of their own, until `done`."""
        stop, barrier = threading.Event(), threading.Barrier(RECONCILERS + len(beside))
        failures: list[BaseException] = []

        def repeat(act: Callable[[], object]) -> None:
            barrier.wait()
            try:
                while not stop.is_set():
                    act()
            except BaseException as error:  # raised in the test's thread
                failures.append(error)

        acts = [*(lambda one=one: step(one) for one in self.reconcilers), *beside]
        threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        timer = threading.Timer(WITHIN_S, stop.set)
        timer.start()
        while not stop.wait(0.01) and not failures:
            if done():
                break
        finished = not stop.is_set()
        stop.set()
        timer.cancel()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert finished, f"not done within {WITHIN_S} s"

    def submit(self, count: int, **changes: Any) -> list[Job]:
        """Submit a batch of `count` jobs with webhooks."""
        batch = {"id": new_id("batch"), "tenant": "t", "total": str(count), "webhook": BATCH_HOOK}
        job = Job(id="", tenant="t", model="m", start_within=60, run_within=60, retain=60, webhook=HOOK)
        jobs = [replace(job, id=new_id("job"), batch=batch["id"], **changes) for _ in range(count)]
        assert (
            self.store.run(transitions.submit("t", jobs, max_queued=1000, grace=0, batch=batch)).outcome == "accepted"
        )
        return jobs

    def moves(self) -> dict[str, int]:
        """Transitions of the store by state, those that did not occur left out."""
        return {state: count for state, count in self.store.run(get_stats()).moves.items() if count}

    def ended(self, *jobs: Job) -> bool:
        return all(job.state.terminal for job in self.store.run(transitions.read_jobs([job.id for job in jobs])))


@pytest.fixture
def several(valkey_url: str, prefix: str) -> Iterator[Several]:
    with ExitStack() as stack:

        def make_store() -> Store:
            client = connect(Settings(redis_url=valkey_url).store_endpoint)
            stack.callback(client.close)
            return Store(client, prefix)

        yield Several(make_store)


def reap_and_expire(reconciler: Reconciler) -> None:
    reconciler.reap()
    reconciler.expire()


def test_jobs_and_batches_end_once_with_one_message_each(several: Several) -> None:
    late = [job for _ in range(4) for job in several.submit(25, start_within=GONE_S)]
    lost = [job for _ in range(4) for job in several.submit(25, model="lost", max_attempts=1)]
    for _ in lost:
        assert several.store.run(transitions.claim("lost", "worker", GONE_S)).value
    several.run(reap_and_expire, lambda: several.ended(*late, *lost))
    assert several.moves() == {"queued": 200, "running": 100, "expired": 100, "failed": 100}
    messages = several.hints.ids(DELIVERY_DUE)
    assert set(messages.values()) == {1}
    assert len(messages) == 200 + 8
    for id in {job.batch for job in (*late, *lost)}:
        found = several.store.run(batches.get("t", id))
        assert found
        assert found[0].ended > 0


def test_a_lost_job_is_queued_again_and_hinted_at_once(several: Several) -> None:
    jobs = several.submit(90)  # fewer than MAX_REPEATED_HINTS
    for _ in jobs:
        assert several.store.run(transitions.claim("m", "worker", GONE_S)).value

    def reap_and_republish(reconciler: Reconciler) -> None:
        reconciler.reap()
        reconciler.republish_jobs()

    several.run(reap_and_republish, lambda: len(several.hints.ids(JOB_AVAILABLE)) == len(jobs))
    assert several.hints.ids(JOB_AVAILABLE) == Counter(job.id for job in jobs)
    claimed = [several.store.run(transitions.claim("m", "worker", 60)).value for _ in jobs]
    assert Counter((job.id, job.attempt) for job in claimed if job) == Counter((job.id, 2) for job in jobs)
    assert several.store.run(transitions.claim("m", "worker", 60)).value is None


def test_beside_workers_whose_leases_expire_every_job_still_ends_once(several: Several) -> None:
    jobs = several.submit(150, max_attempts=50)
    stores = [several.make_store() for _ in range(3)]
    finished: list[str] = []
    leases_s = itertools.cycle((0.002, 60))

    def work(store: Store) -> None:
        """Claim a job, every other one for so short a time that reconcilers take some of them away."""
        job = store.run(transitions.claim("m", "worker", next(leases_s))).value
        if job and store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, {})).value:
            finished.append(job.id)

    workers = [lambda store=store: work(store) for store in stores]
    several.run(reap_and_expire, lambda: several.ended(*jobs), *workers)
    assert Counter(finished) == Counter(job.id for job in jobs)
    assert several.moves()["succeeded"] == len(jobs)
