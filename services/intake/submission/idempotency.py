"""One Idempotency-Key, one job, however often and however fast the request is repeated."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.intake.desk import Desk
from shared import transitions
from shared.errors import IdempotencyInProgress, IdempotencyMismatch, QueueUnavailable

HELD_FOR = 180  #: seconds after which the key of a request that got lost on the way is free again


@dataclass(frozen=True)
class Held:
    """A key for as long as its request is taken in. `replay` is what an earlier request with it became."""

    key: str = ""
    token: str = ""
    replay: str = ""

    def claim(self, subject: str) -> tuple[str, str, str] | None:
        """Return what ties the key to `subject` when that is submitted."""
        return (self.key, self.token, subject) if self.key else None


@asynccontextmanager
async def held(desk: Desk, tenant: str, key: str | None, fingerprint: str) -> AsyncIterator[Held]:
    """Hold `key` (None: none was sent); a request that is refused inside the block gives it back."""
    if key is None:
        yield Held()
        return
    token = secrets.token_hex(16)
    outcome, subject = await desk.run(transitions.reserve(tenant, key, fingerprint, token, HELD_FOR))
    if outcome == "mismatch":
        raise IdempotencyMismatch
    if outcome == "in_progress":
        raise IdempotencyInProgress(retry_after=1)
    if outcome == "replay":
        yield Held(key, token, subject)
        return
    try:
        yield Held(key, token)
    except BaseException:
        with suppress(QueueUnavailable):  # then it is free after HELD_FOR
            await asyncio.shield(desk.run(transitions.unreserve(tenant, key, token)))
        raise
