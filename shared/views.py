"""A job as the outside sees it: the body of `GET /v1/jobs/{id}` and of its webhooks (`api.md`, "A job")."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.batches import Batch
from shared.errors import ResultLost
from shared.jobs import Job, State

#: The `error` of a job that succeeded, and whose result object is gone.
LOST = {"code": ResultLost.code, "message": ResultLost().detail, "retryable": False, "image": None}
_TIMINGS = ("queue", "fetch", "tile", "vision", "prefill", "decode", "first_token", "total")


def moment(seconds: float) -> str | None:
    """Return RFC 3339 in UTC with milliseconds, or None for 0 (not yet)."""
    if not seconds:
        return None
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_view(job: Job, output: Mapping[str, Any] | None = None, *, lost: bool = False) -> dict[str, Any]:
    """Return what the API shows of `job`; `output` where the record keeps no copy of a large one, `lost` if it is gone.

    Without `output`, a large one is left out and `output_omitted` says so.
    """
    running = job.state is State.RUNNING
    shown = dict(output or job.output or {}) or None if job.state is State.SUCCEEDED else None
    return {
        "id": job.id,
        "object": "job",
        "state": job.state.value,
        "model": job.model,
        "created_at": moment(job.created),
        "started_at": moment(job.started),
        "ended_at": moment(job.ended),
        "expires_at": moment(job.expires),
        "attempt": job.charged,
        "max_attempts": job.max_attempts,
        "queue_position": job.position if job.state is State.QUEUED and job.position >= 0 else None,
        "progress": {
            "stage": (job.stage or "fetch") if running else job.stage or None,
            "tiles": job.tiles,
            "prompt_tokens": job.prompt_tokens,
            "completion_tokens": job.completion_tokens,
        }
        if job.attempt
        else None,
        "images": job.images,
        "output": shown,
        "output_omitted": job.state is State.SUCCEEDED and shown is None and not lost,
        "error": LOST if lost else job.error,
        "usage": job.usage,
        "timings": {name: job.timings.get(name) for name in _TIMINGS} if job.timings else None,
        "webhook": webhook_view(job.webhook, job.hook_state, job.hook_attempts),
        "metadata": job.metadata,
        "parent": job.parent or None,
        "batch": job.batch or None,
        "custom_id": job.custom_id or None,
        "retry_of": job.retry_of or None,
    }


def webhook_view(webhook: Mapping[str, Any] | None, state: str, attempts: int) -> dict[str, Any]:
    """Return the `webhook` part of a job or batch."""
    if webhook is None:
        return {"url": None, "events": [], "payload": None, "state": "none", "attempts": 0}
    shown = {name: webhook[name] for name in ("url", "events", "payload")}
    return shown | {"state": state, "attempts": attempts}


def batch_view(batch: Batch) -> dict[str, Any]:
    """Return what the API shows of a batch."""
    return {
        "id": batch.id,
        "object": "batch",
        "state": "ended" if batch.ended else "open",
        "created_at": moment(batch.created),
        "ended_at": moment(batch.ended),
        "expires_at": moment(batch.expires),
        "total": batch.total,
        "counts": batch.counts,
        "webhook": webhook_view(batch.webhook, batch.hook_state, batch.hook_attempts),
        "metadata": batch.metadata,
    }
