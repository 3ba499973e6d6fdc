"""Whether a job submitted now would be accepted and kept: what the job store and the object storage say."""

import asyncio

import structlog
from redis.exceptions import RedisError

from services.intake.clients.storage import Storage
from services.intake.schemas.responses import Dependency, Ready
from services.intake.ttl_cache import TtlCache
from shared.errors import QueueUnavailable, StorageUnavailable
from shared.settings import IntakeSettings
from shared.store.client import AsyncStore
from shared.store.durability import Durability

CACHE_TTL_S = 1.0  #: for which /readyz repeats its last answer
PERIOD_S, RETRY_S = 5.0, 1.0  #: between two checks of its own, while ready and while not
log = structlog.get_logger(__name__)


class Readiness:
    """Checks every few seconds, and when asked; also creates the bucket, and learns whether writes must be synced."""

    def __init__(self, store: AsyncStore, storage: Storage, settings: IntakeSettings) -> None:
        self._store = store
        self._storage = storage
        self._require_aof = settings.require_aof
        self._durability: Durability | None = None  # not known yet
        self._last: Ready | None = None
        self._reports: TtlCache[None, Ready] = TtlCache(CACHE_TTL_S, 1)

    async def refuse_unless_durable(self) -> None:
        """Raise `QueueUnavailable` unless the job store is known to keep an accepted job."""
        if not self._require_aof:
            return
        if self._durability is None:
            await self.check()
        if self._durability is None:
            raise QueueUnavailable("the job store does not answer; repeat the request later", retry_after=2)
        if self._durability.problem:
            raise QueueUnavailable(f"the job store takes no jobs: {self._durability.problem}", retry_after=10)

    async def check(self) -> Ready:
        """Return the state of each dependency, as of at most `CACHE_TTL_S` ago."""
        return await self._reports.load(None, self._check)

    async def run(self) -> None:
        """Check again and again."""
        while True:
            report = await self.check()
            await asyncio.sleep(PERIOD_S if report.status == "ready" else RETRY_S)

    async def _check(self) -> Ready:
        redis, storage = await asyncio.gather(self._check_store(), self._check_storage())
        reasons = {"redis": redis, "storage": storage}
        report = Ready(
            status="ready" if not any(reasons.values()) else "unready",
            dependencies={name: Dependency(up=reason is None, reason=reason) for name, reason in reasons.items()},
        )
        if report != self._last:
            log.info("readiness changed", status=report.status, **reasons)
            self._last = report
        return report

    async def _check_store(self) -> str | None:
        try:
            self._durability = await self._store.durability()
        except (RedisError, TimeoutError) as error:
            return f"the job store does not answer: {error or 'no answer in time'}"
        return (self._durability.problem or None) if self._require_aof else None

    async def _check_storage(self) -> str | None:
        try:
            await self._storage.check()
        except StorageUnavailable as error:
            return str(error.__cause__) or "no answer in time"
        return None
