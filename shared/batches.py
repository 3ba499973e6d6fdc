"""Batches: many jobs submitted as one."""

import json
from dataclasses import dataclass
from typing import Any

from shared.calls import Call, pairs
from shared.jobs import State


@dataclass(frozen=True)
class Batch:
    """Many jobs submitted as one. Counts per state; `ended` once none is open."""

    id: str
    tenant: str
    total: int
    created: float
    ended: float
    expires: float
    counts: dict[str, int]
    webhook: dict[str, Any] | None
    hook_state: str
    hook_attempts: int
    metadata: dict[str, str]


def read(tenant: str, id: str, first: int = 0, last: int = -1) -> Call[tuple[Batch, list[str]] | None]:
    """A batch and the ids of its jobs `first` to `last` in order, or None."""

    def found(answer: Any) -> tuple[Batch, list[str]] | None:
        if not answer[0]:
            return None
        record = pairs(answer[0])
        batch = Batch(
            id=record["id"],
            tenant=record["tenant"],
            total=int(record["total"]),
            created=float(record["created"]),
            ended=float(record.get("ended", 0)),
            expires=float(record.get("expires", 0)),
            counts={state.value: int(record.get(state.value, 0)) for state in State},
            webhook=json.loads(record["webhook"]) if record.get("webhook") else None,
            hook_state=record.get("hook_state", "none"),
            hook_attempts=int(record.get("hook_attempts", 0)),
            metadata=json.loads(record.get("metadata", "{}")),
        )
        return batch, list(answer[1])

    return Call("read_batch", (tenant, id, first, last), found)
