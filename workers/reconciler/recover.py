"""Rebuilds the job records from object storage after Redis was lost: unfinished jobs are computed again, none is lost.

Manifests are listed in the order of their ids, which is that of time.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import structlog
from pydantic import ValidationError

from shared.broker import Hints
from shared.ended import EndedMarker
from shared.errors import ObjectMissing
from shared.ids import created_at
from shared.jobs import Job, State
from shared.request_archive import read_manifest
from shared.results import StoredResult
from shared.settings import RetentionSettings
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

    A job with an ended marker is restored as failed, cancelled or expired, one with a result as succeeded; both send
    their webhook again under the same id. Any other job is queued. Repeating it, or running it beside a live service,
    changes nothing. A job that ended right before the loss may have no marker yet: see shared/ended.py.
    """
    counts = dict.fromkeys(("known", "queued", "succeeded", "failed", "cancelled", "expired", "unreadable"), 0)
    _restore_endpoints(store, objects)  # first, so that the jobs that are restored as ended tell them of it
    for some in _chunks(_jobs(objects), READ_AT_ONCE):
        known = {job.id for job in store.run(transitions.read_jobs(list(some)))}
        counts["known"] += len(known)
        for id in (id for id in some if id not in known):
            outcome = _restore(id, some[id], store, objects, hints)
            counts[outcome] += 1
            if outcome != "unreadable":
                log.info("job restored", job=id, state=outcome)
    for key in objects.keys(BATCHES_PREFIX):
        _restore_batch(key, store, objects)
        hints.deliveries(*store.run(transitions.settle_batch(batch_id(key))))
    return counts | {"files": recover_files(store, objects, time.time())}


def sweep(store: Store, objects: ObjectStorage, settings: RetentionSettings, now: float) -> int:
    """Delete objects that no record knows and that are too old for any: left by an intake that died before its 202."""
    oldest = now - 2 * (settings.retain_for + settings.max_start_within + settings.max_run_within)
    swept = 0
    for id, _ in _jobs(objects):
        if created_at(id) > oldest:
            break
        if not store.run(transitions.read_jobs([id])):
            delete_job_objects(objects, id)
            swept += 1
            log.info("orphaned objects deleted", job=id)
    return swept + sweep_files(store, objects, now)


def _jobs(objects: ObjectStorage) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, keys) of every job with a manifest, oldest first; one listing serves all, for each is a round trip."""
    for id, keys in groupby(objects.keys("jobs/"), lambda key: key.split("/", 2)[1]):
        if not {archive_key(id), manifest_key(id)}.isdisjoint(found := list(keys)):
            yield id, found


def _chunks(jobs: Iterator[tuple[str, list[str]]], size: int) -> Iterator[dict[str, list[str]]]:
    while chunk := dict(islice(jobs, size)):
        yield chunk


def _restore(id: str, keys: Sequence[str], store: Store, objects: ObjectStorage, hints: Hints) -> str:
    try:
        manifest = read_manifest(objects, id)
        job = replace(Job.from_hash(manifest.record), created=created_at(id), state=State.QUEUED)
        batch = objects.get(batch_key(job.batch)).decode() if job.batch else ""
        state, fields = _end(id, keys, objects)
    except (ValueError, TypeError, KeyError, ObjectMissing) as error:  # a truncated or foreign object
        log.error("objects of a job can't be read", job=id, error=_reason(error))
        return "unreadable"
    restored = store.run(transitions.restore(replace(job, **fields), state, 0, batch))
    if state is State.QUEUED:
        hints.job(job.model, id)
    hints.deliveries(*restored.messages)
    return state.value


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


def _end(id: str, keys: Sequence[str], objects: ObjectStorage) -> tuple[State, dict[str, Any]]:
    """Return the state of `id` and the fields that tell its end, as far as its objects, `keys`, know.

    The marker decides before a result: a worker may have written one whose attempt was no longer valid.
    """
    if ended_key(id) in keys:
        marker = EndedMarker.from_bytes(objects.get(ended_key(id)))
        return marker.state, {"error": marker.error, "ended": marker.ended, "attempt": marker.attempt}
    prefix = f"{job_prefix(id)}result-"
    attempts = sorted(int(key.removeprefix(prefix).removesuffix(".json")) for key in keys if key.startswith(prefix))
    if not attempts:
        return State.QUEUED, {}
    key = result_key(id, attempts[-1])
    result = StoredResult.from_bytes(objects.get(key))
    return State.SUCCEEDED, {"attempt": attempts[-1], **result.job_fields(key)}
