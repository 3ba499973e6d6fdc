"""The bodies of answers, beside those of jobs and batches (`shared.views`): they produce the JSON and OpenAPI alike."""

from typing import Annotated, Any, Literal

from pydantic import Field

from shared.deliveries import Delivery
from shared.records import TokenUsage
from shared.views import BatchBody, Body, JobBody, Moment, moment


class Problem(Body):
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
    error: Annotated[
        dict[str, Any] | None, Field(description="as OpenAI's SDKs read it, on paths that both APIs have")
    ] = None


class JobPage(Body):
    """Some jobs, and where to continue (`?after=`). Large outputs are left out."""

    data: list[JobBody]
    next: str | None


class CancelBody(Body):
    """What cancelling did."""

    outcome: Literal["cancelled", "cancelling", "already_ended"]
    job: JobBody


class ResultBody(Body):
    """The output of a job."""

    text: str
    finish_reason: Literal["stop", "length"]
    usage: TokenUsage | None


class BatchCancelBody(Body):
    """What cancelling did."""

    outcome: Literal["cancelled", "cancelling", "already_ended"]
    batch: BatchBody


class AttemptBody(Body):
    """One attempt to deliver."""

    at: Moment
    status: int | None = None
    seconds: float
    error: str | None = None
    body: Annotated[str | None, Field(description="the first bytes of the receiver's answer")] = None
    next_at: Moment | None = None


class DeliveryBody(Body):
    """One message to a webhook, with every attempt."""

    id: str
    type: str
    state: Literal["pending", "delivered", "failed"]
    url: str
    endpoint: Annotated[str | None, Field(description="the webhook endpoint; null: the webhook of the job")] = None
    sequence: Annotated[int | None, Field(description="order among the messages of the job")] = None
    created_at: Moment
    next_at: Moment | None
    attempts: list[AttemptBody]


class DeliveryList(Body):
    """The messages of a job, oldest first."""

    data: list[DeliveryBody]


class WebhookTestBody(Body):
    """The outcome of one signed `webhook.test`; `pending` when it took longer than the request may."""

    msg: str
    state: Literal["pending", "delivered", "failed"]
    status: int | None = None
    seconds: float | None = None
    error: str | None = None


class SecretBody(Body):
    """The new secret, shown once; the previous one also signs until `overlap_ends_at`."""

    secret: str
    overlap_ends_at: Moment


class ModelBody(Body):
    """One model of this service."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="always 0; OpenAI's SDKs expect it")] = 0
    owned_by: str = "tileq"
    title: str
    default: bool
    parameters: int
    context: int
    tiles: Annotated[list[int], Field(min_length=2, max_length=2, description="least and most of one image")]
    tokens_per_tile: int
    languages: list[str]
    workers: int
    queued: int


class ModelList(Body):
    """All models of this service."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class Alive(Body):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Dependency(Body):
    """Whether a server that this service needs is up, and why not."""

    up: bool
    reason: str | None


class Ready(Body):
    """Whether a submitted job would be accepted."""

    status: Literal["ready", "unready"]
    dependencies: dict[str, Dependency]


def delivery_body(delivery: Delivery) -> DeliveryBody:
    """Return what the API shows of a webhook message."""
    return DeliveryBody.model_validate(
        {
            "id": delivery.msg,
            "type": delivery.type,
            "state": delivery.state,
            "url": delivery.url,
            "endpoint": delivery.endpoint or None,
            "sequence": delivery.sequence or None,
            "created_at": moment(delivery.created),
            "next_at": moment(delivery.next) if delivery.state == "pending" else None,
            "attempts": delivery.log,
        }
    )
