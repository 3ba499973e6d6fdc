"""Bodies of `/v1/webhook_endpoints` as OpenAI's SDKs write and read them; `headers`, `payload`, `overlap` are ours."""

from typing import Annotated, Literal

from pydantic import Field

from services.intake.schemas.requests import Headers, NullableModel, Payload, Url
from shared.views import Body
from shared.webhooks.endpoint import WebhookEndpoint

EventType = Literal[
    "job.started",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "response.completed",
    "response.failed",
    "response.incomplete",
    "response.cancelled",
    "batch.ended",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=14)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class CreateEndpoint(NullableModel):
    """A new endpoint."""

    name: Name
    url: Url
    event_types: EventTypes
    headers: Headers = Field({}, repr=False)
    payload: Payload = Field("thin", description="`full`: the job, response or batch; `thin`: its id, state, metadata")


class UpdateEndpoint(NullableModel):
    """What changes; `event_types` and `headers` replace those before."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None
    headers: Headers | None = Field(None, repr=False)
    payload: Payload | None = None


class RotateEndpoint(NullableModel):
    """How long the secret before signs too; without either field it does not."""

    keep_old_secret_active_for_24_hours: bool = False
    overlap: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False, description="seconds")] | None = None


class TestEndpoint(NullableModel):
    """The type of the example to send."""

    __test__ = False  # pytest takes it for a test else

    event_type: EventType


class EndpointBody(Body):
    """A webhook endpoint."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    payload: Literal["full", "thin"]
    header_names: list[str]
    previous_secret_expires_at: Annotated[int | None, Field(description="until when the secret before signs too")]


class EndpointWithSecret(EndpointBody):
    """A webhook endpoint and its secret."""

    signing_secret: str


class EndpointList(Body):
    """Some endpoints."""

    object: Literal["list"] = "list"
    data: list[EndpointBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EventTypeList(Body):
    """The types of events."""

    object: Literal["list"] = "list"
    data: list[str]


class DeletedEndpoint(Body):
    """An endpoint that is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class EndpointTested(Body):
    """What the endpoint answered; an endpoint that gave no answer is an error."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


def endpoint_body(endpoint: WebhookEndpoint) -> EndpointBody:
    """Return what the API shows of `endpoint`."""
    return EndpointBody(
        id=endpoint.id,
        name=endpoint.name,
        url=endpoint.url,
        event_types=endpoint.events,
        created_at=int(endpoint.created),
        updated_at=int(endpoint.updated),
        signing_secret_hint=f"whsec_…{endpoint.hint}",
        payload=endpoint.payload,
        header_names=sorted(endpoint.headers),
        previous_secret_expires_at=int(endpoint.previous_until) or None,
    )


def endpoint_with_secret(endpoint: WebhookEndpoint, secret: str) -> EndpointWithSecret:
    """Return `endpoint` with its secret, which is shown once."""
    return EndpointWithSecret(**endpoint_body(endpoint).model_dump(), signing_secret=secret)
