"""Ended marker: the object `jobs/{id}/ended.json` of a job that ended without a result.

The record in Redis says that a job failed, was cancelled or expired; `--recover` has only the objects. The marker keeps
such a job from being queued again after Redis was lost. The transition that ends the job adds it to the index
`unmarked` in the same script, and only a written marker removes it from there. So a process that dies between the
transition and the marker leaves the job to the reconciler, which writes the markers of the index in every period.

Remaining window: if Redis and its append-only file are lost between the two (milliseconds, or as long as neither the
process that ended the job nor a reconciler reaches object storage), the job is queued again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

from shared.jobs import Job, State
from shared.records import JobError, RecordValue
from shared.storage import ObjectStorage, ended_key
from shared.store import transitions
from shared.store.client import Store
from shared.views import moment


class EndedMarker(RecordValue):
    """The content of `ended.json`. `ended_at` is RFC 3339 in UTC by the store's clock."""

    state: Literal[State.FAILED, State.CANCELLED, State.EXPIRED]
    error: JobError | None
    ended_at: str
    attempt: int = 0  #: claims until then

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the marker of an ended job."""
        return cls.model_validate(
            {"state": job.state, "error": job.error, "ended_at": moment(job.ended), "attempt": job.attempt}
        )

    def to_bytes(self) -> bytes:
        """Return the object's content, JSON in UTF-8."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the object's content. Raises `ValueError`."""
        return cls.model_validate_json(data)

    @property
    def ended(self) -> float:
        """Epoch seconds of `ended_at`."""
        return datetime.fromisoformat(self.ended_at).timestamp()


def write_ended_markers(store: Store, objects: ObjectStorage, ids: Sequence[str] = (), *, limit: int = 100) -> int:
    """Write the missing markers of `ids`, or of the `limit` oldest of the index; return how many were written.

    Repeating it changes nothing. Raises `QueueUnavailable` or `StorageDown`; what is not written stays in the index.
    """
    jobs = store.run(transitions.list_unmarked(ids, limit))
    for job in jobs:
        objects.put(ended_key(job.id), EndedMarker.of(job).to_bytes(), "application/json")
        store.run(transitions.marked([job.id]))
    return len(jobs)
