"""When Redis is lost: rebuild every record from the manifests. Costs recomputing what had not ended, never a job.

The manifests are listed in the order of their ids, which is that of time.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import structlog

from shared.broker import Hints
from shared.errors import ObjectMissing
from shared.ids import created_at
from shared.jobs import Job, State
from shared.requests import Manifest
from shared.results import StoredResult
from shared.settings import Settings
from shared.storage import ObjectStorage, batch_key, job_prefix
from shared.store import transitions
from shared.store.client import Store

log = structlog.get_logger(__name__)


def recover(store: Store, objects: ObjectStorage, hints: Hints) -> dict[str, int]:
    """Bring back every job that has a manifest and no record; return how many of which kind.

    A job with a result is restored as succeeded (its webhook goes out again under the same id), any other is queued.
    Repeating it, or running it beside a live service, changes nothing.
    """
    counts = {"known": 0, "queued": 0, "succeeded": 0, "unreadable": 0}
    for id in _manifests(objects):
        if store.run(transitions.read_jobs([id])):
            counts["known"] += 1
            continue
        outcome = _restore(id, store, objects, hints)
        counts[outcome] += 1
        log.info("job restored" if outcome != "unreadable" else "manifest unreadable", job=id, outcome=outcome)
    return counts


def sweep(store: Store, objects: ObjectStorage, settings: Settings, now: float) -> int:
    """Delete objects that no record knows and that are too old for any: left by an intake that died before its 202."""
    oldest = now - 2 * (settings.retain_for + settings.max_start_within + settings.max_run_within)
    swept = 0
    for id in _manifests(objects):
        if created_at(id) > oldest:
            break
        if not store.run(transitions.read_jobs([id])):
            objects.delete(job_prefix(id))
            swept += 1
            log.info("orphan swept", job=id)
    return swept


def _manifests(objects: ObjectStorage) -> Iterator[str]:
    for key in objects.keys("jobs/"):
        _, id, name = key.split("/", 2)
        if name == "request.json":
            yield id


def _restore(id: str, store: Store, objects: ObjectStorage, hints: Hints) -> str:
    try:
        manifest = Manifest.model_validate_json(objects.get(f"{job_prefix(id)}request.json"))
        job = replace(Job.from_hash(manifest.record), created=created_at(id), state=State.QUEUED)
        batch = _batch(job, objects)
        result = _result(id, objects)
    except (ValueError, TypeError, KeyError, ObjectMissing) as error:  # a truncated or foreign file: say so, go on
        log.error("manifest can't be read", job=id, error=str(error))
        return "unreadable"
    if result is None:
        store.run(transitions.restore(job, State.QUEUED, 0, batch))
        hints.job(job.model, id)
        return "queued"
    restored = store.run(transitions.restore(replace(job, **result), State.SUCCEEDED, 0, batch))
    hints.deliveries(*restored.messages)
    return "succeeded"


def _batch(job: Job, objects: ObjectStorage) -> str:
    return objects.get(batch_key(job.batch)).decode() if job.batch else ""


def _result(id: str, objects: ObjectStorage) -> dict[str, Any] | None:
    """Return the record fields of the latest result of `id`, or None where it has none."""
    prefix = f"{job_prefix(id)}result-"
    attempts = sorted(int(key.removeprefix(prefix).removesuffix(".json")) for key in objects.keys(prefix))
    if not attempts:
        return None
    key = f"{prefix}{attempts[-1]}.json"
    return {"attempt": attempts[-1], **StoredResult.from_bytes(objects.get(key)).job_fields(key)}
