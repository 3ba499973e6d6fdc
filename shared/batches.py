"""Batches: many jobs submitted as one request, or as the lines of a file.

Of a file, OpenAI's batch (https://platform.openai.com/docs/api-reference/batch). Every arrow is one script, and the
claim (`fence`) of the process that works on the batch, `python -m services.intake.batches`, is checked in each:

    validating ──> in_progress ──> finalizing ──> completed
        │              │ deadline      │
        └─> failed     └──────> finalizing ──> expired, or failed where the file is gone
    cancelling, from each of the three, ──> cancelled

Lines become jobs in the file's order, as there is room in the queue. One script submits some of them and moves the
batch's position in its file, so no line becomes two jobs and none is left out, whenever a process dies. The id of a
line's job follows from the batch and the line (`line_job_id`): even when Redis is lost with its disk and the file is
read from its beginning again, no line is answered twice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Self, get_type_hints

from shared.ids import derived_id
from shared.jobs import Priority, State
from shared.records import WebhookTarget


class BatchStatus(StrEnum):
    """The status of a batch of a file."""

    VALIDATING = "validating"  #: Its lines are read and checked; none is a job yet.
    IN_PROGRESS = "in_progress"  #: Its lines are queued as there is room, and answered.
    FINALIZING = "finalizing"  #: No line is queued any more; the output is being written.
    CANCELLING = "cancelling"  #: Its jobs are being cancelled, and the output written.
    COMPLETED = "completed"  #: Every line was answered or refused.
    FAILED = "failed"  #: A line of the file is not valid, or the file is gone.
    EXPIRED = "expired"  #: Its completion window passed before every line was answered.
    CANCELLED = "cancelled"  #: The client cancelled it.

    @property
    def terminal(self) -> bool:
        """The last four never change."""
        return self in (self.COMPLETED, self.FAILED, self.EXPIRED, self.CANCELLED)


@dataclass(frozen=True)
class BatchFile:
    """What a batch of a file has beside its jobs.

    Moments are seconds since the epoch by the store's clock, 0 means not yet.
    """

    status: BatchStatus
    input_file: str  #: id of the file
    endpoint: str  #: that every line names: `/v1/responses` or `/v1/chat/completions`
    window: str  #: `completion_window` as it was asked
    deadline: float  #: moment at which the window ends
    priority: Priority = "low"  #: of lines that name none
    max_priority: Priority = "high"  #: that a line may name
    reads: bool = True  #: the lines may continue earlier jobs: the caller's key may read
    bytes: int = 0  #: of the file
    output_expires: float = 0  #: seconds that the files of the batch live; 0: as long as files of batches usually do
    fence: int = 0  #: claims so far: the fencing token
    offset: int = 0  #: bytes of the file whose lines are jobs or refused
    line: int = 0  #: lines in them
    refused: int = 0  #: lines that became no job
    outcome: str = ""  #: the status in which it will end, once that is known
    answered: int = 0  #: lines of the output file, once it is written
    unanswered: int = 0  #: lines of the error file
    output_file: str = ""
    error_file: str = ""
    errors: str = ""  #: why it failed, as a JSON list of {code, line, message, param}
    in_progress_at: float = 0
    finalizing_at: float = 0
    completed_at: float = 0
    failed_at: float = 0
    expired_at: float = 0
    cancelling_at: float = 0
    cancelled_at: float = 0

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash."""
        return cls(**{name: kind(record[name]) for name, kind in _file_fields().items() if name in record})


@dataclass(frozen=True)
class Batch:
    """Many jobs submitted as one request. Times are seconds since the epoch; `ended` is 0 while a job is active."""

    id: str
    tenant: str
    total: int
    created: float
    ended: float
    expires: float
    counts: dict[str, int]  #: jobs in each state
    webhook: WebhookTarget | None
    hook_state: str
    hook_attempts: int
    metadata: dict[str, str]
    file: BatchFile | None = None  #: of a batch whose jobs are the lines of a file

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash."""
        return cls(
            id=record["id"],
            tenant=record["tenant"],
            total=int(record["total"]),
            created=float(record["created"]),
            ended=float(record.get("ended", 0)),
            expires=float(record.get("expires", 0)),
            counts={state.value: int(record.get(state.value, 0)) for state in State},
            webhook=WebhookTarget.model_validate_json(record["webhook"]) if record.get("webhook") else None,
            hook_state=record.get("hook_state", "none"),
            hook_attempts=int(record.get("hook_attempts", 0)),
            metadata=json.loads(record.get("metadata", "{}")),
            file=BatchFile.from_hash(record) if "status" in record else None,
        )

    @property
    def active(self) -> int:
        """Jobs that have not ended."""
        return self.counts[State.QUEUED] + self.counts[State.RUNNING]


def line_job_id(batch: str, line: int) -> str:
    """Return the id of the job of `line` (from 1 on) of the file of `batch`."""
    return derived_id("job", batch, line)


@cache
def _file_fields() -> Mapping[str, Any]:
    """Return how each field of `BatchFile` is read from its text in the hash."""
    return {name: hint if isinstance(hint, type) else str for name, hint in get_type_hints(BatchFile).items()}
