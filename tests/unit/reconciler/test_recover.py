"""Losing Redis entirely costs recomputing, not jobs."""

import json
from dataclasses import replace

from shared.conversation import Message
from shared.ids import new_id
from shared.jobs import Job, State
from shared.requests import Manifest, Request
from shared.settings import Settings
from shared.storage import MemoryStorage, batch_key, image_key, manifest_key, result_key
from shared.store import batches, transitions
from shared.store.client import Store, memory_store
from tests.results import stored_result
from tests.unit.reconciler.test_reconcile import HOOK, RecordedHints
from workers.reconciler.recover import recover, sweep

ASKED = Request(model="m", messages=(Message(role="user", content="What?"),))


def stored(objects: MemoryStorage, **changes: object) -> Job:
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60)
    job = replace(job, **changes)  # type: ignore[arg-type]
    manifest = Manifest(record=job.to_hash(), request=ASKED)
    objects.put(manifest_key(job.id), manifest.model_dump_json().encode(), "application/json")
    objects.put(image_key(job.id, 0), b"x", "image/png")
    return job


def read(store: Store, job: Job) -> Job:
    found = store.run(transitions.read_job("", job.id))
    assert found is not None
    return found


def test_a_job_with_a_result_is_restored_and_any_other_is_queued_again() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    waiting, done = (
        stored(objects, metadata={"order": "1"}),
        stored(objects, webhook=HOOK | {"events": ["job.succeeded"]}),
    )
    for attempt, text in ((2, "old"), (10, "new")):
        objects.put(result_key(done.id, attempt), stored_result(text, attempt).to_bytes(), "application/json")
    assert recover(store, objects, hints) == {"known": 0, "queued": 1, "succeeded": 1, "unreadable": 0}
    assert (read(store, waiting).state, read(store, waiting).metadata) == (State.QUEUED, {"order": "1"})
    restored = read(store, done)
    assert (restored.state, restored.attempt) == (State.SUCCEEDED, 10)
    assert restored.output == {"text": "new", "finish_reason": "stop"}
    assert restored.result == result_key(done.id, 10)
    assert ("vision.m", waiting.id) in hints.sent
    assert hints.sent[-1][0] == "webhooks" or hints.sent[0][0] == "webhooks"


def test_recovering_twice_or_beside_a_live_service_changes_nothing() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = stored(objects)
    recover(store, objects, hints)
    store.run(transitions.claim("m", "w", 60))
    assert recover(store, objects, hints) == {"known": 1, "queued": 0, "succeeded": 0, "unreadable": 0}
    assert read(store, job).state is State.RUNNING


def test_a_batch_comes_back_with_its_jobs_and_ends() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    batch = new_id("batch")
    jobs = [stored(objects, batch=batch) for _ in range(2)]
    facts = {"id": batch, "tenant": "t", "total": "2", "created": "1.0"}
    objects.put(batch_key(batch), json.dumps(facts).encode(), "application/json")
    recover(store, objects, hints)
    for job in jobs:
        store.run(transitions.cancel("t", job.id))
    found = store.run(batches.get("t", batch))
    assert found is not None
    assert (found[0].counts["cancelled"], found[0].ended > 0, set(found[1])) == (2, True, {job.id for job in jobs})


def test_an_unreadable_manifest_is_counted_and_does_not_stop_the_others() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    objects.put(manifest_key(new_id("job")), b"{", "application/json")
    job = stored(objects)
    assert recover(store, objects, hints)["unreadable"] == 1
    assert read(store, job).state is State.QUEUED


def test_only_orphans_too_old_for_any_record_are_swept() -> None:
    store, objects = memory_store(), MemoryStorage()
    old, young = stored(objects, id="job_" + "0" * 36), stored(objects)
    kept = stored(objects, id="job_" + "0" * 35 + "1")
    store.run(transitions.submit("t", [kept], max_queued=10, grace=0))
    assert sweep(store, objects, Settings(), now=1795000000.0) == 1
    left = {key.split("/")[1] for key in objects.keys("jobs/")}
    assert left == {young.id, kept.id}
    assert old.id not in left
