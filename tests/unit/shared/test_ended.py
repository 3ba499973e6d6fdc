"""The end of every job gets into a group object, whichever transition ended it, and only its own key opens it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared.encryption import new_key
from shared.ended import GROUP_GRACE_S, archive_ends, delete_expired_groups, newest_groups, open_line, read_group
from shared.errors import StorageDown
from shared.ids import created_at, new_id
from shared.jobs import Job, State
from shared.records import JobError
from shared.storage import MemoryStorage
from shared.store import transitions
from shared.store.client import Store, memory_store
from shared.store.stats import get_stats
from tests.waiting import eventually

HOUR_S, DAY_S = 3600.0, 86_400.0
ERROR = JobError(code="out_of_memory", message="no memory", retryable=True)


@pytest.fixture
def store() -> Store:
    return memory_store()


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def submit(store: Store, **changes: Any) -> Job:
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60, seal=new_key())
    job = replace(job, **changes)
    store.run(transitions.submit("t", [job], max_queued=100, grace=0))
    return job


def claim(store: Store, lease: float = 60) -> None:
    store.run(transitions.claim("m", "w", lease))


def until_moved(store: Store, reconcile: Callable[[], Any]) -> None:
    eventually(lambda: store.run(reconcile()).value)


def answered(store: Store) -> Job:
    job = submit(store)
    claim(store)
    output = {"text": "a secret", "finish_reason": "stop"}
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": output, "finish_reason": "stop"}))
    return job


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
    answered,
    finished,
    cancelled_while_queued,
    cancelled_while_running,
    expired_in_the_queue,
    expired_at_a_claim,
    failed_on_the_last_retry,
    lost_on_the_last_attempt,
]


def ends(objects: MemoryStorage, *jobs: Job) -> dict[str, dict[str, str]]:
    """Read what all groups tell of `jobs`, each with its key."""
    lines = {id: line for key in newest_groups(objects) for id, line in read_group(objects, key).items()}
    return {job.id: open_line(lines[job.id], job.seal) for job in jobs if job.id in lines}


@pytest.mark.parametrize("end", ENDERS)
def test_every_transition_into_an_end_is_archived(
    store: Store, objects: MemoryStorage, end: Callable[[Store], Job]
) -> None:
    job = end(store)
    assert archive_ends(store, objects) == 1
    record = store.run(transitions.read_job("t", job.id))
    assert record is not None
    found = Job.from_hash(job.to_hash() | ends(objects, job)[job.id])
    assert replace(found, created=record.created) == replace(
        record, start_by=0, run_by=0, owner="", cancel=False, lost=0, position=-1
    )
    assert archive_ends(store, objects) == 0


def test_an_active_job_is_in_no_group(store: Store, objects: MemoryStorage) -> None:
    submit(store)
    retried = submit(store)
    claim(store)
    store.run(transitions.retry(retried.id, 1, ERROR, 0))
    assert archive_ends(store, objects) == 0
    assert list(objects.keys("")) == []


def test_many_ends_make_one_object(store: Store, objects: MemoryStorage) -> None:
    jobs = [answered(store) for _ in range(30)]
    assert archive_ends(store, objects) == 30
    assert len(list(objects.keys(""))) == 1
    assert set(ends(objects, *jobs)) == {job.id for job in jobs}


def test_a_group_tells_nothing_without_the_key_of_the_job(store: Store, objects: MemoryStorage) -> None:
    mine, other = answered(store), answered(store)
    archive_ends(store, objects)
    (key,) = newest_groups(objects)
    assert b"secret" not in objects.get(key)
    assert b"succeeded" not in objects.get(key)
    lines = read_group(objects, key)
    for seal in (other.seal, ""):
        with pytest.raises(ValueError, match="another key"):
            open_line(lines[mine.id], seal)
    with pytest.raises(ValueError, match="another key"):
        open_line(lines[mine.id] | {"job": other.id}, mine.seal)


def test_the_end_of_a_job_of_a_former_release_has_no_key(store: Store, objects: MemoryStorage) -> None:
    job = submit(store, seal="")
    store.run(transitions.cancel("t", job.id))
    archive_ends(store, objects)
    assert ends(objects, job)[job.id]["state"] == State.CANCELLED


def test_a_process_archives_its_own_job_alone(store: Store, objects: MemoryStorage) -> None:
    mine, other = cancelled_while_queued(store), cancelled_while_queued(store)
    assert archive_ends(store, objects, [mine.id, new_id("job")]) == 1
    assert list(ends(objects, mine, other)) == [mine.id]
    assert [*store.run(transitions.list_unarchived())] == [other.id]


def test_an_end_that_could_not_be_written_stays_in_the_index(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cancelled_while_queued(store)

    def down(*_: object) -> None:
        raise StorageDown("down")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "put", down)
        with pytest.raises(StorageDown):
            archive_ends(store, objects)
    assert store.run(get_stats()).unarchived == 1
    assert archive_ends(store, objects) == 1
    assert list(ends(objects, job)) == [job.id]


def test_of_several_reconcilers_one_archives_and_another_takes_over_once_it_has_died(
    store: Store, objects: MemoryStorage
) -> None:
    answered(store)
    assert archive_ends(store, objects, archiver="one") == 1
    answered(store)
    assert archive_ends(store, objects, archiver="other") == 0
    assert archive_ends(store, objects, archiver="one") == 1
    answered(store)
    assert store.client.ttl(f"{store.prefix}archiver") > 0
    store.client.delete(f"{store.prefix}archiver")
    assert archive_ends(store, objects, archiver="other") == 1


def test_the_group_that_was_written_last_is_read_first(store: Store, objects: MemoryStorage) -> None:
    early, late = submit(store, retain=9 * DAY_S), submit(store)
    for job in (early, late):
        store.run(transitions.cancel("t", job.id))
        archive_ends(store, objects)
    assert [list(read_group(objects, key)) for key in newest_groups(objects)] == [[late.id], [early.id]]


def test_a_group_stays_until_all_its_jobs_have_expired(store: Store, objects: MemoryStorage) -> None:
    jobs = [submit(store, retain=days * DAY_S) for days in (1, 3)]
    for job in jobs:
        store.run(transitions.cancel("t", job.id))
    archive_ends(store, objects)
    other = submit(store, retain=1 * DAY_S)
    store.run(transitions.cancel("t", other.id))
    archive_ends(store, objects)
    begun = created_at(other.id) + GROUP_GRACE_S
    assert delete_expired_groups(objects, begun + DAY_S - HOUR_S) == 0
    assert delete_expired_groups(objects, begun + DAY_S + 2 * HOUR_S) == 1
    assert list(ends(objects, *jobs, other)) == [job.id for job in jobs]
    assert delete_expired_groups(objects, begun + 3 * DAY_S + 2 * HOUR_S) == 1


def test_a_deleted_job_leaves_the_index(store: Store, objects: MemoryStorage) -> None:
    job = cancelled_while_queued(store)
    store.run(transitions.delete("t", job.id))
    assert archive_ends(store, objects) == 0


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"id": 1}'])
def test_another_object_is_no_group(objects: MemoryStorage, content: bytes) -> None:
    objects.put("ended/2026-11-25T14/x.jsonl", content, "")
    with pytest.raises(ValueError, match="not a group"):
        read_group(objects, "ended/2026-11-25T14/x.jsonl")
