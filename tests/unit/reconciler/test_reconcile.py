"""The steps of the reconciler, over the doubles."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared import ended
from shared.broker import Hints
from shared.ended import newest_groups, read_group
from shared.errors import StorageDown
from shared.ids import new_id
from shared.jobs import Job, State
from shared.settings.roles import Settings
from shared.storage import MemoryStorage, batch_key, image_key
from shared.store import batches, deliveries, transitions
from shared.store.client import Store, memory_store
from shared.store.stats import get_stats
from tests.waiting import eventually
from workers.reconciler import reconcile
from workers.reconciler.reconcile import Reconciler

HOOK = {"url": "http://h/", "host": "h", "payload": "full", "events": ["job.expired", "job.failed"]}


class RecordedHints(Hints):
    """Hints that are only written down; `lost` ones do not lengthen the queue, as a broker that loses them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.lost = True

    def _send(self, task: str, name: str, id: str, unless_waiting: int = 0) -> bool:
        self.sent.append((name, id))
        return True

    def depth(self, name: str) -> int:
        return 0 if self.lost else sum(queue == name for queue, _ in self.sent)


@pytest.fixture
def reconciler() -> Reconciler:
    settings = Settings(redispatch=0.001, retry_backoff=0)
    return Reconciler(memory_store(), MemoryStorage(), RecordedHints(), settings)


def hints(reconciler: Reconciler) -> RecordedHints:
    assert isinstance(reconciler.hints, RecordedHints)
    return reconciler.hints


def submit(store: Store, **changes: Any) -> Job:
    job = replace(Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60), **changes)
    store.run(transitions.submit("t", [job], max_queued=100, grace=0))
    return job


def state(reconciler: Reconciler, job: Job) -> State | None:
    found = reconciler.store.run(transitions.read_job("", job.id))
    return found.state if found else None


def reconciled_until(reconciler: Reconciler, look: Callable[[], bool]) -> None:
    def reconcile_and_look() -> bool:
        reconciler.reconcile()
        return look()

    eventually(reconcile_and_look)


def test_a_hint_that_the_broker_lost_is_published_again(reconciler: Reconciler) -> None:
    job = submit(reconciler.store)
    reconciled_until(reconciler, lambda: len(hints(reconciler).sent) >= 2)
    assert set(hints(reconciler).sent) == {("vision.m", job.id)}


def test_hints_are_never_more_than_the_jobs_that_wait(reconciler: Reconciler) -> None:
    hints(reconciler).lost = False
    jobs = [submit(reconciler.store) for _ in range(3)]
    record = f"{reconciler.store.prefix}job:{jobs[0].id}"
    reconciled_until(reconciler, lambda: int(reconciler.store.client.hget(record, "hints") or 0) >= 4)
    assert len(hints(reconciler).sent) == len(jobs)


