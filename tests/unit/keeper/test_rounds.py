"""The keeper's rounds, over the doubles."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared.broker import Hints
from shared.errors import StorageDown
from shared.ids import new_id
from shared.jobs import Job, State
from shared.settings import Settings
from shared.storage import MemoryStorage, batch_key, image_key
from shared.store import batches, deliveries, transitions
from shared.store.client import Store, memory_store
from tests.waiting import eventually
from workers.keeper.rounds import Keeper

HOOK = {"url": "http://h/", "host": "h", "payload": "full", "events": ["job.expired", "job.failed"]}


class RecordedHints(Hints):
    """Hints that are only written down; `lost` ones do not lengthen the queue, as a broker that loses them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.lost = True

    def _send(self, task: str, name: str, id: str) -> bool:
        self.sent.append((name, id))
        return True

    def depth(self, name: str) -> int:
        return 0 if self.lost else sum(queue == name for queue, _ in self.sent)


@pytest.fixture
def keeper() -> Keeper:
    settings = Settings(redispatch=0.001, retry_backoff=0)
    return Keeper(memory_store(), MemoryStorage(), RecordedHints(), settings)


def hints(keeper: Keeper) -> RecordedHints:
    assert isinstance(keeper.hints, RecordedHints)
    return keeper.hints


def submit(store: Store, **changes: Any) -> Job:
    job = replace(Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60), **changes)
    store.run(transitions.submit("t", [job], max_queued=100, grace=0))
    return job


def state(keeper: Keeper, job: Job) -> State | None:
    found = keeper.store.run(transitions.read_job("", job.id))
    return found.state if found else None


def after_rounds(keeper: Keeper, look: Callable[[], bool]) -> None:
    def round_and_look() -> bool:
        keeper.round()
        return look()

    eventually(round_and_look)


def test_a_hint_that_the_broker_lost_is_published_again(keeper: Keeper) -> None:
    job = submit(keeper.store)
    after_rounds(keeper, lambda: len(hints(keeper).sent) >= 2)
    assert set(hints(keeper).sent) == {("vision.m", job.id)}


def test_hints_are_never_more_than_the_jobs_that_wait(keeper: Keeper) -> None:
    hints(keeper).lost = False
    jobs = [submit(keeper.store) for _ in range(3)]
    record = f"{keeper.store.prefix}job:{jobs[0].id}"
    after_rounds(keeper, lambda: int(keeper.store.client.hget(record, "hints") or 0) >= 4)
    assert len(hints(keeper).sent) == len(jobs)


def test_the_job_of_a_lost_worker_is_queued_again(keeper: Keeper) -> None:
    job = submit(keeper.store)
    keeper.store.run(transitions.claim("m", "w", 0.001))
    after_rounds(keeper, lambda: state(keeper, job) is State.QUEUED)


def test_a_job_nobody_starts_expires_and_its_webhook_is_hinted(keeper: Keeper) -> None:
    job = submit(keeper.store, start_within=0.001, webhook=HOOK)
    after_rounds(keeper, lambda: state(keeper, job) is State.EXPIRED)
    assert ("courier", f"msg_{job.id.removeprefix('job_')}_expired") in hints(keeper).sent


def test_a_webhook_that_is_due_is_hinted_until_a_courier_takes_it(keeper: Keeper) -> None:
    keeper.store.run(deliveries.add_test("msg_x", "t", "http://h/", "h"))
    keeper.round()
    keeper.round()
    assert hints(keeper).sent == [("courier", "msg_x")] * 2
    assert keeper.store.run(deliveries.claim("msg_x", 60, 1)) is not None
    keeper.round()
    assert len(hints(keeper).sent) == 2


def test_objects_go_when_their_job_is_purged_and_not_before(keeper: Keeper) -> None:
    job = submit(keeper.store, retain=0.001)
    keeper.objects.put(image_key(job.id, 0), b"x", "image/png")
    keeper.round()
    assert list(keeper.objects.keys("jobs/")) == [image_key(job.id, 0)]
    keeper.store.run(transitions.cancel("t", job.id))
    after_rounds(keeper, lambda: state(keeper, job) is None)
    after_rounds(keeper, lambda: not list(keeper.objects.keys("jobs/")))
    assert keeper.store.run(transitions.list_trash()) == []


def test_the_manifest_of_a_batch_goes_with_its_record(keeper: Keeper) -> None:
    batch = new_id("batch")
    job = replace(
        Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=0.001), batch=batch
    )
    record = {"id": batch, "tenant": "t", "total": "1"}
    keeper.store.run(transitions.submit("t", [job], max_queued=100, grace=0, batch=record))
    keeper.objects.put(batch_key(batch), b"{}", "application/json")
    keeper.round()
    assert list(keeper.objects.keys("batches/")) == [batch_key(batch)]
    keeper.store.run(transitions.cancel("t", job.id))
    after_rounds(keeper, lambda: not list(keeper.objects.keys("batches/")))
    assert keeper.store.run(batches.get("t", batch)) is None


def test_a_step_that_fails_leaves_the_others_to_run_and_is_done_later(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = submit(keeper.store)
    keeper.store.run(transitions.cancel("t", gone.id))
    keeper.store.run(transitions.delete("t", gone.id))

    def down(prefix: str) -> int:
        raise StorageDown(prefix)

    with monkeypatch.context() as patch:
        patch.setattr(keeper.objects, "delete", down)
        patch.setattr(keeper, "reap", lambda: 1 / 0)
        job = submit(keeper.store)
        keeper.round()
        assert ("vision.m", job.id) in hints(keeper).sent
        assert keeper.store.run(transitions.list_trash()) == [gone.id]
    keeper.round()
    assert keeper.store.run(transitions.list_trash()) == []
