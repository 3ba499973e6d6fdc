"""The job store: runs calls (`shared/calls.py`) on a Redis-compatible server (Valkey, Redis >= 6.2).

`Store` is for the workers, `AsyncStore` for intake; both load `shared/lua/prelude.lua` in front of every script.
`memory_store()` is the in-process double: the same scripts on an emulated server, for tests without one.
"""

import asyncio
from collections.abc import Awaitable
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import redis
import redis.asyncio
import structlog
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from shared.calls import Call
from shared.errors import QueueUnavailable, StoreRejected
from shared.settings import Settings

T = TypeVar("T")

#: Milliseconds that a durable call waits for the disk where the server does not sync every write by itself.
WAITAOF_MS = 2000
#: Seconds after which a client may repeat a request that the store did not answer.
RETRY_AFTER_S = 2.0
log = structlog.get_logger(__name__)


@cache
def source(script: str) -> str:
    """Return the Lua text of `script`, prelude included."""
    folder = files("shared") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text() for name in ("prelude", script))


def connect(url: str, settings: Settings) -> "redis.Redis":
    """Return a synchronous client with bounded waits; nothing is sent yet."""
    return redis.Redis.from_url(url, **_options(settings), retry=Retry(ExponentialWithJitterBackoff(cap=0.5), 2))


def connect_async(url: str, settings: Settings, connections: int = 64) -> "redis.asyncio.Redis":
    """Return an asynchronous client with bounded waits; nothing is sent yet. Beyond `connections`, calls wait."""
    retry = redis.asyncio.retry.Retry(ExponentialWithJitterBackoff(cap=0.5), 2)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, **_options(settings), retry=retry, max_connections=connections, timeout=settings.redis_timeout
    )
    return redis.asyncio.Redis.from_pool(pool)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }


class Store:
    """Runs calls synchronously; safe to share between threads. Raises `QueueUnavailable` when the server can't."""

    def __init__(self, client: "redis.Redis", prefix: str, *, wait_aof: bool = False) -> None:
        self.client = client
        self.prefix = prefix
        self._wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    def run(self, call: Call[T]) -> T:
        """Run one call and return its answer."""
        script = self._scripts.get(call.script)
        if script is None:
            script = self._scripts[call.script] = self.client.register_script(source(call.script))
        try:
            if not (call.durable and self._wait_aof):
                return call.read(script(keys=[self.prefix], args=call.args))
            with self.client.client() as one:  # type: ignore[no-untyped-call]  # WAITAOF is about its own connection
                answer = call.read(script(keys=[self.prefix], args=call.args, client=one))
                _synced(one.execute_command("WAITAOF", 1, 0, WAITAOF_MS))
                return answer
        except RedisError as error:
            raise _unavailable(call, error) from error


class AsyncStore:
    """Runs calls on the event loop, each in bounded time.

    Raises `QueueUnavailable` when the server can't be reached or does not answer, and its `StoreRejected` when the
    server answered and wrote nothing. What exactly failed goes to the log: it names servers that no client should see.
    """

    def __init__(
        self, client: "redis.asyncio.Redis", prefix: str, *, timeout_s: float = 5.0, wait_aof: bool = False
    ) -> None:
        self.client = client
        self.prefix = prefix
        self._timeout_s = timeout_s
        self._wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    async def run(self, call: Call[T]) -> T:
        """Run one call and return its answer; retries of the client included it takes at most `timeout_s`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return call.read(await self._answer(call))
        except (RedisError, TimeoutError) as error:
            log.warning("job store call failed", call=call.script, error=str(error) or "no answer in time")
            raise QueueUnavailable(retry_after=RETRY_AFTER_S) from error

    async def durability(self) -> str:
        """Return how the server keeps writes (see `durability`), and sync durable calls from now on where that needs it.

        Raises `RedisError` or `TimeoutError`.
        """
        async with asyncio.timeout(self._timeout_s):
            kept = durability(await self.client.info(), await self._config())
        self._wait_aof = kept == "waitaof"
        return kept

    async def _answer(self, call: Call[T]) -> Any:
        script = self._scripts.get(call.script)
        if script is None:
            script = self._scripts[call.script] = self.client.register_script(source(call.script))
        if not (call.durable and self._wait_aof):
            return await _accepted(call, script(keys=[self.prefix], args=call.args))
        async with self.client.client() as one:  # WAITAOF is about its own connection
            answer = await _accepted(call, script(keys=[self.prefix], args=call.args, client=one))
            _synced(await one.execute_command("WAITAOF", 1, 0, WAITAOF_MS))  # type: ignore[no-untyped-call]
            return answer

    async def _config(self) -> dict[str, str]:
        try:
            found: Any = await self.client.config_get("append*")
        except ResponseError:  # the server hides its configuration
            return {}
        return dict(found)


async def _accepted(call: "Call[Any]", answer: Awaitable[Any]) -> Any:
    """Return the answer of a script; an error that the server answered it with means that nothing was written."""
    try:
        return await answer
    except ResponseError as error:
        log.warning("job store rejected a call", call=call.script, error=str(error))
        raise StoreRejected(retry_after=RETRY_AFTER_S) from error


def memory_store(prefix: str = "tileq:") -> Store:
    """Return a store without a server: the same Lua on fakeredis (extra `dev`)."""
    import fakeredis  # noqa: PLC0415  # only tests have it

    return Store(fakeredis.FakeRedis(decode_responses=True, server_type="valkey"), prefix)


def durability(info: dict[str, Any], config: dict[str, str]) -> str:
    """Tell how a server keeps writes: `always`, `waitaof` (AOF, synced on demand), or `none`, and that is no promise.

    `info` is INFO's answer; `config` CONFIG GET append*'s, empty where the server does not tell.
    """
    if str(info.get("aof_enabled", 0)) != "1":
        return "none"
    if config.get("appendfsync") == "always":
        return "always"
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    return "waitaof" if tuple(map(int, version.split(".")[:2])) >= (7, 2) else "none"


def _synced(answer: Any) -> None:
    if int(answer[0]) < 1:
        raise RedisError(f"the server did not sync its append-only file within {WAITAOF_MS} ms")


def _unavailable(call: "Call[Any]", error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"the job store did not answer `{call.script}`: {error}; repeat later", retry_after=2)
