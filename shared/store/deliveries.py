"""Commands on webhook deliveries; see `shared/deliveries.py` for their states."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from shared.deliveries import Delivery, DeliveryOutcome
from shared.store.command import StoreCommand


def claim(msg: str, lease: float, per_host: int) -> StoreCommand[Delivery | None]:
    """Claim a due delivery for `lease` seconds, or None: hosts in turn, skipping full and broken ones.

    `msg`, the id of the hint or "", is claimed first only if it is a test.
    """
    return StoreCommand(
        "delivery_claim", (msg, lease, per_host), lambda flat: Delivery.from_hash(flat, []) if flat else None
    )


def finish(
    msg: str,
    fence: int,
    outcome: DeliveryOutcome,
    *,
    delay: float,
    attempt: Mapping[str, Any],
    healthy: bool,
    breaker: int = 5,
) -> StoreCommand[bool]:
    """Record one attempt; False if another dispatcher holds it. `breaker` failures in a row open its host's breaker.

    Repeating it after a lost reply changes nothing.
    """
    args = (msg, fence, outcome, delay, json.dumps(attempt, ensure_ascii=False), int(healthy), breaker)
    return StoreCommand("delivery_finish", args, bool)


def release(msg: str, fence: int, delay: float, url: str = "", host: str = "") -> StoreCommand[bool]:
    """Return a claimed delivery without an attempt, due after `delay` seconds; False if another dispatcher holds it.

    It goes to `url` at `host` from now on, where they are given.
    """
    return StoreCommand("delivery_release", (msg, fence, delay, url, host), bool)


def add_test(
    msg: str,
    tenant: str,
    url: str,
    host: str,
    *,
    retention: float = 86_400,
    headers: Mapping[str, str] | None = None,
    type: str = "webhook.test",
    endpoint: str = "",
) -> StoreCommand[int]:
    """Create a test, attempted once and kept for `retention` seconds; to an `endpoint`, an example of any `type`."""
    args = (msg, tenant, type, url, host, json.dumps(dict(headers or {})), retention, endpoint)
    return StoreCommand("delivery_add_test", args, int)


def redeliver(tenant: str, subject: str, msg: str) -> StoreCommand[str]:
    """Deliver once more on a fresh schedule → the state before, or "" if there is no such delivery."""
    return StoreCommand("delivery_redeliver", (tenant, subject, msg), str)


def list_due(limit: int = 500) -> StoreCommand[list[str]]:
    """Ids of the deliveries that could be attempted now."""
    return StoreCommand("delivery_list_due", (limit,), list)


def list_for(kind: Literal["job", "batch"], id: str) -> StoreCommand[list[str]]:
    """Ids of the deliveries of a job or batch, oldest first."""
    return StoreCommand("delivery_list_for", (kind, id), list)


def get(messages: Sequence[str]) -> StoreCommand[list[Delivery]]:
    """Deliveries with the log of their attempts; missing ones are left out."""
    return StoreCommand(
        "delivery_get", tuple(messages), lambda rows: [Delivery.from_hash(flat, log) for flat, log in rows if flat]
    )
