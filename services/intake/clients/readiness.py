"""Whether a job submitted now would be accepted and kept: every dependency is used as a submission uses it.

redis            the judgement of its durability, and a durable write
broker           a message over the connections that publish hints
storage          an object
temporary_files  a file, and room for one image
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from redis.exceptions import RedisError

from services.intake.clients.hints import HintPublisher
from services.intake.clients.storage import Storage
from services.intake.clients.temporary_files import check_temporary_files
from services.intake.schemas.responses import Dependency, Ready
from services.intake.ttl_cache import TtlCache
from shared.errors import Overloaded, QueueUnavailable, RequestError, StorageUnavailable
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore, UnsuitableServer
from shared.store.durability import Durability
from shared.store.health import probe

CACHE_TTL_S = 1.0  #: for which /readyz repeats its last answer
PERIOD_S, RETRY_S = 5.0, 1.0  #: between two checks of its own, while ready and while not
RETRY_AFTER_S = 5.0

#: What a client is told where a dependency is down; /readyz has the reasons, which may name servers.
_REFUSALS: Mapping[str, Callable[[], RequestError]] = {
    "redis": lambda: QueueUnavailable("the job store takes no jobs; /readyz says why", retry_after=RETRY_AFTER_S),
    "broker": lambda: QueueUnavailable("the broker takes no messages; /readyz says why", retry_after=RETRY_AFTER_S),
    "storage": lambda: StorageUnavailable(
        "the object storage takes no objects; /readyz says why", retry_after=RETRY_AFTER_S
    ),
    "temporary_files": lambda: Overloaded(
        "this service has no room for temporary files; /readyz says why", retry_after=RETRY_AFTER_S
    ),
}
log = structlog.get_logger(__name__)


class Readiness:
    """Checks every few seconds, and when asked; also creates the bucket, and learns whether writes must be synced."""

    def __init__(self, store: AsyncStore, storage: Storage, hints: HintPublisher, settings: IntakeSettings) -> None:
        self._store = store
        self._storage = storage
        self._hints = hints
        self._require_aof = settings.require_aof
        self._max_image_bytes = settings.max_image_bytes
        self._durability: Durability | None = None  # not known yet
        self._last: Ready | None = None
        self._reports: TtlCache[None, Ready] = TtlCache(CACHE_TTL_S, 1)

    async def refuse_unless_ready(self) -> None:
        """Raise the refusal of the first dependency that is down, as of the last check.

        After a failed check, or before the first one, it checks anew, so that service is back with the dependency.
        """
        report = self._last
        if report is None or report.status != "ready":
            report = await self.check()
        for name, state in report.dependencies.items():
            if not state.up:
                if name == "redis" and self._require_aof and self._durability and self._durability.problem:
                    raise QueueUnavailable(f"the job store takes no jobs: {self._durability.problem}", retry_after=10)
                raise _REFUSALS[name]()

    async def check(self) -> Ready:
        """Return the state of each dependency, as of at most `CACHE_TTL_S` ago."""
        return await self._reports.load(None, self._check)

    async def run(self) -> None:
        """Check again and again."""
        while True:
            report = await self.check()
            await asyncio.sleep(PERIOD_S if report.status == "ready" else RETRY_S)

    async def _check(self) -> Ready:
        checks: Mapping[str, Awaitable[str | None]] = {
            "redis": self._check_store(),
            "broker": self._check_broker(),
            "storage": self._check_storage(),
            "temporary_files": asyncio.to_thread(check_temporary_files, self._max_image_bytes),
        }
        reasons = dict(zip(checks, await asyncio.gather(*checks.values()), strict=True))
        report = Ready(
            status="ready" if not any(reasons.values()) else "unready",
            dependencies={name: Dependency(up=reason is None, reason=reason) for name, reason in reasons.items()},
        )
        if report != self._last:
            log.info("readiness changed", status=report.status, **reasons)
            self._last = report
        return report

    async def _check_store(self) -> str | None:
        self._durability = None
        try:
            self._durability = await self._store.durability()
            if self._require_aof and self._durability.problem:
                return self._durability.problem
            await self._store.run(probe())
        except UnsuitableServer as error:
            return str(error)
        except (RedisError, TimeoutError) as error:
            return f"the job store does not answer: {error or 'no answer in time'}"
        except QueueUnavailable as error:
            return f"the job store takes no writes: {error.__cause__ or 'no answer in time'}"
        return None

    async def _check_broker(self) -> str | None:
        try:
            await self._hints.check()
        except TimeoutError:
            return "the broker takes no messages: no answer in time"
        except Exception as error:  # kombu's, redis' and the OS' errors
            return f"the broker takes no messages: {error or type(error).__name__}"
        return None

    async def _check_storage(self) -> str | None:
        try:
            await self._storage.check()
        except StorageUnavailable as error:
            return str(error.__cause__) or "no answer in time"
        return None
