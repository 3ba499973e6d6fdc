"""`/v1/jobs/{id}/deliveries` and `/v1/webhooks`: what was sent, send it again, try it, change the secret."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.intake.context import Here, House, Tenant
from services.intake.error_docs import refuses, shows
from services.intake.openapi import body
from services.intake.routes.jobs import Id, job_of
from services.intake.schemas.requests import RotateRequest, WebhookTestRequest, read
from services.intake.schemas.responses import DeliveryBody, DeliveryList, SecretBody, WebhookTestBody, answer
from services.intake.submission.body import read_json
from shared import deliveries, webhooks
from shared.deliveries import Delivery
from shared.errors import BodyTooLarge, InvalidField, Malformed, NotFound, UnsupportedMediaType, WebhookRefused
from shared.ids import is_message_id, new_id
from shared.keys import KEYLESS
from shared.views import moment

router = APIRouter(tags=["webhooks"])

TEST_WAIT = 20.0  #: seconds for the outcome of a test; one attempt has `webhook_timeout`, 15
_WRITTEN = (Malformed, BodyTooLarge, UnsupportedMediaType, InvalidField)
_ATTEMPT = ("at", "status", "seconds", "error", "body", "next_at")


@router.get("/v1/jobs/{id}/deliveries", responses=shows(DeliveryList) | refuses(NotFound))
async def listing(house: Here, tenant: Tenant, id: Id) -> Response:
    """Each message to the job's webhook, with every attempt."""
    await job_of(house, tenant, id)
    messages = await house.desk.run(deliveries.of("job", id))
    found = await house.desk.run(deliveries.read(messages)) if messages else []
    return answer({"data": [delivery_view(one) for one in found]})


@router.post(
    "/v1/jobs/{id}/deliveries/{msg}/redeliver",
    status_code=202,
    responses=shows(DeliveryBody, 202) | refuses(NotFound),
)
async def redeliver(house: Here, tenant: Tenant, id: Id, msg: Annotated[str, Path(description="`msg_…`")]) -> Response:
    """Send a message once more, on a fresh schedule, under the same `webhook-id`."""
    await job_of(house, tenant, id)
    if not is_message_id(msg) or not await house.desk.run(deliveries.again(tenant, id, msg)):
        raise NotFound
    house.post.deliveries(msg)
    found = await house.desk.run(deliveries.read([msg]))
    if not found:
        raise NotFound
    return answer(delivery_view(found[0]), 202)


@router.post(
    "/v1/webhooks/test",
    responses=shows(WebhookTestBody) | refuses(*_WRITTEN, WebhookRefused),
    openapi_extra={"requestBody": body(json="WebhookTestRequest")},
)
async def test(request: Request, house: Here, tenant: Tenant) -> Response:
    """Send one signed `webhook.test`, and tell how it went."""
    asked = read(WebhookTestRequest, await read_json(request, house.settings))
    host = await house.callbacks.host(asked.url)
    msg = new_id("msg")
    await house.desk.run(deliveries.add_test(msg, tenant, asked.url, host))
    house.post.deliveries(msg)
    sent = await _outcome(house, msg)
    last = sent.log[-1] if sent and sent.log else {}
    state = sent.state if sent else "pending"
    return answer({"msg": msg, "state": state, **{name: last.get(name) for name in ("status", "seconds", "error")}})


@router.post(
    "/v1/webhooks/secret/rotate",
    responses=shows(SecretBody) | refuses(*_WRITTEN),
    openapi_extra={"requestBody": body(required=False, json="RotateRequest")},
)
async def rotate(request: Request, house: Here, tenant: Tenant) -> Response:
    """Make a new secret, shown this once. The one before signs too during the overlap."""
    asked = read(RotateRequest, await read_json(request, house.settings, empty_is={}))
    given = house.settings.webhook_secret.get_secret_value() if tenant == KEYLESS else ""
    secret = webhooks.new_secret()
    until = await house.desk.run(webhooks.rotate_secret(tenant, secret, asked.overlap, given))
    return answer({"secret": secret, "overlap_ends_at": moment(until)}, headers={"Cache-Control": "no-store"})


def delivery_view(one: Delivery) -> dict[str, Any]:
    """Return what the API shows of a message."""
    return {
        "id": one.msg,
        "type": one.type,
        "state": one.state,
        "url": one.url,
        "created_at": moment(one.created),
        "next_at": moment(one.next) if one.state == "pending" else None,
        "attempts": [{name: attempt.get(name) for name in _ATTEMPT} for attempt in one.log],
    }


async def _outcome(house: House, msg: str) -> Delivery | None:
    until = time.monotonic() + TEST_WAIT
    with house.changes.watch(msg) as watch:
        while True:
            found = await house.desk.run(deliveries.read([msg]))
            left = until - time.monotonic()
            if not found or found[0].state != "pending" or left <= 0 or watch.closed:
                return found[0] if found else None
            await watch.changed(left)
