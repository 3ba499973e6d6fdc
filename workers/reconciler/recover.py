"""Rebuilds the job records from object storage after Redis was lost: unfinished jobs are computed again, none is lost.

Manifests are listed in the order of their ids, which is that of time.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice

import structlog
from pydantic import ValidationError

from shared.broker import Hints
from shared.ended import EndedMarker, delete_expired_groups, newest_groups, open_line, read_group
from shared.errors import ObjectMissing
from shared.ids import created_at
from shared.jobs import Job, State, hash_of
from shared.request_archive import read_manifest
from shared.results import StoredResult
from shared.settings.roles import RetentionSettings
from shared.storage import (
    BATCHES_PREFIX,
    ENDPOINTS_PREFIX,
    ObjectStorage,
    archive_key,
    batch_id,
    batch_key,
    delete_job_objects,
    ended_key,
    job_prefix,
    manifest_key,
    result_key,
)
from shared.store import batches, endpoints, transitions
from shared.store.client import Store
from shared.webhooks.endpoint import WebhookEndpoint
from workers.reconciler.recover_files import recover_files, sweep_files

READ_AT_ONCE = 100  #: records asked for in one round trip
log = structlog.get_logger(__name__)


def recover(store: Store, objects: ObjectStorage, hints: Hints) -> dict[str, int]:
    """Restore every job that has a manifest and no record, and every file; return how many there were of each kind.

    A job whose end is in object storage is restored as it ended, and sends its webhook again under the same id. Any
    other job is queued. Repeating it, or running it beside a live service, changes nothing. The end of a job that ended
    right before the loss may not be stored yet: see shared/ended.py.
    """
    counts = dict.fromkeys(("known", "queued", "succeeded", "failed", "cancelled", "expired", "unreadable"), 0)
    _restore_endpoints(store, objects)  # first, so that the jobs that are restored as ended tell them of it
    ended = _restore_ended(store, objects, hints, counts)
    for some in _chunks(_jobs(objects), READ_AT_ONCE):
        known = {job.id for job in store.run(transitions.read_jobs(list(some)))}
        counts["known"] += len(known)
        for id in (id for id in some if id not in known and id not in ended.unreadable):
            _count(id, _restore(id, partial(_end, id, some[id], objects), store, objects, hints), counts)
    counts["known"] -= ended.restored
    for key in objects.keys(BATCHES_PREFIX):
        _restore_batch(key, store, objects)
        hints.deliveries(*store.run(transitions.settle_batch(batch_id(key))))
    return counts | {"files": recover_files(store, objects, time.time())}


def sweep(store: Store, objects: ObjectStorage, settings: RetentionSettings, now: float) -> int:
    """Delete what is too old for any record: objects of an intake that died before its 202, ends of expired jobs."""
    oldest = now - 2 * (settings.retain_for + settings.max_start_within + settings.max_run_within)
    swept = 0
    for id, _ in _jobs(objects):
        if created_at(id) > oldest:
            break
        if not store.run(transitions.read_jobs([id])):
            delete_job_objects(objects, id)
            swept += 1
            log.info("orphaned objects deleted", job=id)
    return swept + sweep_files(store, objects, now) + delete_expired_groups(objects, now)


def _jobs(objects: ObjectStorage) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, keys) of every job with a manifest, oldest first; one listing serves all, for each is a round trip."""
    for id, keys in groupby(objects.keys("jobs/"), lambda key: key.split("/", 2)[1]):
        if not {archive_key(id), manifest_key(id)}.isdisjoint(found := list(keys)):
            yield id, found


def _chunks(jobs: Iterator[tuple[str, list[str]]], size: int) -> Iterator[dict[str, list[str]]]:
    while chunk := dict(islice(jobs, size)):
        yield chunk


@dataclass
class _Ended:
    """What became of the jobs whose ends are in groups."""

    restored: int = 0
    unreadable: set[str] = field(default_factory=set)  #: they ended, and must not run again


