"""Bodies of jobs and batches: the models that produce answers, the OpenAPI document and webhook bodies.

`job_body(job).model_dump_json()` is the body of `GET /v1/jobs/{id}` and the `data` of its webhooks.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.batches import Batch
from shared.errors import ResultLost
from shared.jobs import Job, State
from shared.records import JobError, JobImage, JobOutput, StageTimings, TokenUsage, WebhookTarget

Moment = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=["2026-11-23T20:15:00.123Z"])]
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
JobId = Annotated[str, Field(examples=["job_01kb3yv6g8w6m1x5r7c9p2q4t6v8x0z2b4d6"])]


class Body(BaseModel):
    """A JSON object of an answer. Unknown fields of a stored record are left out: a newer version wrote them."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Progress(Body):
    """How far the present attempt is."""

    stage: str | None
    tiles: int
    prompt_tokens: int
    completion_tokens: int


class WebhookBody(Body):
    """The webhook of a job or batch, and the state of its deliveries."""

    url: str | None = None
    events: list[str] = []
    payload: Literal["full", "thin"] | None = None
    state: Literal["none", "pending", "delivered", "failed"] = "none"
    attempts: int = 0


class JobBody(Body):
    """A job."""

    id: JobId
    object: Literal["job"] = "job"
    state: StateName
    model: str
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    expires_at: Moment | None
    attempt: int
    max_attempts: int
    queue_position: int | None
    progress: Progress | None
    images: list[JobImage]
    output: JobOutput | None
    output_omitted: Annotated[bool, Field(description="a large output is left out of lists; GET the job itself")]
    error: JobError | None
    usage: TokenUsage | None
    timings: StageTimings | None
    webhook: WebhookBody
    metadata: dict[str, str]
    parent: JobId | None
    batch: str | None
    custom_id: str | None
    retry_of: JobId | None


class BatchBody(Body):
    """A batch: `ended` once none of its jobs is open."""

    id: str
    object: Literal["batch"] = "batch"
    state: Literal["open", "ended"]
    created_at: Moment
    ended_at: Moment | None
    expires_at: Moment | None
    total: int
    counts: dict[StateName, int]
    webhook: WebhookBody
    metadata: dict[str, str]


class ThinBody(Body):
    """What a `thin` webhook says of its job or batch; `truncated` where a full one was too large."""

    id: str
    object: Literal["job", "batch"]
    state: str
    metadata: dict[str, str]
    expires_at: Moment | None
    truncated: Literal[True] | None = None


class WebhookTestData(Body):
    """What a `webhook.test` says."""

    id: str
    object: Literal["test"]


class WebhookEvent(Body):
    """The body of a webhook, signed as Standard Webhooks 1.0 has it."""

    type: Literal[
        "job.started",
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "job.expired",
        "batch.ended",
        "webhook.test",
    ]
    timestamp: Moment
    sequence: Annotated[int | None, Field(description="order among the messages of one job or batch")] = None
    test: Annotated[Literal[True] | None, Field(description="sent by a test of an endpoint: an example")] = None
    data: JobBody | BatchBody | ThinBody | WebhookTestData


#: The `error` of a job that succeeded and whose result object is gone.
RESULT_LOST = JobError(code=ResultLost.code, message=ResultLost().detail)


def moment(seconds: float) -> str | None:
    """Return RFC 3339 in UTC with milliseconds, or None for 0 (not yet)."""
    if not seconds:
        return None
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_body(
    job: Job, output: JobOutput | None = None, *, result_lost: bool = False, show_output: bool = True
) -> JobBody:
    """Return what the API shows of `job`.

    `output` is given where the record keeps no copy of a large one; without it a large one is left out and
    `output_omitted` says so. With `result_lost` the body says that the result object is gone. `show_output` off
    leaves every output out.
    """
    succeeded = job.state is State.SUCCEEDED
    shown = (output or job.output) if succeeded and show_output else None
    return JobBody.model_validate(
        {
            "id": job.id,
            "state": job.state.value,
            "model": job.model,
            "created_at": moment(job.created),
            "started_at": moment(job.started),
            "ended_at": moment(job.ended),
            "expires_at": moment(job.expires),
            "attempt": job.charged,
            "max_attempts": job.max_attempts,
            "queue_position": job.position if job.state is State.QUEUED and job.position >= 0 else None,
            "progress": _progress(job),
            "images": job.images,
            "output": shown or None,
            "output_omitted": succeeded and not shown and not result_lost,
            "error": RESULT_LOST if result_lost else job.error,
            "usage": job.usage,
            "timings": job.timings,
            "webhook": webhook_body(job.webhook, job.hook_state, job.hook_attempts),
            "metadata": job.metadata,
            "parent": job.parent or None,
            "batch": job.batch or None,
            "custom_id": job.custom_id or None,
            "retry_of": job.retry_of or None,
        }
    )


def batch_body(batch: Batch) -> BatchBody:
    """Return what the API shows of a batch."""
    return BatchBody.model_validate(
        {
            "id": batch.id,
            "state": "ended" if batch.ended else "open",
            "created_at": moment(batch.created),
            "ended_at": moment(batch.ended),
            "expires_at": moment(batch.expires),
            "total": batch.total,
            "counts": batch.counts,
            "webhook": webhook_body(batch.webhook, batch.hook_state, batch.hook_attempts),
            "metadata": batch.metadata,
        }
    )


def _progress(job: Job) -> dict[str, Any] | None:
    if not job.attempt:
        return None
    stage = job.stage or ("fetch" if job.state is State.RUNNING else None)
    return {
        "stage": stage,
        "tiles": job.tiles,
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": job.completion_tokens,
    }


def webhook_body(webhook: WebhookTarget | None, state: str, attempts: int) -> WebhookBody:
    """Return what the API shows of the webhook of a job or batch."""
    if webhook is None:
        return WebhookBody()
    shown = {"url": webhook.url, "events": webhook.events, "payload": webhook.payload}
    return WebhookBody.model_validate(shown | {"state": state, "attempts": attempts})
