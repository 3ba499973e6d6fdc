"""The job store: runs commands (`shared/store/command.py`) on a Redis-compatible server (Valkey, Redis >= 6.2).

`Store` is for the workers, `AsyncStore` for intake; both put `shared/store/lua/prelude.lua` in front of every script.
`memory_store()` is the in-process double: the same scripts on an emulated server, for tests without one.
"""

from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.exceptions import RedisError

from shared.errors import STORE_FAILURES, QueueUnavailable
from shared.store.command import StoreCommand

T = TypeVar("T")

#: A durable command waits this long for the disk of a server that does not sync every write by itself.
WAITAOF_MS = 2000


@cache
def source(script: str) -> str:
    """Return the Lua text of `script`, with the failure messages and the prelude in front."""
    folder = files("shared") / "store" / "lua"
    failures = ", ".join(f"{code} = '{message}'" for code, message in STORE_FAILURES.items())
    texts = [(folder / f"{name}.lua").read_text() for name in ("prelude", script)]
    return "\n".join((f"local FAILURES = {{{failures}}}", *texts))


class Store:
    """Runs commands synchronously; threads may share it. Raises `QueueUnavailable` if the server does not answer."""

    def __init__(self, client: "redis.Redis", prefix: str, *, wait_aof: bool = False) -> None:
        self.client = client
        self.prefix = prefix
        self._wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    def run(self, command: StoreCommand[T]) -> T:
        """Run one command and return its parsed reply."""
        script = self._scripts.get(command.script)
        if script is None:
            script = self._scripts[command.script] = self.client.register_script(source(command.script))
        try:
            if not (command.durable and self._wait_aof):
                return command.parse(script(keys=[self.prefix], args=command.args))
            with self.client.client() as one:  # type: ignore[no-untyped-call]  # WAITAOF is about its own connection
                answer = command.parse(script(keys=[self.prefix], args=command.args, client=one))
                _synced(one.execute_command("WAITAOF", 1, 0, WAITAOF_MS))
                return answer
        except RedisError as error:
            raise _unavailable(command, error) from error


class AsyncStore:
    """Runs commands on the event loop. Raises `QueueUnavailable` if the server does not answer."""

    def __init__(self, client: "redis.asyncio.Redis", prefix: str, *, wait_aof: bool = False) -> None:
        self.client = client
        self.prefix = prefix
        self.wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    async def run(self, command: StoreCommand[T]) -> T:
        """Run one command and return its parsed reply."""
        script = self._scripts.get(command.script)
        if script is None:
            script = self._scripts[command.script] = self.client.register_script(source(command.script))
        try:
            if not (command.durable and self.wait_aof):
                return command.parse(await script(keys=[self.prefix], args=command.args))
            async with self.client.client() as one:
                answer = command.parse(await script(keys=[self.prefix], args=command.args, client=one))
                _synced(await one.execute_command("WAITAOF", 1, 0, WAITAOF_MS))  # type: ignore[no-untyped-call]
                return answer
        except RedisError as error:
            raise _unavailable(command, error) from error


def memory_store(prefix: str = "tileq:") -> Store:
    """Return a store without a server: the same Lua on fakeredis (extra `dev`)."""
    import fakeredis  # noqa: PLC0415  # only tests have it

    return Store(fakeredis.FakeRedis(decode_responses=True, server_type="valkey"), prefix)


def durability(info: dict[str, Any], config: dict[str, str]) -> str:
    """Return how a server persists writes: `always`, `waitaof` (AOF, synced on demand), or `none` (not durable).

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


def _unavailable(command: "StoreCommand[Any]", error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"the job store did not answer `{command.script}`: {error}; repeat later", retry_after=2)
