"""Whether a job submitted now would be taken and kept: what the job store and the object storage say."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from services.intake.clients.storage import Storage
from services.intake.desk import Desk
from shared.errors import QueueUnavailable, StorageUnavailable
from shared.settings import Settings
from shared.store import durability

BELIEVED = 1.0  #: seconds for which /readyz repeats what it found
PERIOD = 5.0  #: seconds between two looks of its own
NOT_KEPT = (
    "it keeps no append-only file, so an accepted job would die with it: start it with `--appendonly yes`, "
    "or set TILEQ_REQUIRE_AOF=false and live with that"
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Standing:
    """What was found: a reason for each dependency that is down."""

    redis: str | None = "not asked yet"
    storage: str | None = "not asked yet"

    @property
    def ready(self) -> bool:
        """Both are up."""
        return self.redis is None and self.storage is None

    def view(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        reasons = {"redis": self.redis, "storage": self.storage}
        return {
            "status": "ready" if self.ready else "unready",
            "dependencies": {name: {"up": reason is None, "reason": reason} for name, reason in reasons.items()},
        }


class Readiness:
    """Looks every few seconds, and when asked. It also makes the bucket, and learns whether writes must be synced."""

    def __init__(self, desk: Desk, storage: Storage, settings: Settings) -> None:
        self._desk = desk
        self._storage = storage
        self._settings = settings
        self._volatile = False
        self._standing = Standing()
        self._until = 0.0
        self._looking = asyncio.Lock()

    def refuse_if_volatile(self) -> None:
        """Raise `QueueUnavailable` where a 202 would be no promise."""
        if self._volatile and self._settings.require_aof:
            raise QueueUnavailable(f"the job store takes no jobs: {NOT_KEPT}", retry_after=10)

    async def look(self) -> Standing:
        """Return how things stand, as of at most `BELIEVED` seconds ago."""
        async with self._looking:
            if time.monotonic() >= self._until:
                redis, storage = await asyncio.gather(self._redis(), self._store())
                found = Standing(redis, storage)
                if found != self._standing:
                    log.info("readiness changed", ready=found.ready, redis=redis, storage=storage)
                self._standing = found
                self._until = time.monotonic() + BELIEVED
            return self._standing

    async def run(self) -> None:
        """Look again and again."""
        while True:
            standing = await self.look()
            await asyncio.sleep(PERIOD if standing.ready else 1)

    async def _redis(self) -> str | None:
        try:
            async with asyncio.timeout(self._settings.redis_timeout):
                kept = durability(await self._desk.store.client.info(), await self._config())
        except (RedisError, TimeoutError) as error:
            return f"the job store does not answer: {error or 'no answer in time'}"
        self._volatile = kept == "none"
        self._desk.store.wait_aof = kept == "waitaof"
        return NOT_KEPT if self._volatile and self._settings.require_aof else None

    async def _config(self) -> dict[str, str]:
        try:
            found: Any = await self._desk.store.client.config_get("append*")
        except ResponseError:  # a server that lets nobody look at its configuration
            return {}
        return dict(found)

    async def _store(self) -> str | None:
        try:
            await self._storage.check()
        except StorageUnavailable as error:
            return str(error.__cause__) or "no answer in time"
        return None
