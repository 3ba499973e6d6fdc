"""Webhook deliveries as the store keeps them: the same lease and fencing token as jobs, under `hooks`.

PENDING ── claim (turn += 1, lease) ──> in flight ── 2xx ──> DELIVERED
   ▲                                       │
   └────── retry, after a delay ───────────┴─ schedule used up, 410 ──> FAILED ── redeliver ──> PENDING
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

DeliveryOutcome = Literal["delivered", "failed", "again"]


@dataclass(frozen=True)
class Delivery:
    """One message to one URL. Times are seconds since the epoch, by the store's clock."""

    msg: str
    tenant: str
    subject: str  #: job or batch id; the message's own id for a test
    type: str  #: job.succeeded, batch.ended, webhook.test, …
    url: str
    host: str
    payload: str  #: full or thin
    endpoint: str  #: the webhook endpoint that it goes to; "": the job's or batch's own webhook
    headers: Mapping[str, str] = field(repr=False)  #: the client's own; their values are secrets
    state: str  #: pending, delivered, failed
    fence: int  #: claims so far: the fencing token of the dispatcher that holds it
    attempts: int  #: made so far
    base: int  #: attempts made before the latest redelivery; the schedule counts from here
    single_shot: bool  #: a test: attempted once
    created: float
    since: float  #: when the current schedule began: creation, or the latest redelivery
    claimed: float = 0
    next: float = 0  #: the next attempt
    sequence: int = 0  #: 1, 2, … among the messages of its job or batch; 0 if created by an earlier version
    log: list[dict[str, Any]] = field(default_factory=list)  #: one entry per attempt, oldest first

    @property
    def attempts_in_schedule(self) -> int:
        """Attempts of the current schedule."""
        return self.attempts - self.base

    @property
    def is_test(self) -> bool:
        """Whether it tells of no job or batch."""
        return self.subject == self.msg

    @property
    def event_id(self) -> str:
        """The id of the event, which several endpoints may be told of."""
        return "evt_" + "_".join(self.msg.split("_")[1:3])

    @classmethod
    def from_hash(cls, flat: Sequence[str], log: Sequence[str]) -> Self:
        """Parse HGETALL's flat list of a delivery and the JSON lines of its attempts."""
        record = dict(zip(flat[::2], flat[1::2], strict=True))
        return cls(
            msg=record["msg"],
            tenant=record["tenant"],
            subject=record["subject"],
            type=record["type"],
            url=record["url"],
            host=record["host"],
            payload=record["payload"],
            endpoint=record.get("endpoint", ""),
            headers=json.loads(record.get("headers") or "{}"),
            state=record["state"],
            fence=int(record["turn"]),
            attempts=int(record["attempts"]),
            base=int(record["base"]),
            single_shot=bool(record.get("once")),
            created=float(record["created"]),
            since=float(record.get("since") or record["created"]),
            claimed=float(record.get("claimed", 0)),
            next=float(record.get("next", 0)),
            sequence=int(record.get("sequence", 0)),
            log=[json.loads(line) for line in log],
        )