def _restore_ended(store: Store, objects: ObjectStorage, hints: Hints, counts: dict[str, int]) -> _Ended:
    """Restore the jobs whose ends are in groups."""
    ended = _Ended()
    for key in newest_groups(objects):
        try:
            lines = read_group(objects, key)
        except (ValueError, ObjectMissing) as error:
            log.error("group of ends can't be read, its jobs run again", key=key, error=type(error).__name__)
            continue
        known = {job.id for job in store.run(transitions.read_jobs(list(lines)))}
        for id in lines.keys() - known - ended.unreadable:
            outcome = _restore(id, partial(open_line, lines[id]), store, objects, hints)
            _count(id, outcome, counts)
            if outcome == "unreadable":
                ended.unreadable.add(id)
            elif outcome:
                ended.restored += 1
    return ended


def _restore(id: str, end: Callable[[str], dict[str, str]], store: Store, objects: ObjectStorage, hints: Hints) -> str:
    """Restore a job; `end` returns the fields of the record that tell its end, none if it has not ended, by its key.

    Return its state, `unreadable`, or "" where it was deleted.
    """
    try:
        record = read_manifest(objects, id).record
    except ObjectMissing:
        return ""
    except ValueError as error:
        log.error("objects of a job can't be read", job=id, error=_reason(error))
        return "unreadable"
    try:
        job = Job.from_hash(record | end(record.get("seal", "")))
        batch = objects.get(batch_key(job.batch)).decode() if job.batch else ""
    except (ValueError, TypeError, KeyError, ObjectMissing) as error:  # a truncated or foreign object
        log.error("objects of a job can't be read", job=id, error=_reason(error))
        return "unreadable"
    restored = store.run(transitions.restore(replace(job, created=created_at(id)), job.state, 0, batch))
    if job.state is State.QUEUED:
        hints.job(job.model, id)
    hints.deliveries(*restored.messages)
    return job.state.value


def _count(id: str, outcome: str, counts: dict[str, int]) -> None:
    if outcome:
        counts[outcome] += 1
    if outcome not in ("", "unreadable"):
        log.info("job restored", job=id, state=outcome)


def _restore_batch(key: str, store: Store, objects: ObjectStorage) -> None:
    """Restore a batch of a file. If it has not ended, its file is read again; lines keep the ids of their jobs."""
    try:
        record = json.loads(objects.get(key))
    except (ValueError, ObjectMissing) as error:
        log.error("the record of a batch can't be read", key=key, error=str(error))
        return
    if "status" in record:
        store.run(batches.put(record))


def _restore_endpoints(store: Store, objects: ObjectStorage) -> None:
    for key in objects.keys(ENDPOINTS_PREFIX):
        try:
            record: dict[str, str] = json.loads(objects.get(key))
            WebhookEndpoint.from_hash(record)
        except (ValueError, TypeError, KeyError, ObjectMissing) as error:
            log.error("webhook endpoint can't be read", key=key, error=type(error).__name__)
            continue
        if store.run(endpoints.restore(record)):
            log.info("webhook endpoint restored", endpoint=record["id"])


def _reason(error: Exception) -> str:
    """Return what is wrong, without the values: a manifest holds prompts and the headers of webhooks."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found)


def _end(id: str, keys: Sequence[str], objects: ObjectStorage, _: str) -> dict[str, str]:
    """Return the fields that tell the end of a job in no group, as far as its objects, `keys`, know.

    The marker decides before a result: a worker may have written one whose attempt was no longer valid.
    """
    if ended_key(id) in keys:
        marker = EndedMarker.model_validate_json(objects.get(ended_key(id)))
        return hash_of(state=marker.state, error=marker.error, ended=marker.ended, attempt=marker.attempt)
    prefix = f"{job_prefix(id)}result-"
    attempts = sorted(int(key.removeprefix(prefix).removesuffix(".json")) for key in keys if key.startswith(prefix))
    if not attempts:
        return {"state": State.QUEUED}
    key = result_key(id, attempts[-1])
    result = StoredResult.from_bytes(objects.get(key))
    return hash_of(state=State.SUCCEEDED, attempt=attempts[-1], **result.job_fields(key))
