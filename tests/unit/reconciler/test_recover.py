"""Losing Redis entirely costs recomputing, not jobs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from shared.conversation import Message
from shared.encryption import new_key
from shared.ended import archive_ends, newest_groups
from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import JobImage, JobOutput, WebhookTarget
from shared.request_archive import MANIFEST, manifest_bytes, pack, replace_manifest
from shared.requests import Manifest, Request
from shared.settings.roles import Settings
from shared.storage import (
    MemoryStorage,
    archive_key,
    batch_key,
    delete_job_objects,
    ended_key,
    endpoint_key,
    image_key,
    manifest_key,
    result_key,
)
from shared.store import batches, deliveries, endpoints, transitions
from shared.store.client import Store, memory_store
from shared.store.stats import get_stats
from tests.message_ids import message_id
from tests.results import stored_result
from tests.unit.reconciler.test_reconcile import HOOK, RecordedHints
from tests.waiting import eventually
from workers.reconciler.recover import recover, sweep

ASKED = Request(model="m", messages=(Message(role="user", content="What?"),))


def stored(objects: MemoryStorage, *, former: bool = False, **changes: object) -> Job:
    """Store what intake does of a job, or, `former`, what that of a former release did."""
    seal = "" if former else new_key()
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60, seal=seal)
    job = replace(job, **changes)  # type: ignore[arg-type]
    manifest = Manifest(record=job.to_hash(), request=ASKED)
    content = manifest.model_dump_json().encode()
    key, data = (manifest_key(job.id), content) if former else (archive_key(job.id), pack({MANIFEST: content}))
    objects.put(key, data, "")
    objects.put(image_key(job.id, 0), b"x", "image/png")
    return job


def read(store: Store, job: Job) -> Job:
    found = store.run(transitions.read_job("", job.id))
    assert found is not None
    return found


def test_webhook_endpoints_are_restored_before_the_jobs_that_tell_them() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    record = {"id": new_id("we"), "tenant": "t", "name": "a", "url": "https://a/", "host": "a:443", "payload": "thin"}
    record |= {"events": '["job.succeeded"]', "secret": "s", "hint": "abcd", "created": "1", "updated": "1"}
    gone = record | {"id": new_id("we")}
    for one in (record, gone):
        objects.put(endpoint_key(one["id"]), json.dumps(one).encode(), "application/json")
    objects.put(endpoint_key("we_broken"), b"{}", "application/json")
    store.run(endpoints.put(gone, 20))
    store.run(endpoints.delete("t", gone["id"]))  # its object is still to be deleted
    done = stored(objects)
    objects.put(result_key(done.id, 1), stored_result().to_bytes(), "application/json")
    recover(store, objects, hints)
    assert store.run(endpoints.stored(record["id"])) == record
    assert store.run(endpoints.get("t", gone["id"])) is None
    (message,) = store.run(deliveries.list_for("job", done.id))
    assert message == f"{message_id(done.id, 'succeeded')}_{record['id'][3:]}"


def counted(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("former", [False, True])
def test_a_job_with_a_result_is_restored_and_any_other_is_queued_again(former: bool) -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    waiting, done = (
        stored(objects, former=former, metadata={"order": "1"}),
        stored(objects, former=former, webhook=HOOK | {"events": ["job.succeeded"]}),
    )
    for attempt, text in ((2, "old"), (10, "new")):
        objects.put(result_key(done.id, attempt), stored_result(text, attempt).to_bytes(), "application/json")
    assert counted(recover(store, objects, hints)) == {"queued": 1, "succeeded": 1}
    assert (read(store, waiting).state, read(store, waiting).metadata) == (State.QUEUED, {"order": "1"})
    restored = read(store, done)
    assert (restored.state, restored.attempt) == (State.SUCCEEDED, 10)
    assert restored.output == JobOutput(text="new", finish_reason="stop")
    assert restored.result == result_key(done.id, 10)
    assert ("vision.m", waiting.id) in hints.sent
    assert hints.sent[-1][0] == "webhooks" or hints.sent[0][0] == "webhooks"


def test_images_by_url_are_restored_as_a_worker_found_them() -> None:
    store, objects = memory_store(), MemoryStorage()
    job = stored(objects, images=[JobImage()])
    store.run(transitions.submit("t", [job], max_queued=10, grace=0))
    claimed = store.run(transitions.claim("m", "w", 60)).value
    assert claimed is not None
    size = {"width": 64, "height": 32, "grid": [2, 1], "tiles": 3}
    found = JobImage.model_validate({"media_type": "image/png", "bytes": 1, "sha256": "ab"} | size)
    fields = stored_result().job_fields("") | {"images": [found]}
    store.run(transitions.finish(job.id, claimed.attempt, State.SUCCEEDED, fields))
    archive_ends(store, objects, [job.id])
    empty = memory_store()
    recover(empty, objects, RecordedHints())
    assert (read(empty, job).state, read(empty, job).images) == (State.SUCCEEDED, [found])


def test_recovering_twice_or_beside_a_live_service_changes_nothing() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = stored(objects)
    recover(store, objects, hints)
    store.run(transitions.claim("m", "w", 60))
    assert counted(recover(store, objects, hints)) == {"known": 1}
    assert read(store, job).state is State.RUNNING


def end(store: Store, job: Job, state: str) -> None:
    """End a submitted job as a worker, intake or the reconciler would."""
    if state == "succeeded":
        store.run(transitions.claim("m", "w", 60))
        store.run(transitions.finish(job.id, 1, State.SUCCEEDED, stored_result("yes").job_fields("")))
    elif state == "failed":
        store.run(transitions.claim("m", "w", 60))
        error = {"code": "undecodable_image", "message": "it is torn", "retryable": False, "image": 0}
        store.run(transitions.finish(job.id, 1, State.FAILED, {"error": error}))
    elif state == "cancelled":
        store.run(transitions.cancel("t", job.id))
    else:
        eventually(lambda: store.run(transitions.expire_due()).value)


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "expired"])
def test_a_job_is_restored_as_it_ended(state: str, former: bool) -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    webhook = HOOK | {"events": [f"job.{state}"]}
    job = stored(objects, former=former, webhook=webhook, start_within=0.001 if state == "expired" else 60)
    lost.run(transitions.submit("t", [job], max_queued=10, grace=0))
    end(lost, job, state)
    archive_ends(lost, objects)
    ended = read(lost, job)

    store = memory_store()
    assert counted(recover(store, objects, hints)) == {state: 1}
    found = read(store, job)
    assert (found.state, found.error, found.attempt) == (ended.state, ended.error, ended.attempt)
    assert (found.output, found.usage, found.timings) == (ended.output, ended.usage, ended.timings)
    assert (found.started, found.ended) == (ended.started, ended.ended)
    assert hints.sent == [("webhooks", message_id(job.id, state))]
    assert store.run(transitions.claim("m", "w", 60)).value is None
    assert store.run(get_stats()).outbox == 0


def test_the_end_of_a_job_stands_over_the_result_of_an_attempt_that_was_too_late() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = stored(objects)
    lost.run(transitions.submit("t", [job], max_queued=10, grace=0))
    end(lost, job, "failed")
    objects.put(result_key(job.id, 1), stored_result("late", 1).to_bytes(), "application/json")
    archive_ends(lost, objects)
    assert counted(recover(memory_store(), objects, hints)) == {"failed": 1}


def ended_job(objects: MemoryStorage, lost: Store, **changes: object) -> Job:
    """Store a job that was answered, and its end."""
    job = stored(objects, **changes)  # type: ignore[arg-type]
    lost.run(transitions.submit("t", [job], max_queued=10, grace=0))
    end(lost, job, "succeeded")
    archive_ends(lost, objects)
    return job


def test_a_job_that_ended_twice_is_restored_with_its_last_end() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = ended_job(objects, lost, retain=7200)
    again = memory_store()  # the end was in no group when Redis was lost for the first time, and then it was
    again.run(transitions.submit("t", [job], max_queued=10, grace=0))
    end(again, job, "failed")
    archive_ends(again, objects)
    store = memory_store()
    assert counted(recover(store, objects, hints)) == {"failed": 1}
    assert read(store, job).output is None


def test_what_is_restored_as_ended_is_archived_again_and_charges_no_tokens() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = ended_job(objects, lost)
    store, other = memory_store(), memory_store()
    recover(store, objects, hints)
    assert archive_ends(store, objects) == 1
    assert not store.client.keys(f"{store.prefix}usage:*")
    objects.delete(newest_groups(objects)[1])
    assert counted(recover(other, objects, hints)) == {"succeeded": 1}
    assert read(other, job).ended == read(lost, job).ended


def test_an_ended_job_that_was_deleted_is_not_restored_from_its_group() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    delete_job_objects(objects, ended_job(objects, lost).id)
    assert counted(recover(memory_store(), objects, hints)) == {}
    assert hints.sent == []


def test_a_group_that_is_unreadable_hides_no_other() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    ended_job(objects, lost)
    objects.put(newest_groups(objects)[0].replace("group_", "group_0"), b"{", "application/jsonl")
    assert counted(recover(memory_store(), objects, hints)) == {"succeeded": 1}


def test_a_job_whose_end_is_unreadable_is_not_run() -> None:
    lost, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    ended_job(objects, lost)
    former = stored(objects, former=True)
    objects.put(ended_key(former.id), b'{"state": "succeeded"}', "application/json")
    (group,) = newest_groups(objects)
    objects.put(group, objects.get(group).replace(b'"sealed": "', b'"sealed": "AAAA'), "application/jsonl")
    assert counted(recover(memory_store(), objects, hints)) == {"unreadable": 2}
    assert hints.sent == []


def test_the_marker_of_a_former_release_tells_the_end() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = stored(objects, former=True)
    marker = {"state": "cancelled", "error": None, "ended_at": "2026-11-18T11:06:40.000Z", "attempt": 1}
    objects.put(ended_key(job.id), json.dumps(marker).encode(), "application/json")
    assert counted(recover(store, objects, hints)) == {"cancelled": 1}
    assert (read(store, job).attempt, read(store, job).ended) == (1, 1795000000.0)


@pytest.mark.parametrize("former", [False, True])
def test_a_job_that_was_deleted_in_part_is_not_restored(monkeypatch: pytest.MonkeyPatch, former: bool) -> None:
    objects, hints = MemoryStorage(), RecordedHints()
    job = stored(objects, former=former)
    delete = objects.delete

    def delete_one(prefix: str) -> int:
        deleted = delete(prefix)
        monkeypatch.setattr(objects, "delete", lambda _: 1 / 0)  # the process dies here
        return deleted

    monkeypatch.setattr(objects, "delete", delete_one)
    with pytest.raises(ZeroDivisionError):
        delete_job_objects(objects, job.id)
    assert list(objects.keys("jobs/")) == [image_key(job.id, 0)]
    assert counted(recover(memory_store(), objects, hints)) == {}


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


def batch_of(objects: MemoryStorage, size: int) -> tuple[str, list[Job]]:
    """Store the manifests of a batch and its jobs; return its id and them."""
    batch = new_id("batch")
    jobs = [stored(objects, batch=batch) for _ in range(size)]
    hook = WebhookTarget(url="http://h/", host="h", events=["batch.ended"]).model_dump_json()
    facts = {"id": batch, "tenant": "t", "total": str(size), "created": "1.0", "webhook": hook}
    objects.put(batch_key(batch), json.dumps(facts).encode(), "application/json")
    return batch, jobs


def ended(store: Store, batch: str) -> bool:
    found = store.run(batches.get("t", batch))
    assert found is not None
    return found[0].ended > 0


def test_a_batch_does_not_end_before_all_its_jobs_are_restored() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    batch, (done, waiting) = batch_of(objects, 2)
    objects.put(result_key(done.id, 1), stored_result("a", 1).to_bytes(), "application/json")
    assert counted(recover(store, objects, hints)) == {"succeeded": 1, "queued": 1}
    assert not ended(store, batch)
    assert ("webhooks", message_id(batch, "ended")) not in hints.sent
    moved = store.run(transitions.cancel("t", waiting.id))
    assert ended(store, batch)
    assert message_id(batch, "ended") in moved.messages


def test_a_batch_whose_jobs_had_all_ended_ends_also_if_one_is_unreadable() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    batch, (done, broken) = batch_of(objects, 2)
    objects.put(result_key(done.id, 1), stored_result("a", 1).to_bytes(), "application/json")
    objects.put(archive_key(broken.id), b"{", "application/json")
    assert counted(recover(store, objects, hints)) == {"succeeded": 1, "unreadable": 1}
    assert ended(store, batch)
    assert ("webhooks", message_id(batch, "ended")) in hints.sent


@pytest.mark.parametrize("key_of", [manifest_key, archive_key])
def test_an_unreadable_manifest_is_counted_and_does_not_stop_the_others(key_of: Callable[[str], str]) -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    objects.put(key_of(new_id("job")), b"{", "application/json")
    job = stored(objects)
    assert recover(store, objects, hints)["unreadable"] == 1
    assert read(store, job).state is State.QUEUED


def test_an_unreadable_manifest_is_reported_without_its_content() -> None:
    store, objects, hints = memory_store(), MemoryStorage(), RecordedHints()
    job = stored(objects)
    manifest = json.loads(manifest_bytes(objects, archive_key(job.id)))
    manifest["record"]["webhook"] = json.dumps({"headers": {"Authorization": "Bearer s3cret"}})
    manifest["request"]["messages"] = [{"role": "s3cret", "content": 7}]
    replace_manifest(objects, archive_key(job.id), json.dumps(manifest).encode())
    with capture_logs() as logs:
        assert counted(recover(store, objects, hints)) == {"unreadable": 1}
    assert "role" in str(logs)
    assert "s3cret" not in str(logs)


def test_only_orphans_too_old_for_any_record_are_swept() -> None:
    store, objects = memory_store(), MemoryStorage()
    old, young = stored(objects, id="job_" + "0" * 36), stored(objects)
    kept = stored(objects, id="job_" + "0" * 35 + "1")
    store.run(transitions.submit("t", [kept], max_queued=10, grace=0))
    assert sweep(store, objects, Settings(), now=1795000000.0) == 1
    left = {key.split("/")[1] for key in objects.keys("jobs/")}
    assert left == {young.id, kept.id}
    assert old.id not in left


def test_the_objects_are_listed_once_however_many_jobs_there_are() -> None:
    listed: list[str] = []

    class Listing(MemoryStorage):
        def keys(self, prefix: str) -> Iterator[str]:
            listed.append(prefix)
            return super().keys(prefix)

    objects = Listing()
    for _ in range(250):
        stored(objects)
    assert recover(memory_store(), objects, RecordedHints())["queued"] == 250
    assert listed.count("jobs/") == 1
    assert len(listed) <= 5  # jobs, their ends, batches, files and webhook endpoints
