"""Commands on the limits of tenants; see `shared/limits.py`."""

import json
from typing import Any

from shared.limits import LimitName, LimitOverride, LimitState, TenantLimits
from shared.store.command import StoreCommand


def get(tenant: str) -> StoreCommand[tuple[LimitOverride | None, dict[LimitName, int]]]:
    """The override of `tenant` or None, and what it has used: queued jobs now, bytes and tokens today (UTC)."""

    def parse(reply: Any) -> tuple[LimitOverride | None, dict[LimitName, int]]:
        text, queued, stored, tokens = reply
        used: dict[LimitName, int] = {"queued": int(queued), "bytes": int(stored or 0), "tokens": int(tokens or 0)}
        return (LimitOverride.model_validate_json(text) if text else None), used

    return StoreCommand("limits_get", (tenant,), parse)


def put(tenant: str, override: LimitOverride) -> StoreCommand[int]:
    """Store the override of `tenant`; an empty one removes it."""
    text = json.dumps(override.given()) if override.given() else ""
    return StoreCommand("limits_put", (tenant, text), int, durable=True)


def admit(tenant: str, requests: int, submission: TenantLimits) -> StoreCommand[tuple[bool, list[LimitState]]]:
    """Count one request of `tenant`: whether it is admitted, and the limits that refuse it or are to be shown.

    It may be one of `requests` in a minute (0: any number), and is refused, too, where one of the limits `submission`
    leaves no room.
    """

    def parse(reply: Any) -> tuple[bool, list[LimitState]]:
        return bool(reply[0]), [limit_state(one) for one in reply[1]]

    held_to = json.dumps(submission.of_submissions) if submission.of_submissions else ""
    return StoreCommand("admit", (tenant, requests, held_to), parse)


def limit_state(reply: Any) -> LimitState:
    """Parse {name, limit, remaining, seconds}."""
    name, limit, remaining, seconds = reply
    return LimitState(name, int(limit), max(0, int(remaining)), float(seconds))
