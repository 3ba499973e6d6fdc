"""What is answered: JSON as it is written, and the shapes of it that the OpenAPI document shows.

The bodies are made by `shared.views`; tests hold both to each other.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from shared.jobs import State

Moment = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=["2026-11-23T20:15:00.123Z"])]
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
JobId = Annotated[str, Field(examples=["job_01kb3yv6g8w6m1x5r7c9p2q4t6v8x0z2b4d6"])]


def dump(body: Any) -> bytes:
    """Return `body` as JSON in UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `body` as an answer."""
    return Response(dump(body), status, headers, media_type="application/json")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Body):
    """RFC 9457. `code` is stable; `retryable` says whether the same request may succeed later."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str
    image: int | None = None
    field: str | None = None
    errors: list[dict[str, Any]] | None = None


class ImageBody(_Body):
    """One image of a job, and what the model sees of it."""

    media_type: str
    bytes: int
    width: int
    height: int
    sha256: str
    grid: Annotated[list[int], Field(min_length=2, max_length=2, description="columns, rows")]
    tiles: int


class Progress(_Body):
    """How far the present attempt is."""

    stage: str | None
    tiles: int
    prompt_tokens: int
    completion_tokens: int


class Output(_Body):
    """The answer."""

    text: str
    finish_reason: Literal["stop", "length"]


class JobError(_Body):
    """Why a job ended without an answer."""

    code: str
    message: str
    retryable: bool
    image: int | None = None


class Usage(_Body):
    """Tokens."""

    prompt_tokens: int
    image_tokens: int
    cached_tokens: int
    completion_tokens: int


class Timings(_Body):
    """Seconds."""

    queue: float | None
    fetch: float | None
    tile: float | None
    vision: float | None
    prefill: float | None
    decode: float | None
    first_token: float | None
    total: float | None


class WebhookBody(_Body):
    """Where the job's webhooks go, and how that goes."""

    url: str | None
    events: list[str]
    payload: Literal["full", "thin"] | None
    state: Literal["none", "pending", "delivered", "failed"]
    attempts: int


class JobBody(_Body):
    """A job."""

    id: JobId
    object: Literal["job"]
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
    images: list[ImageBody]
    output: Output | None
    output_omitted: Annotated[bool, Field(description="a large output is left out of lists; GET the job itself")]
    error: JobError | None
    usage: Usage | None
    timings: Timings | None
    webhook: WebhookBody
    metadata: dict[str, str]
    parent: JobId | None
    batch: str | None
    custom_id: str | None
    retry_of: JobId | None


class JobPage(_Body):
    """Some jobs, and where to go on (`?after=`)."""

    data: list[JobBody]
    next: str | None


class CancelBody(_Body):
    """What cancelling did."""

    outcome: Literal["cancelled", "cancelling", "already_ended"]
    job: JobBody


class ResultBody(_Body):
    """The answer of a job."""

    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage | None


class BatchBody(_Body):
    """A batch: `ended` once none of its jobs is open."""

    id: str
    object: Literal["batch"]
    state: Literal["open", "ended"]
    created_at: Moment
    ended_at: Moment | None
    expires_at: Moment | None
    total: int
    counts: dict[StateName, int]
    webhook: WebhookBody
    metadata: dict[str, str]


class BatchCancelBody(_Body):
    """What cancelling did."""

    outcome: Literal["cancelled", "cancelling", "already_ended"]
    batch: BatchBody


class AttemptBody(_Body):
    """One attempt to deliver."""

    at: Moment
    status: int | None
    seconds: float
    error: str | None
    body: Annotated[str | None, Field(description="the first bytes of what the receiver answered")]
    next_at: Moment | None


class DeliveryBody(_Body):
    """One message to a webhook, with every attempt."""

    id: str
    type: str
    state: Literal["pending", "delivered", "failed"]
    url: str
    created_at: Moment
    next_at: Moment | None
    attempts: list[AttemptBody]


class DeliveryList(_Body):
    """The messages of a job, oldest first."""

    data: list[DeliveryBody]


class WebhookTestBody(_Body):
    """The outcome of one signed `webhook.test`; `pending` when it took longer than the request may."""

    msg: str
    state: Literal["pending", "delivered", "failed"]
    status: int | None
    seconds: float | None
    error: str | None


class SecretBody(_Body):
    """The new secret, shown once; the one before signs too until `overlap_ends_at`."""

    secret: str
    overlap_ends_at: Moment


class ModelBody(_Body):
    """One model of this service."""

    id: str
    object: Literal["model"]
    title: str
    default: bool
    parameters: int
    context: int
    tiles: Annotated[list[int], Field(min_length=2, max_length=2, description="least and most of one image")]
    tokens_per_tile: int
    languages: list[str]
    workers: int
    queued: int


class ModelList(_Body):
    """All models of this service."""

    data: list[ModelBody]


class Alive(_Body):
    """The process lives."""

    status: Literal["ok"]


class Dependency(_Body):
    """Whether something this service stands on is up, and why not."""

    up: bool
    reason: str | None


class Ready(_Body):
    """Whether a submitted job would be taken."""

    status: Literal["ready", "unready"]
    dependencies: dict[Literal["redis", "storage"], Dependency]


STATES = tuple(state.value for state in State)
