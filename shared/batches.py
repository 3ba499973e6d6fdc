"""Batches: many jobs submitted as one request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from shared.jobs import State
from shared.records import WebhookTarget


@dataclass(frozen=True)
class Batch:
    """Many jobs submitted as one request. Times are seconds since the epoch; `ended` is 0 while a job is active."""

    id: str
    tenant: str
    total: int
    created: float
    ended: float
    expires: float
    counts: dict[str, int]  #: jobs in each state
    webhook: WebhookTarget | None
    hook_state: str
    hook_attempts: int
    metadata: dict[str, str]

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash."""
        return cls(
            id=record["id"],
            tenant=record["tenant"],
            total=int(record["total"]),
            created=float(record["created"]),
            ended=float(record.get("ended", 0)),
            expires=float(record.get("expires", 0)),
            counts={state.value: int(record.get(state.value, 0)) for state in State},
            webhook=WebhookTarget.model_validate_json(record["webhook"]) if record.get("webhook") else None,
            hook_state=record.get("hook_state", "none"),
            hook_attempts=int(record.get("hook_attempts", 0)),
            metadata=json.loads(record.get("metadata", "{}")),
        )
