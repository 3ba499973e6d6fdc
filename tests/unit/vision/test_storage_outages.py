"""A worker while the object storage is down: jobs wait, and an outage costs none of them an attempt."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import StorageDown
from shared.jobs import Job, State
from shared.storage import MemoryStorage
from shared.store import transitions
from tests.metrics import sample
from tests.unit.vision.worker_fixture import ScriptedEngine, WorkerFixture, answer
from tests.waiting import eventually
from workers.vision.attempt import Attempt, AttemptAborted
from workers.vision.storage_outages import StorageOutages

Build = Callable[..., WorkerFixture]


class DownStorage(MemoryStorage):
    """An object storage that takes nothing, and counts what it was sent."""

    puts = 0

    def put(self, key: str, data: Any, media_type: str, size: int | None = None, sha256: str = "") -> None:
        del key, data, media_type, size, sha256
        self.puts += 1
        raise StorageDown("503")


def failures() -> float:
    return sample("tileq_vision_storage_failures_total")


def images_unreadable(worker: WorkerFixture, down: bool) -> None:
    worker.objects.unreadable = "request.tar" if down else "nothing"


def result_refused(worker: WorkerFixture, down: bool) -> None:
    worker.objects.refused = ".json" if down else "nothing"


def submit(worker: WorkerFixture, outage: Callable[[WorkerFixture, bool], None]) -> Job:
    former = outage is result_refused  # its result is an object
    return worker.submit("?", images=[b"image"], max_attempts=1, former=former)


@pytest.mark.parametrize("outage", [images_unreadable, result_refused])
def test_an_attempt_outlasts_an_outage_with_what_it_has(
    build: Build, outage: Callable[[WorkerFixture, bool], None]
) -> None:
    engine = ScriptedEngine(answer())
    worker = build(engine=engine)
    job, before = submit(worker, outage), failures()
    outage(worker, True)
    thread = worker.handle_hint_in_thread()
    eventually(lambda: failures() > before + 2)
    assert worker.state(job) is State.RUNNING
    outage(worker, False)
    thread.join(10)
    ended = worker.read(job)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
    assert len(engine.asked) == 1


@pytest.mark.parametrize("outage", [images_unreadable, result_refused])
def test_a_longer_outage_leaves_the_job_to_other_workers_and_charges_no_attempt(
    build: Build, outage: Callable[[WorkerFixture, bool], None]
) -> None:
    worker = build(hold_s=0.2)
    job = submit(worker, outage)
    outage(worker, True)
    worker.handle_hint()
    now = worker.read(job)
    assert (now.state, now.attempt, now.charged) == (State.QUEUED, 1, 0)
    assert now.not_before > now.claimed + 1


def test_no_job_is_claimed_during_an_outage_so_that_none_loses_its_time(build: Build) -> None:
    worker = build(hold_s=0.2)
    first = submit(worker, images_unreadable)
    waiting = [submit(worker, images_unreadable) for _ in range(5)]
    images_unreadable(worker, True)
    worker.handle_hint()
    worker.handle_hint("another")
    assert worker.read(first).attempt == 1
    assert [(worker.read(job).attempt, worker.read(job).run_by) for job in waiting] == [(0, 0)] * 5
    assert worker.hints.jobs[-2:] == ["hint", "another"]  # there is work still
    images_unreadable(worker, False)
    worker.handle_hint()
    assert {worker.state(job) for job in waiting} == {State.SUCCEEDED}


def test_the_slots_of_a_worker_probe_the_storage_together_once_an_interval() -> None:
    objects, stopping = DownStorage(), threading.Event()
    outages = StorageOutages(objects, hold_s=0, retry_interval_s=3600)
    with pytest.raises(AttemptAborted):
        outages.outlast(Attempt(Job("job_1", "t", "m"), 0), lambda: objects.put("a", b"", ""))
    objects.puts = 0
    slots = [threading.Thread(target=outages.over, args=(stopping,)) for _ in range(16)]
    for slot in slots:
        slot.start()
    eventually(lambda: objects.puts > 0)
    stopping.set()
    for slot in slots:
        slot.join(10)
    assert objects.puts == 1


def test_a_job_that_waits_for_the_storage_can_be_cancelled(worker: WorkerFixture) -> None:
    job, before = submit(worker, images_unreadable), failures()
    images_unreadable(worker, True)
    thread = worker.handle_hint_in_thread()
    eventually(lambda: failures() > before)
    worker.store.run(transitions.cancel("acme", job.id))
    eventually(lambda: worker.state(job) is State.CANCELLED)
    images_unreadable(worker, False)
    thread.join(10)


def test_a_job_that_waits_for_the_storage_ends_at_its_deadline(worker: WorkerFixture) -> None:
    job = worker.submit("?", images=[b"image"], record={"run_within": 0.3})
    images_unreadable(worker, True)
    thread = worker.handle_hint_in_thread()
    eventually(lambda: worker.state(job) is State.FAILED)
    images_unreadable(worker, False)
    thread.join(10)
    error = worker.read(job).error
    assert error is not None
    assert error.code == "timed_out"
