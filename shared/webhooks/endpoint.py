"""Webhook endpoints: where a tenant's events go, whichever job or batch they are about.

The job store has the record, which the step that ends a job reads; `webhook_endpoints/{id}.json` in object storage is
its copy, so that losing Redis loses none. The secret signs instead of the tenant's own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self


@dataclass(frozen=True)
class WebhookEndpoint:
    """One endpoint. Moments are seconds since the epoch by the store's clock; secrets and headers are as stored."""

    id: str
    tenant: str
    name: str
    url: str
    host: str
    events: list[str]
    payload: Literal["full", "thin"]
    headers: dict[str, str] = field(repr=False)
    secret: str = field(repr=False)
    hint: str  #: the last characters of the secret
    created: float = 0
    updated: float = 0
    previous: str = field(default="", repr=False)  #: the secret before, while it signs too
    previous_until: float = 0
    fingerprint: str = ""  #: of the request that created it
    revision: int = 0  #: changes so far

    @property
    def secrets(self) -> list[str]:
        """The secrets that sign, newest first."""
        return [self.secret, *([self.previous] if self.previous else [])]

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash."""
        payload: Literal["full", "thin"] = "full" if record["payload"] == "full" else "thin"
        return cls(
            id=record["id"],
            tenant=record["tenant"],
            name=record["name"],
            url=record["url"],
            host=record["host"],
            events=json.loads(record["events"]),
            payload=payload,
            headers=json.loads(record.get("headers") or "{}"),
            secret=record["secret"],
            hint=record["hint"],
            created=float(record["created"]),
            updated=float(record["updated"]),
            previous=record.get("previous", ""),
            previous_until=float(record.get("previous_until") or 0),
            fingerprint=record.get("fingerprint", ""),
            revision=int(record.get("revision", 0)),
        )
