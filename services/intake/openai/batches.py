"""Batches of files in OpenAI's shape: how they are asked for, and what is shown of them.

https://platform.openai.com/docs/api-reference/batch
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from services.intake.schemas.openai import FileBatchOptions, FileBatchRequest
from services.intake.schemas.requests import without_nulls, without_webhook_nulls
from services.intake.schemas.validation import read
from shared.batches import Batch, BatchStatus
from shared.jobs import State
from shared.views import Body, WebhookBody, webhook_body

NATIVE_ENDPOINT = "/v1/jobs"  #: shown of a batch that came with its jobs in its body
_DATED = tuple(status.value for status in BatchStatus if status is not BatchStatus.VALIDATING)
Epoch = Annotated[int | None, Field(description="seconds since the epoch")]


class BatchError(Body):
    """Why a batch was not accepted: a line of its file, or its file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(Body):
    """The first errors of a file; there may be more."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(Body):
    """Lines of a batch. `failed` are those of the error file."""

    total: int
    completed: int
    failed: int


class FileBatchFields(Body):
    """What only tileq tells."""

    queued: Annotated[int, Field(description="lines that wait for a worker; further ones wait in the file")]
    running: int
    lines_read: int
    priority: Literal["high", "normal", "low"]
    expires_at: Annotated[Epoch, Field(description="when the ended batch is forgotten")]
    webhook: WebhookBody


class FileBatchBody(Body):
    """A batch, as OpenAI's SDKs read it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: Epoch = None
    expires_at: Annotated[Epoch, Field(description="when the completion window ends")] = None
    finalizing_at: Epoch = None
    completed_at: Epoch = None
    failed_at: Epoch = None
    expired_at: Epoch = None
    cancelling_at: Epoch = None
    cancelled_at: Epoch = None
    request_counts: RequestCounts
    metadata: dict[str, str]
    tileq: FileBatchFields | None = None


class FileBatchPage(Body):
    """A page of batches, as OpenAI's SDKs read it."""

    object: Literal["list"] = "list"
    data: list[FileBatchBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def read_file_batch(body: dict[str, Any]) -> FileBatchRequest:
    """Return the request of `POST /v1/batches` that names a file. Raises `InvalidField`."""
    body = without_nulls(body, FileBatchRequest)
    extras = body.get("tileq")
    if isinstance(extras, dict):
        body = body | {"tileq": without_webhook_nulls(without_nulls(extras, FileBatchOptions))}
    return read(FileBatchRequest, body)


def file_batch_body(batch: Batch) -> FileBatchBody:
    """Return `batch` in OpenAI's shape; one whose jobs came in its body has the endpoint `/v1/jobs` and no file."""
    file = batch.file
    if file is None:
        return _native(batch)
    return FileBatchBody.model_validate(
        {
            "id": batch.id,
            "endpoint": file.endpoint,
            "errors": {"data": json.loads(file.errors)} if file.errors else None,
            "input_file_id": file.input_file,
            "completion_window": file.window,
            "status": file.status.value,
            "output_file_id": file.output_file or None,
            "error_file_id": file.error_file or None,
            "created_at": int(batch.created),
            "expires_at": _epoch(file.deadline),
            **{f"{status}_at": _epoch(getattr(file, f"{status}_at")) for status in _DATED},
            "request_counts": _counts(batch),
            "metadata": batch.metadata,
            "tileq": {
                "queued": batch.counts[State.QUEUED],
                "running": batch.counts[State.RUNNING],
                "lines_read": file.line,
                "priority": file.priority,
                "expires_at": _epoch(batch.expires),
                "webhook": webhook_body(batch.webhook, batch.hook_state, batch.hook_attempts),
            },
        }
    )


def page_of_batches(batches: Sequence[Batch], *, has_more: bool) -> FileBatchPage:
    """Return a page of `GET /v1/batches`."""
    data = [file_batch_body(batch) for batch in batches]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileBatchPage(data=data, first_id=first, last_id=last, has_more=has_more)


def _counts(batch: Batch) -> RequestCounts:
    counts, file = batch.counts, batch.file
    completed = counts[State.SUCCEEDED]
    failed = counts[State.FAILED] + counts[State.CANCELLED] + counts[State.EXPIRED]
    if file and file.status.terminal and file.status is not BatchStatus.FAILED:
        completed, failed = file.answered, file.unanswered
    elif file:
        failed += file.refused
    return RequestCounts(total=batch.total, completed=completed, failed=failed)


def _native(batch: Batch) -> FileBatchBody:
    return FileBatchBody(
        id=batch.id,
        endpoint=NATIVE_ENDPOINT,
        input_file_id="",
        completion_window="",
        status="completed" if batch.ended else "in_progress",
        created_at=int(batch.created),
        in_progress_at=int(batch.created),
        completed_at=_epoch(batch.ended),
        request_counts=_counts(batch),
        metadata=batch.metadata,
    )


def _epoch(moment: float) -> int | None:
    return int(moment) if moment else None
