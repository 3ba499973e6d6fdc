"""The job store: runs commands (`shared/store/command.py`) on a Redis-compatible server (Valkey, Redis >= 6.2).

`Store` is for the workers, `AsyncStore` for intake; both put `shared/store/lua/prelude.lua` in front of every script.
`memory_store()` is the in-process double: the same scripts on an emulated server, for tests without one.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import redis
import redis.asyncio
import structlog
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

from shared.errors import STORE_FAILURES, QueueUnavailable, StoreRejected
from shared.store.cluster import cluster_problem
from shared.store.command import StoreCommand
from shared.store.durability import Durability, judge_durability, not_permitted

T = TypeVar("T")

#: A durable command waits this long for the disk of a server that does not sync every write by itself.
WAITAOF_MS = 2000
SCRIPT_LOADS = 3  #: tries of a script that the server has not got, each after loading it
RETRY_AFTER_S = 2.0  #: before a client repeats a request that the store did not answer
log = structlog.get_logger(__name__)


@cache
def source(script: str) -> str:
    """Return the Lua text of `script`, with the failure messages and the prelude in front."""
    folder = files("shared") / "store" / "lua"
    failures = ", ".join(f"{code} = '{message}'" for code, message in STORE_FAILURES.items())
    texts = [(folder / f"{name}.lua").read_text() for name in ("prelude", script)]
    return "\n".join((f"local FAILURES = {{{failures}}}", *texts))


class UnsuitableServer(RedisError):
    """The server answers, and cannot be the job store."""


class Store:
    """Runs commands synchronously; threads may share it. Raises `QueueUnavailable` if the server does not answer."""

    def __init__(self, client: "redis.Redis", prefix: str, *, wait_aof: bool = False) -> None:
        self.client = client
        self.prefix = prefix
        self._wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    def run(self, command: StoreCommand[T]) -> T:
        """Run one command and return its parsed reply."""
        script = self._script(command)
        try:
            if not (command.durable and self._wait_aof):
                return command.parse(self._evaluate(script, command))
            return command.parse(self._evaluate_durably(script, command))
        except RedisError as error:
            raise _unavailable(command, error) from error

    def run_when_woken(self, command: StoreCommand[T], slot: str, seconds: float) -> T:
        """Run `command` once a submission wakes `slot`, or after `seconds`; return its parsed reply.

        It lies at the server meanwhile, which runs it in the same step as the submission: no round trip lies between
        the two, and one sync of the append-only file keeps both.
        """
        try:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.blpop([f"{self.prefix}wake:{slot}"], seconds)
                pipe.evalsha(self._script(command).sha, 1, self.prefix, *map(str, command.args))
                _, reply = pipe.execute(raise_on_error=False)
        except RedisError as error:
            raise _unavailable(command, error) from error
        return self._parsed(command, reply)

    def run_together(self, commands: Sequence[StoreCommand[Any]]) -> list[Any]:
        """Run commands that need not be durable in one round trip, each by itself; return their parsed replies."""
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.evalsha(self._script(command).sha, 1, self.prefix, *map(str, command.args))
                replies = pipe.execute(raise_on_error=False)
        except RedisError as error:
            raise _unavailable(commands[0], error) from error
        return [self._parsed(command, reply) for command, reply in zip(commands, replies, strict=True)]

    def _parsed(self, command: StoreCommand[T], reply: Any) -> T:
        if isinstance(reply, NoScriptError):
            return self.run(command)
        if isinstance(reply, RedisError):
            raise _unavailable(command, reply) from reply
        return command.parse(reply)

    def _script(self, command: StoreCommand[T]) -> Any:
        script = self._scripts.get(command.script)
        if script is None:
            script = self._scripts[command.script] = self.client.register_script(source(command.script))
        return script

    def _evaluate(self, script: Any, command: StoreCommand[T]) -> Any:
        try:
            return script(keys=[self.prefix], args=command.args)
        except NoScriptError:  # loaded, and then a failover or a restart led to a server that has not got it
            return script(keys=[self.prefix], args=command.args)

    def _evaluate_durably(self, script: Any, command: StoreCommand[T]) -> Any:
        replies: list[Any] = []
        for _ in range(SCRIPT_LOADS):
            with self.client.pipeline(transaction=False) as pipe:
                pipe.evalsha(script.sha, 1, self.prefix, *map(str, command.args))
                pipe.execute_command("WAITAOF", 1, 0, WAITAOF_MS)  # type: ignore[no-untyped-call]
                replies = pipe.execute(raise_on_error=False)
            if not isinstance(replies[0], NoScriptError):
                break
            self.client.script_load(script.script)
        reply, synced = replies
        if isinstance(reply, RedisError):
            raise reply
        _check_synced(synced)
        return reply


class AsyncStore:
    """Runs commands on the event loop, each in bounded time.

    Raises `QueueUnavailable` if the server does not answer, and its subclass `StoreRejected` if the server answered and
    wrote nothing. What exactly failed goes to the log: it names servers that no client should see.
    """

    def __init__(
        self, client: "redis.asyncio.Redis", prefix: str, *, timeout_s: float = 5.0, wait_aof: bool = False
    ) -> None:
        self.client = client
        self.prefix = prefix
        self._timeout_s = timeout_s
        self._wait_aof = wait_aof
        self._scripts: dict[str, Any] = {}

    async def run(self, command: StoreCommand[T]) -> T:
        """Run one command and return its parsed reply; retries of the client included it takes at most `timeout_s`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return command.parse(await self._reply(command))
        except (RedisError, TimeoutError) as error:
            log.warning("job store command failed", command=command.script, error=str(error) or "no answer in time")
            raise QueueUnavailable(retry_after=RETRY_AFTER_S) from error

    async def durability(self) -> Durability:
        """Return how the server keeps writes; durable commands wait for its disk from now on where that is needed.

        Raises `RedisError` or `TimeoutError` where the server does not answer.
        """
        async with asyncio.timeout(self._timeout_s):
            found = await self._judge()
        self._wait_aof = found.mode == "waitaof"
        return found

    async def _judge(self) -> Durability:
        try:
            info = await self.client.info()
        except NoPermissionError as error:
            return not_permitted("INFO", error)
        if problem := cluster_problem(info, self.prefix):
            raise UnsuitableServer(problem)
        found = judge_durability(info, await self._config())
        if found.mode == "waitaof":
            try:
                await self.client.execute_command("WAITAOF", 0, 0, 1)  # type: ignore[no-untyped-call]
            except NoPermissionError as error:
                return not_permitted("WAITAOF", error)
        return found

    async def _reply(self, command: StoreCommand[T]) -> Any:
        script = self._scripts.get(command.script)
        if script is None:
            script = self._scripts[command.script] = self.client.register_script(source(command.script))
        if not (command.durable and self._wait_aof):
            return await _unless_rejected(command, self._evaluate(script, command))
        reply, synced = await self._evaluate_durably(script, command)
        if isinstance(reply, ResponseError):
            raise _rejected(command, reply) from reply
        _check_synced(synced)
        return reply

    async def _evaluate(self, script: Any, command: StoreCommand[T]) -> Any:
        try:
            return await script(keys=[self.prefix], args=command.args)
        except NoScriptError:  # loaded, and then a failover or a restart led to a server that has not got it
            return await script(keys=[self.prefix], args=command.args)

    async def _evaluate_durably(self, script: Any, command: StoreCommand[T]) -> tuple[Any, Any]:
        """Return the replies of the script and of WAITAOF, which are sent together.

        WAITAOF is about the writes of its own connection: sent again after a reconnection it would promise a sync that
        did not happen, so the two are retried together or not at all.
        """
        replies: list[Any] = []
        for _ in range(SCRIPT_LOADS):
            async with self.client.pipeline(transaction=False) as pipe:
                pipe.evalsha(script.sha, 1, self.prefix, *map(str, command.args))
                pipe.execute_command("WAITAOF", 1, 0, WAITAOF_MS)
                replies = await pipe.execute(raise_on_error=False)
            if not isinstance(replies[0], NoScriptError):
                break
            await self.client.script_load(script.script)
        return replies[0], replies[1]

    async def _config(self) -> dict[str, str]:
        try:
            found: Any = await self.client.config_get("append*")
        except ResponseError:  # the server hides its configuration
            return {}
        return dict(found)


