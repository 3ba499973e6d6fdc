"""Every job that ends without a result has a marker, whichever transition ended it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared.ended import EndedMarker, write_ended_markers
from shared.errors import StorageDown
from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import JobError
from shared.storage import MemoryStorage, ended_key
from shared.store import transitions
from shared.store.client import Store, memory_store
from shared.store.stats import get_stats
from shared.views import moment
from tests.waiting import eventually

ERROR = JobError(code="out_of_memory", message="no memory", retryable=True)


@pytest.fixture
def store() -> Store:
    return memory_store()


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def submit(store: Store, **changes: Any) -> Job:
    job = replace(Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60), **changes)
    store.run(transitions.submit("t", [job], max_queued=100, grace=0))
    return job


def claim(store: Store, lease: float = 60) -> None:
    store.run(transitions.claim("m", "w", lease))


def until_moved(store: Store, reconcile: Callable[[], Any]) -> None:
    eventually(lambda: store.run(reconcile()).value)


def finished(store: Store) -> Job:
    job = submit(store)
    claim(store)
    store.run(transitions.finish(job.id, 1, State.FAILED, {"error": ERROR}))
    return job


def cancelled_while_queued(store: Store) -> Job:
    job = submit(store)
    store.run(transitions.cancel("t", job.id))
    return job


def cancelled_while_running(store: Store) -> Job:
    job = submit(store)
    claim(store)
    store.run(transitions.cancel("t", job.id))
    store.run(transitions.finish(job.id, 1, State.CANCELLED, {}))
    return job


def expired_in_the_queue(store: Store) -> Job:
    job = submit(store, start_within=0.001)
    until_moved(store, transitions.expire_due)
    return job


def expired_at_a_claim(store: Store) -> Job:
    job = submit(store, start_within=1e-6)  # over before the next command can reach the store
    claim(store)
    return job


def failed_on_the_last_retry(store: Store) -> Job:
    job = submit(store, max_attempts=1)
    claim(store)
    store.run(transitions.retry(job.id, 1, ERROR, 0))
    return job


def lost_on_the_last_attempt(store: Store) -> Job:
    job = submit(store, max_attempts=1)
    claim(store, 0.001)
    until_moved(store, lambda: transitions.reap(0))
    return job


ENDERS = [
    finished,
    cancelled_while_queued,
    cancelled_while_running,
    expired_in_the_queue,
    expired_at_a_claim,
    failed_on_the_last_retry,
    lost_on_the_last_attempt,
]


@pytest.mark.parametrize("end", ENDERS)
def test_every_transition_into_an_end_without_a_result_is_marked(
    store: Store, objects: MemoryStorage, end: Callable[[Store], Job]
) -> None:
    job = end(store)
    assert write_ended_markers(store, objects) == 1
    ended = store.run(transitions.read_job("t", job.id))
    assert ended is not None
    content = json.loads(objects.get(ended_key(job.id)))
    assert content == {
        "state": ended.state.value,
        "error": ended.error and ended.error.model_dump(),
        "ended_at": moment(ended.ended),
        "attempt": ended.attempt,
    }
    assert EndedMarker.of(ended).ended == pytest.approx(ended.ended, abs=0.001)
    assert write_ended_markers(store, objects) == 0


def test_a_job_with_a_result_or_still_active_has_no_marker(store: Store, objects: MemoryStorage) -> None:
    done = submit(store)
    claim(store)
    store.run(transitions.finish(done.id, 1, State.SUCCEEDED, {"output": {"text": "x", "finish_reason": "stop"}}))
    submit(store)
    retried = submit(store)
    claim(store)
    store.run(transitions.retry(retried.id, 1, ERROR, 0))
    assert write_ended_markers(store, objects) == 0
    assert list(objects.keys("")) == []


def test_a_process_marks_its_own_job_alone(store: Store, objects: MemoryStorage) -> None:
    mine, other = cancelled_while_queued(store), cancelled_while_queued(store)
    assert write_ended_markers(store, objects, [mine.id, new_id("job")]) == 1
    assert list(objects.keys("")) == [ended_key(mine.id)]
    assert [job.id for job in store.run(transitions.list_unmarked())] == [other.id]


def test_a_marker_that_could_not_be_written_stays_in_the_index(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cancelled_while_queued(store)

    def down(*_: object) -> None:
        raise StorageDown("down")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "put", down)
        with pytest.raises(StorageDown):
            write_ended_markers(store, objects)
    assert store.run(get_stats()).unmarked == 1
    assert write_ended_markers(store, objects) == 1
    assert list(objects.keys("")) == [ended_key(job.id)]


def test_a_process_that_dies_after_the_object_and_before_the_index_only_repeats_it(
    store: Store, objects: MemoryStorage
) -> None:
    job = cancelled_while_queued(store)
    (found,) = store.run(transitions.list_unmarked())
    objects.put(ended_key(job.id), EndedMarker.of(found).to_bytes(), "application/json")
    before = objects.get(ended_key(job.id))
    assert write_ended_markers(store, objects) == 1
    assert objects.get(ended_key(job.id)) == before


def test_the_marker_of_a_job_that_is_deleted_meanwhile_does_not_stay(store: Store, objects: MemoryStorage) -> None:
    job = cancelled_while_queued(store)
    store.run(transitions.list_unmarked())
    store.run(transitions.delete("t", job.id))
    store.run(transitions.purge_done([job.id]))  # its objects are deleted, and then the marker is written
    store.run(transitions.marked([job.id]))
    assert store.run(transitions.list_trash()) == [job.id]


def test_a_deleted_job_leaves_the_index(store: Store, objects: MemoryStorage) -> None:
    job = cancelled_while_queued(store)
    store.run(transitions.delete("t", job.id))
    assert write_ended_markers(store, objects) == 0
