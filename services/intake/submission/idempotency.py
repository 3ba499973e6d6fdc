"""Idempotency keys: one key, one job, however often and however fast a request is repeated.

A key is reserved under a short lease that a heartbeat extends while its request is processed. When intake dies, the
lease ends within seconds and the key is free again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from shared.errors import IdempotencyInProgress, IdempotencyMismatch, QueueUnavailable
from shared.store import transitions
from shared.store.client import AsyncStore

LEASE_S = 10  #: a reservation without a heartbeat ends after this
HEARTBEAT_S = 3.0


@dataclass(frozen=True)
class KeyReservation:
    """A key while its request is processed; `replay` is the job or batch that an earlier request with it became."""

    key: str = ""
    token: str = ""
    replay: str = ""

    def binding(self, resource_id: str) -> tuple[str, str, str] | None:
        """Return (key, token, id): what binds the key to `resource_id` when that is submitted; None without a key."""
        return (self.key, self.token, resource_id) if self.key else None


@asynccontextmanager
async def reserve_key(
    store: AsyncStore, tenant: str, key: str | None, fingerprint: str
) -> AsyncIterator[KeyReservation]:
    """Reserve `key` (None: none was sent) while the block runs; a request that is refused in it releases the key.

    Raises `IdempotencyMismatch`, `IdempotencyInProgress` and `QueueUnavailable`.
    """
    if key is None:
        yield KeyReservation()
        return
    token = secrets.token_hex(16)
    outcome, replay, left_s = await store.run(transitions.reserve(tenant, key, fingerprint, token, LEASE_S))
    if outcome == "mismatch":
        raise IdempotencyMismatch
    if outcome == "in_progress":
        raise IdempotencyInProgress(retry_after=_retry_after(left_s))
    if outcome == "replay":
        yield KeyReservation(key, token, replay)
        return
    heartbeat = asyncio.create_task(_extend(store, tenant, key, token))
    try:
        yield KeyReservation(key, token)
    except BaseException:
        with suppress(QueueUnavailable):  # then it is free when its lease ends
            await asyncio.shield(store.run(transitions.unreserve(tenant, key, token)))
        raise
    finally:
        heartbeat.cancel()


def _retry_after(left_s: float) -> float:
    """Return when to ask again: soon while the other request is alive, else when its lease ends."""
    beats = left_s > LEASE_S - 2 * HEARTBEAT_S
    return 1.0 if beats else max(1.0, left_s)


async def _extend(store: AsyncStore, tenant: str, key: str, token: str) -> None:
    """Extend the lease until cancelled; a beat that the store misses is repeated by the next one."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with suppress(QueueUnavailable):
            await store.run(transitions.extend_reservation(tenant, key, token, LEASE_S))
