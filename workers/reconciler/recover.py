"""Rebuilds the job records from object storage after Redis was lost: unfinished jobs are computed again, none is lost.

Manifests are listed in the order of their ids, which is that of time.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import structlog
from pydantic import ValidationError

from shared.broker import Hints
from shared.ended import EndedMarker
from shared.errors import ObjectMissing
from shared.ids import created_at
from shared.jobs import Job, State
from shared.requests import Manifest
from shared.results import StoredResult
from shared.settings import RetentionSettings
from shared.storage import (
    BATCHES_PREFIX,
    ObjectStorage,
    batch_id,
    batch_key,
    delete_job_objects,
    ended_key,
    job_prefix,
    manifest_key,
    result_key,
)
from shared.store import transitions
from shared.store.client import Store

log = structlog.get_logger(__name__)


def recover(store: Store, objects: ObjectStorage, hints: Hints) -> dict[str, int]:
    """Restore every job that has a manifest and no record; return how many there were of each kind.

    A job with an ended marker is restored as failed, cancelled or expired, one with a result as succeeded; both send
    their webhook again under the same id. Any other job is queued. Repeating it, or running it beside a live service,
    changes nothing. A job that ended right before the loss may have no marker yet: see shared/ended.py.
    """
    counts = dict.fromkeys(("known", "queued", "succeeded", "failed", "cancelled", "expired", "unreadable"), 0)
    for id in _manifests(objects):
        if store.run(transitions.read_jobs([id])):
            counts["known"] += 1
            continue
        outcome = _restore(id, store, objects, hints)
        counts[outcome] += 1
        if outcome != "unreadable":
            log.info("job restored", job=id, state=outcome)
    for key in objects.keys(BATCHES_PREFIX):
        hints.deliveries(*store.run(transitions.settle_batch(batch_id(key))))
    return counts


def sweep(store: Store, objects: ObjectStorage, settings: RetentionSettings, now: float) -> int:
    """Delete objects that no record knows and that are too old for any: left by an intake that died before its 202."""
    oldest = now - 2 * (settings.retain_for + settings.max_start_within + settings.max_run_within)
    swept = 0
    for id in _manifests(objects):
        if created_at(id) > oldest:
            break
        if not store.run(transitions.read_jobs([id])):
            delete_job_objects(objects, id)
            swept += 1
            log.info("orphaned objects deleted", job=id)
    return swept


def _manifests(objects: ObjectStorage) -> Iterator[str]:
    for key in objects.keys("jobs/"):
        _, id, name = key.split("/", 2)
        if name == "request.json":
            yield id


def _restore(id: str, store: Store, objects: ObjectStorage, hints: Hints) -> str:
    try:
        manifest = Manifest.model_validate_json(objects.get(manifest_key(id)))
        job = replace(Job.from_hash(manifest.record), created=created_at(id), state=State.QUEUED)
        batch = objects.get(batch_key(job.batch)).decode() if job.batch else ""
        state, fields = _end(id, objects)
    except (ValueError, TypeError, KeyError, ObjectMissing) as error:  # a truncated or foreign object
        log.error("objects of a job can't be read", job=id, error=_reason(error))
        return "unreadable"
    restored = store.run(transitions.restore(replace(job, **fields), state, 0, batch))
    if state is State.QUEUED:
        hints.job(job.model, id)
    hints.deliveries(*restored.messages)
    return state.value


def _reason(error: Exception) -> str:
    """Return what is wrong, without the values: a manifest holds prompts and the headers of webhooks."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found)


def _end(id: str, objects: ObjectStorage) -> tuple[State, dict[str, Any]]:
    """Return the state of `id` and the fields that tell its end, as far as the objects know.

    The marker decides before a result: a worker may have written one whose attempt was no longer valid.
    """
    keys = list(objects.keys(job_prefix(id)))
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
