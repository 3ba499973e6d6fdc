"""`/v1/jobs/{id}/deliveries` and `/v1/webhooks`: what was sent, send it again, test a URL, rotate the secret."""

from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response

from services.intake.audit import set_target
from services.intake.context import Context, Manager, Reader
from services.intake.native import native_router
from services.intake.openapi import errors, request_body, returns
from services.intake.rendering import json_response
from services.intake.routes.jobs import Id
from services.intake.schemas.requests import RotateRequest, WebhookTestRequest, without_nulls
from services.intake.schemas.responses import (
    DeliveryBody,
    DeliveryList,
    SecretBody,
    WebhookTestBody,
    delivery_body,
)
from services.intake.schemas.validation import read
from services.intake.submission.body import read_json, refuse_body
from services.intake.submission.headers import refuse_idempotency_key
from services.intake.webhook_tests import send_test
from shared.errors import BodyTooLarge, InvalidField, Malformed, NotFound, UnsupportedMediaType, WebhookRefused
from shared.ids import is_message_id, new_id
from shared.keys import KEYLESS
from shared.store import deliveries
from shared.store import secrets as webhook_secrets
from shared.views import moment
from shared.webhooks import signing

router = native_router("webhooks")

_BODY_ERRORS = (Malformed, BodyTooLarge, UnsupportedMediaType, InvalidField)


@router.get("/v1/jobs/{id}/deliveries", responses=returns(DeliveryList) | errors(NotFound))
async def list_deliveries(context: Context, caller: Reader, id: Id) -> Response:
    """Each message to the job's webhook, with every attempt."""
    await context.queries.get(caller.tenant, id)
    messages = await context.store.run(deliveries.list_for("job", id))
    found = await context.store.run(deliveries.get(messages)) if messages else []
    return json_response(DeliveryList(data=[delivery_body(one) for one in found]))


@router.post(
    "/v1/jobs/{id}/deliveries/{msg}/redeliver",
    status_code=202,
    responses=returns(DeliveryBody, 202) | errors(NotFound, Malformed),
)
async def redeliver(
    request: Request, context: Context, caller: Manager, id: Id, msg: Annotated[str, Path(description="`msg_…`")]
) -> Response:
    """Send a message once more, on a fresh schedule, under the same `webhook-id`."""
    refuse_idempotency_key(request)
    await refuse_body(request, context.settings)
    await context.queries.get(caller.tenant, id)
    if not is_message_id(msg) or not await context.store.run(deliveries.redeliver(caller.tenant, id, msg)):
        raise NotFound
    context.publisher.deliveries(msg)
    found = await context.store.run(deliveries.get([msg]))
    if not found:
        raise NotFound
    return json_response(delivery_body(found[0]), 202)


@router.post(
    "/v1/webhooks/test",
    responses=returns(WebhookTestBody) | errors(*_BODY_ERRORS, WebhookRefused),
    openapi_extra={"requestBody": request_body(json="WebhookTestRequest")},
)
async def test(request: Request, context: Context, caller: Manager) -> Response:
    """Send one signed `webhook.test` and return its outcome."""
    refuse_idempotency_key(request)
    asked = read(WebhookTestRequest, without_nulls(await read_json(request, context.settings), WebhookTestRequest))
    host = await context.webhook_urls.host(asked.url)
    set_target(request, host)
    msg = new_id("msg")
    headers = context.settings.keyring.encrypt_headers(asked.headers, caller.tenant)
    sent = await send_test(context, msg, deliveries.add_test(msg, caller.tenant, asked.url, host, headers=headers))
    last = sent.log[-1] if sent and sent.log else {}
    return json_response(
        WebhookTestBody.model_validate({"msg": msg, "state": sent.state if sent else "pending", **last})
    )


@router.post(
    "/v1/webhooks/secret/rotate",
    responses=returns(SecretBody) | errors(*_BODY_ERRORS),
    openapi_extra={"requestBody": request_body(required=False, json="RotateRequest")},
)
async def rotate(request: Request, context: Context, caller: Manager) -> Response:
    """Make a new secret, shown this once. The previous one also signs during the overlap."""
    refuse_idempotency_key(request)
    asked = read(RotateRequest, await read_json(request, context.settings, default={}))
    configured = context.settings.webhook_secret.get_secret_value() if caller.tenant == KEYLESS else ""
    secret = signing.new_secret()
    rotation = webhook_secrets.rotate_secret(caller.tenant, secret, asked.overlap, configured, context.settings.keyring)
    until = await context.store.run(rotation)
    body = SecretBody.model_validate({"secret": secret, "overlap_ends_at": moment(until)})
    return json_response(body)
