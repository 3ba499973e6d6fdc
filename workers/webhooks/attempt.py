"""The record of one delivery attempt, as the API lists it."""

import time
from typing import Any

from shared.deliveries import Delivery
from shared.views import moment
from shared.webhooks.headers import redacted
from workers.webhooks.client import DeliveryResponse
from workers.webhooks.schedule import Decision

MAX_EXCERPT_CHARS = 512  #: of the response body


def attempt_record(delivery: Delivery, response: DeliveryResponse, decision: Decision, at: float) -> dict[str, Any]:
    """Return the record of an attempt made at `at` (epoch seconds), without the secrets that a receiver echoes."""
    return {
        "at": moment(at),
        "status": response.status,
        "seconds": round(response.seconds, 3),
        "error": _error(response, decision),
        "body": redacted(_printable(response.body), delivery.headers)[:MAX_EXCERPT_CHARS],
        "next_at": moment(time.time() + decision.delay) if decision.outcome == "again" else None,
    }


def _error(response: DeliveryResponse, decision: Decision) -> str | None:
    if response.error is not None or decision.outcome == "delivered":
        return response.error
    if 300 <= (response.status or 0) < 400:
        return f"answered {response.status}; redirects are not followed"
    if response.status == 410:
        return "answered 410; no further attempt is made"
    return f"answered {response.status}"


def _printable(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)