async def _unless_rejected(command: "StoreCommand[Any]", reply: Awaitable[Any]) -> Any:
    """Return the reply of a script; an error that the server answers it with means that nothing was written."""
    try:
        return await reply
    except ResponseError as error:
        raise _rejected(command, error) from error


def _rejected(command: "StoreCommand[Any]", error: ResponseError) -> StoreRejected:
    log.warning("job store rejected a command", command=command.script, error=str(error))
    return StoreRejected(retry_after=RETRY_AFTER_S)


def memory_store(prefix: str = "tileq:") -> Store:
    """Return a store without a server: the same Lua on fakeredis (extra `dev`)."""
    import fakeredis  # noqa: PLC0415  # only tests have it

    return Store(fakeredis.FakeRedis(decode_responses=True, server_type="valkey"), prefix)


def syncs_on_demand(client: "redis.Redis") -> bool:
    """Tell whether durable commands must wait for the server's disk (`wait_aof` of `Store`)."""
    try:
        info = dict(client.info())
        config = {str(name): str(value) for name, value in client.config_get("append*").items()}
    except RedisError:  # denied, so that nothing is known; or not reached, which the command itself will say
        return False
    return judge_durability(info, config).mode == "waitaof"


def _check_synced(reply: Any) -> None:
    if isinstance(reply, RedisError):
        raise RedisError(f"the server did not sync its append-only file: {reply}") from reply
    if int(reply[0]) < 1:
        raise RedisError(f"the server did not sync its append-only file within {WAITAOF_MS} ms")


def _unavailable(command: "StoreCommand[Any]", error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"the job store did not answer `{command.script}`: {error}; repeat later", retry_after=2)
