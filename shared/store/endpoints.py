"""Commands on webhook endpoints; `shared/webhooks/endpoint.py` says what one is."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from shared.store.command import StoreCommand, hash_to_dict
from shared.webhooks.endpoint import WebhookEndpoint

PutOutcome = Literal["created", "exists", "too_many", "deleted"]


def put(record: Mapping[str, str], most: int) -> StoreCommand[tuple[PutOutcome, WebhookEndpoint | None]]:
    """Create an endpoint, of which a tenant has at most `most`; the one with that id where it exists already."""

    def parse(answer: Any) -> tuple[PutOutcome, WebhookEndpoint | None]:
        return answer[0], _parsed(answer[1])

    return StoreCommand("endpoint_put", (json.dumps(dict(record)), most), parse, durable=True)


def restore(record: Mapping[str, str]) -> StoreCommand[bool]:
    """Restore an endpoint whose record was lost; False where it exists, or was deleted."""
    return StoreCommand("endpoint_put", (json.dumps(dict(record)), 0), lambda answer: answer[0] == "created", True)


def get(tenant: str, id: str) -> StoreCommand[WebhookEndpoint | None]:
    """One endpoint, or None; tenant "" reads any tenant's."""
    return StoreCommand("endpoint_get", (tenant, id), _parsed)


def stored(id: str) -> StoreCommand[dict[str, str]]:
    """The record of an endpoint as its object holds it, {} where there is none."""
    return StoreCommand("endpoint_get", ("", id), hash_to_dict)


def page(tenant: str, after: str, limit: int) -> StoreCommand[tuple[list[WebhookEndpoint], bool]]:
    """Endpoints, newest first, from behind `after` on ("": from the newest), and whether more follow."""

    def parse(answer: Any) -> tuple[list[WebhookEndpoint], bool]:
        return [WebhookEndpoint.from_hash(hash_to_dict(flat)) for flat in answer[0]], bool(answer[1])

    return StoreCommand("endpoint_list", (tenant, after, limit), parse)


def update(tenant: str, id: str, fields: Mapping[str, str]) -> StoreCommand[WebhookEndpoint | None]:
    """Change `fields`; None where the tenant has no such endpoint."""
    return StoreCommand("endpoint_update", (tenant, id, json.dumps(dict(fields)), "", ""), _parsed, durable=True)


def rotate(
    tenant: str, id: str, fields: Mapping[str, str], overlap: float, request: str
) -> StoreCommand[WebhookEndpoint | None]:
    """Set the new `secret` and `hint`; the one before signs for `overlap` seconds more.

    `request` ("" for none) names the request: repeated, it changes nothing and returns what it made.
    """
    args = (tenant, id, json.dumps(dict(fields)), overlap, request)
    return StoreCommand("endpoint_update", args, _parsed, durable=True)


def delete(tenant: str, id: str) -> StoreCommand[bool]:
    """Delete an endpoint; its id is then in `list_trash`. False where the tenant has no such endpoint."""
    return StoreCommand("endpoint_delete", (tenant, id), bool, durable=True)


def _parsed(flat: Any) -> WebhookEndpoint | None:
    return WebhookEndpoint.from_hash(hash_to_dict(flat)) if flat else None
