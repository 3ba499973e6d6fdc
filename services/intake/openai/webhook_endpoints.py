"""`/v1/webhook_endpoints`: where a tenant's events go, by the calls of `client.webhooks` in OpenAI's SDKs."""

from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response

from services.intake.audit import set_target
from services.intake.context import Context, Manager, Reader
from services.intake.openai.document import answers, openai_errors
from services.intake.openai.surface import openai_router
from services.intake.openapi import PREFERENCES, request_body
from services.intake.rendering import json_response
from services.intake.schemas.requests import without_nulls
from services.intake.schemas.validation import read as read_as
from services.intake.schemas.webhook_endpoints import (
    CreateEndpoint,
    DeletedEndpoint,
    EndpointBody,
    EndpointList,
    EndpointTested,
    EndpointWithSecret,
    EventTypeList,
    RotateEndpoint,
    TestEndpoint,
    UpdateEndpoint,
    endpoint_body,
    endpoint_with_secret,
)
from services.intake.submission.body import read_json, refuse_body
from services.intake.submission.headers import read_headers
from services.intake.webhook_tests import TEST_WAIT_S, send_test
from shared.errors import (
    BodyTooLarge,
    IdempotencyMismatch,
    InvalidField,
    Malformed,
    NotFound,
    StorageUnavailable,
    TooManyEndpoints,
    UnsupportedMediaType,
    WebhookRefused,
    WebhookUnreachable,
)
from shared.ids import new_id
from shared.store import deliveries
from shared.webhooks.events import EVENT_TYPES

router = openai_router("webhook endpoints")

DAY_S = 86_400.0
_BODY_ERRORS = (Malformed, BodyTooLarge, UnsupportedMediaType, InvalidField)
Id = Annotated[str, Path(description="`we_…`")]


def _asks(schema: str, *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": request_body(json=schema, required=required), "parameters": PREFERENCES[:1]}


@router.post(
    "/v1/webhook_endpoints",
    responses=answers(EndpointWithSecret)
    | openai_errors(*_BODY_ERRORS, WebhookRefused, TooManyEndpoints, IdempotencyMismatch, StorageUnavailable),
    openapi_extra=_asks("CreateEndpoint"),
)
async def create(request: Request, context: Context, caller: Manager) -> Response:
    """Send the tenant's events of these types to a URL. The secret is shown here only, and when it is rotated."""
    key = read_headers(request).idempotency_key
    asked = read_as(CreateEndpoint, without_nulls(await read_json(request, context.settings), CreateEndpoint))
    endpoint, secret = await context.webhook_endpoints.create(caller.tenant, asked.model_dump(), key)
    set_target(request, endpoint.id)
    return json_response(endpoint_with_secret(endpoint, secret))


@router.get("/v1/webhook_endpoints", responses=answers(EndpointList) | openai_errors(InvalidField))
async def list_endpoints(
    context: Context,
    caller: Reader,
    after: Annotated[str, Query(max_length=100, description="`last_id` of the previous page")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The tenant's endpoints, newest first."""
    found, more = await context.webhook_endpoints.page(caller.tenant, after, limit)
    data = [endpoint_body(endpoint) for endpoint in found]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(EndpointList(data=data, first_id=first, last_id=last, has_more=more))


@router.get("/v1/webhook_event_types", responses=answers(EventTypeList) | openai_errors())
async def list_event_types(caller: Reader) -> Response:
    """The types of events that endpoints may subscribe to."""
    del caller
    return json_response(EventTypeList(data=list(EVENT_TYPES)))


@router.get("/v1/webhook_endpoints/{id}", responses=answers(EndpointBody) | openai_errors(NotFound))
async def read(context: Context, caller: Reader, id: Id) -> Response:
    """One endpoint, without its secret and the values of its headers."""
    return json_response(endpoint_body(await context.webhook_endpoints.get(caller.tenant, id)))


@router.post(
    "/v1/webhook_endpoints/{id}",
    responses=answers(EndpointBody) | openai_errors(*_BODY_ERRORS, NotFound, WebhookRefused, StorageUnavailable),
    openapi_extra=_asks("UpdateEndpoint"),
)
async def update(request: Request, context: Context, caller: Manager, id: Id) -> Response:
    """Change what the body names; messages that wait go to the new URL."""
    read_headers(request)
    asked = read_as(UpdateEndpoint, without_nulls(await read_json(request, context.settings), UpdateEndpoint))
    changes = asked.model_dump(exclude_unset=True)
    return json_response(endpoint_body(await context.webhook_endpoints.update(caller.tenant, id, changes)))


@router.delete("/v1/webhook_endpoints/{id}", responses=answers(DeletedEndpoint) | openai_errors(NotFound, Malformed))
async def delete(request: Request, context: Context, caller: Manager, id: Id) -> Response:
    """Delete an endpoint; messages that wait for it are not sent."""
    await refuse_body(request, context.settings)
    await context.webhook_endpoints.delete(caller.tenant, id)
    return json_response(DeletedEndpoint(id=id))


@router.post(
    "/v1/webhook_endpoints/{id}/rotate_secret",
    responses=answers(EndpointWithSecret) | openai_errors(*_BODY_ERRORS, NotFound, StorageUnavailable),
    openapi_extra=_asks("RotateEndpoint", required=False),
)
async def rotate_secret(request: Request, context: Context, caller: Manager, id: Id) -> Response:
    """Make a new secret, shown this once. The one before also signs for `overlap` seconds, or for 24 hours."""
    key = read_headers(request).idempotency_key
    body = await read_json(request, context.settings, default={})
    asked = read_as(RotateEndpoint, without_nulls(body, RotateEndpoint))
    overlap = asked.overlap if asked.overlap is not None else DAY_S * asked.keep_old_secret_active_for_24_hours
    endpoint, secret = await context.webhook_endpoints.rotate(caller.tenant, id, overlap, key)
    return json_response(endpoint_with_secret(endpoint, secret))


@router.post(
    "/v1/webhook_endpoints/{id}/test",
    responses=answers(EndpointTested) | openai_errors(*_BODY_ERRORS, NotFound, WebhookUnreachable),
    openapi_extra=_asks("TestEndpoint"),
)
async def test(request: Request, context: Context, caller: Manager, id: Id) -> Response:
    """Send one signed example of an event, whether the endpoint subscribes to its type or not."""
    read_headers(request)
    asked = read_as(TestEndpoint, without_nulls(await read_json(request, context.settings), TestEndpoint))
    endpoint = await context.webhook_endpoints.get(caller.tenant, id)
    msg = new_id("msg")
    add = deliveries.add_test(msg, caller.tenant, endpoint.url, endpoint.host, type=asked.event_type, endpoint=id)
    sent = await send_test(context, msg, add)
    last = sent.log[-1] if sent and sent.log else {}
    if last.get("status") is None:
        raise WebhookUnreachable(
            f"the endpoint gave no answer: {last.get('error') or f'none within {TEST_WAIT_S:g} s'}"
        )
    return json_response(
        EndpointTested(webhook_endpoint_id=id, event_type=asked.event_type, status_code=last["status"])
    )
