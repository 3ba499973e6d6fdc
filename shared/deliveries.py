"""Webhook messages as the store has them: the same lease and fence as jobs, under `hooks`.

PENDING ── claim (turn += 1, lease) ──> being sent ── 2xx ──> DELIVERED
   ▲                                        │
   └────────── again, after a delay ────────┴─ schedule used up, 410 ──> FAILED ── redeliver ──> PENDING
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.calls import Call

Outcome = Literal["delivered", "failed", "again"]


@dataclass(frozen=True)
class Delivery:
    """One message to one URL. `turn` is the fencing token of the dispatcher that holds it."""

    msg: str
    tenant: str
    subject: str  #: job or batch id; the message's own id for a test
    type: str  #: job.succeeded, batch.ended, webhook.test, …
    url: str
    host: str
    payload: str  #: full or thin
    state: str  #: pending, delivered, failed
    turn: int
    attempts: int  #: made so far
    base: int  #: attempts made before the latest redelivery; the schedule counts from here
    once: bool  #: a test: tried once
    created: float
    since: float  #: when the present schedule began: created, or asked for again
    claimed: float = 0
    next: float = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Attempts of the present schedule."""
        return self.attempts - self.base


def claim(msg: str, lease: float, per_host: int) -> Call[Delivery | None]:
    """Take a due message for `lease` seconds, or None: hosts in turn, full and failing ones passed over.

    `msg`, the one of the hint or "", goes first only if it is a test.
    """
    return Call("hook_claim", (msg, lease, per_host), lambda flat: _read(flat, []) if flat else None)


def finish(
    msg: str, turn: int, outcome: Outcome, *, delay: float, attempt: Mapping[str, Any], healthy: bool, breaker: int = 5
) -> Call[bool]:
    """Write one attempt down; False when another dispatcher holds it. `breaker` failures in a row pause a host.

    Safe to repeat after a lost answer.
    """
    args = (msg, turn, outcome, delay, json.dumps(attempt, ensure_ascii=False), int(healthy), breaker)
    return Call("hook_finish", args, bool)


def release(msg: str, turn: int, delay: float) -> Call[bool]:
    """Put a held message back untried, to be claimed again after `delay`; False when another dispatcher holds it."""
    return Call("hook_release", (msg, turn, delay), bool)


def add_test(msg: str, tenant: str, url: str, host: str, keep: float = 86_400) -> Call[int]:
    """Put down a `webhook.test`, to be tried once."""
    return Call("hook_add", (msg, tenant, "webhook.test", url, host, keep), int)


def again(tenant: str, subject: str, msg: str) -> Call[str]:
    """Deliver once more on a fresh schedule → the state before, or "" where there is no such message."""
    return Call("hook_again", (tenant, subject, msg), str)


def due(limit: int = 500) -> Call[list[str]]:
    """Messages that a dispatcher could deliver now."""
    return Call("hooks_due", (limit,), list)


def of(kind: Literal["job", "batch"], id: str) -> Call[list[str]]:
    """The messages of a job or batch, oldest first."""
    return Call("list_hooks", (kind, id), list)


def read(messages: Sequence[str]) -> Call[list[Delivery]]:
    """Messages with the log of their attempts; those that are gone are left out."""
    return Call("read_hooks", tuple(messages), lambda rows: [_read(flat, log) for flat, log in rows if flat])


def _read(flat: Sequence[str], log: Sequence[str]) -> Delivery:
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    return Delivery(
        msg=record["msg"],
        tenant=record["tenant"],
        subject=record["subject"],
        type=record["type"],
        url=record["url"],
        host=record["host"],
        payload=record["payload"],
        state=record["state"],
        turn=int(record["turn"]),
        attempts=int(record["attempts"]),
        base=int(record["base"]),
        once=bool(record.get("once")),
        created=float(record["created"]),
        since=float(record.get("since") or record["created"]),
        claimed=float(record.get("claimed", 0)),
        next=float(record.get("next", 0)),
        log=[json.loads(line) for line in log],
    )