def test_a_long_queue_gets_a_bounded_number_of_hints(reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.reconciler.reconcile.MAX_REPEATED_HINTS", 2)
    hints(reconciler).lost = False
    jobs = [submit(reconciler.store) for _ in range(5)]
    record = f"{reconciler.store.prefix}job:{jobs[0].id}"
    reconciled_until(reconciler, lambda: int(reconciler.store.client.hget(record, "hints") or 0) >= 3)
    assert len(hints(reconciler).sent) == 2


def test_the_job_of_a_lost_worker_is_queued_again(reconciler: Reconciler) -> None:
    job = submit(reconciler.store)
    reconciler.store.run(transitions.claim("m", "w", 0.001))
    reconciled_until(reconciler, lambda: state(reconciler, job) is State.QUEUED)


def test_a_job_nobody_starts_expires_and_its_webhook_is_hinted(reconciler: Reconciler) -> None:
    job = submit(reconciler.store, start_within=0.001, webhook=HOOK)
    reconciled_until(reconciler, lambda: state(reconciler, job) is State.EXPIRED)
    assert ("webhooks", f"msg_{job.id.removeprefix('job_')}_expired") in hints(reconciler).sent


def test_a_webhook_that_is_due_is_hinted_until_a_dispatcher_takes_it(reconciler: Reconciler) -> None:
    reconciler.store.run(deliveries.add_test("msg_x", "t", "http://h/", "h"))
    reconciler.reconcile()
    reconciler.reconcile()
    assert hints(reconciler).sent == [("webhooks", "msg_x")] * 2
    assert reconciler.store.run(deliveries.claim("msg_x", 60, 1)) is not None
    reconciler.reconcile()
    assert len(hints(reconciler).sent) == 2


def test_objects_go_when_their_job_is_purged_and_not_before(reconciler: Reconciler) -> None:
    job = submit(reconciler.store, retain=0.001)
    reconciler.objects.put(image_key(job.id, 0), b"x", "image/png")
    reconciler.reconcile()
    assert list(reconciler.objects.keys("jobs/")) == [image_key(job.id, 0)]
    reconciler.store.run(transitions.cancel("t", job.id))
    reconciled_until(reconciler, lambda: state(reconciler, job) is None)
    reconciled_until(reconciler, lambda: not list(reconciler.objects.keys("jobs/")))
    assert reconciler.store.run(transitions.list_trash()) == []


def test_more_jobs_than_one_call_takes_expire_in_one_pass(
    reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reconciler.reconcile.IDS_PER_PAGE", 2)
    jobs = [submit(reconciler.store, start_within=0.001) for _ in range(5)]
    deadlines = f"{reconciler.store.prefix}deadlines"
    for job in jobs:
        reconciler.store.client.zadd(deadlines, {job.id: 0})
    reconciler.reconcile_store()
    assert {state(reconciler, job) for job in jobs} == {State.EXPIRED}


def test_a_pass_says_whether_it_left_records_to_purge_and_objects_to_delete(
    reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reconciler.reconcile.IDS_PER_PAGE", 2)
    ids = [new_id("job") for _ in range(3)]
    for id in ids:
        reconciler.objects.put(image_key(id, 0), b"x", "image/png")
    reconciler.store.client.zadd(f"{reconciler.store.prefix}trash", dict.fromkeys(ids, 0))
    assert reconciler.reconcile_objects()
    assert len(list(reconciler.objects.keys("jobs/"))) == 1
    assert not reconciler.reconcile_objects()
    assert list(reconciler.objects.keys("jobs/")) == []
    assert reconciler.store.run(transitions.list_trash()) == []


def test_the_manifest_of_a_batch_goes_with_its_record(reconciler: Reconciler) -> None:
    batch = new_id("batch")
    job = replace(
        Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=0.001), batch=batch
    )
    record = {"id": batch, "tenant": "t", "total": "1"}
    reconciler.store.run(transitions.submit("t", [job], max_queued=100, grace=0, batch=record))
    reconciler.objects.put(batch_key(batch), b"{}", "application/json")
    reconciler.reconcile()
    assert list(reconciler.objects.keys("batches/")) == [batch_key(batch)]
    reconciler.store.run(transitions.cancel("t", job.id))
    reconciled_until(reconciler, lambda: not list(reconciler.objects.keys("batches/")))
    assert reconciler.store.run(batches.get("t", batch)) is None


def test_ends_are_archived(reconciler: Reconciler) -> None:
    ended, running = submit(reconciler.store), submit(reconciler.store)
    reconciler.store.run(transitions.cancel("t", ended.id))
    reconciler.reconcile()
    (group,) = newest_groups(reconciler.objects)
    assert list(read_group(reconciler.objects, group)) == [ended.id]
    assert reconciler.store.run(get_stats()).unarchived == 0
    assert state(reconciler, running) is State.QUEUED


@pytest.mark.parametrize("ends", ["expired", "lost"])
def test_the_ends_that_a_reconciler_made_are_archived_although_a_dead_one_holds_the_groups(
    reconciler: Reconciler, ends: str
) -> None:
    store = reconciler.store
    store.client.set(f"{store.prefix}archiver", "another")
    job = submit(store, start_within=0.001 if ends == "expired" else 60, max_attempts=1)
    if ends == "lost":
        assert store.run(transitions.claim("m", "w", 0.001)).value

    def has_ended() -> bool:
        reconciler.reconcile_store()
        return reconciler.has_ended.is_set()

    eventually(has_ended)
    reconciler.reconcile_objects()
    assert not reconciler.has_ended.is_set()
    (group,) = newest_groups(reconciler.objects)
    assert list(read_group(reconciler.objects, group)) == [job.id]


def test_more_ends_than_one_group_takes_are_archived_in_one_period(
    reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ended, reconcile):
        monkeypatch.setattr(module, "JOBS_PER_GROUP", 5)
    for _ in range(13):
        reconciler.store.run(transitions.cancel("t", submit(reconciler.store).id))
    reconciler.reconcile()
    groups = newest_groups(reconciler.objects)
    assert [len(read_group(reconciler.objects, group)) for group in groups] == [3, 5, 5]


def test_jobs_that_a_former_release_ended_are_archived_after_a_start(reconciler: Reconciler) -> None:
    job = submit(reconciler.store)
    reconciler.store.run(transitions.cancel("t", job.id))
    reconciler.store.client.delete(f"{reconciler.store.prefix}unarchived")  # a former release kept no index
    reconciler.reconcile()
    (group,) = newest_groups(reconciler.objects)
    assert list(read_group(reconciler.objects, group)) == [job.id]


def test_a_step_that_fails_leaves_the_others_to_run_and_is_done_later(
    reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = submit(reconciler.store)
    reconciler.store.run(transitions.cancel("t", gone.id))
    reconciler.store.run(transitions.delete("t", gone.id))

    def down(prefix: str) -> int:
        raise StorageDown(prefix)

    with monkeypatch.context() as patch:
        patch.setattr(reconciler.objects, "delete", down)
        patch.setattr(reconciler, "reap", lambda: 1 / 0)
        job = submit(reconciler.store)
        reconciler.reconcile()
        assert ("vision.m", job.id) in hints(reconciler).sent
        assert reconciler.store.run(transitions.list_trash()) == [gone.id]
    reconciler.reconcile()
    assert reconciler.store.run(transitions.list_trash()) == []
