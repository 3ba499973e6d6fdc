"""The store on the event loop: bounded time, and what a failure means."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import ResponseError

from shared.errors import QueueUnavailable, StoreRejected
from shared.store import transitions
from shared.store.client import AsyncStore
from shared.store.command import StoreCommand

READ = transitions.read_job("acme", "job_x")
DURABLE = transitions.delete("acme", "job_x")


class Server(fakeredis.FakeAsyncRedis):
    """An emulated server that answers scripts and WAITAOF as `scripted` and `synced` say."""

    scripted: Exception | None = None
    synced: Exception | list[int] = [1, 0]  # noqa: RUF012  # replaced, never changed
    waits = False

    async def evalsha(self, *args: Any, **options: Any) -> Any:
        """Run a script."""
        if self.waits:
            await asyncio.Event().wait()
        if self.scripted:
            raise self.scripted
        return await super().evalsha(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Return a pipeline that answers like the commands one by one."""
        assert not transaction  # MULTI would answer before the sync
        return Pipeline(self)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command."""
        if args[0] == "WAITAOF":
            if isinstance(self.synced, Exception):
                raise self.synced
            return self.synced
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class Pipeline:
    """Runs its commands when told to, errors among the replies."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._calls: list[Callable[[], Coroutine[Any, Any, Any]]] = []

    async def __aenter__(self) -> "Pipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Keep nothing."""

    def evalsha(self, *args: Any) -> None:
        """Queue a script."""
        self._calls.append(lambda: self._server.evalsha(*args))

    def execute_command(self, *args: Any) -> None:
        """Queue a command."""
        self._calls.append(lambda: self._server.execute_command(*args))

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run them."""
        assert not raise_on_error
        replies: list[Any] = []
        for call in self._calls:
            try:
                replies.append(await call())
            except ResponseError as error:
                replies.append(error)
        return replies


def run(server: Server, command: StoreCommand[Any], *, wait_aof: bool = False) -> Any:
    """Run a command on a store with a short time-out."""

    async def within() -> Any:
        return await AsyncStore(server, "t:", timeout_s=0.2, wait_aof=wait_aof).run(command)

    coroutine: Coroutine[Any, Any, Any] = within()
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.fixture
def server() -> Server:
    return Server(decode_responses=True, server_type="valkey")


def test_a_command_is_answered(server: Server) -> None:
    assert run(server, READ) is None


def test_a_store_that_hangs_is_unavailable_in_time(server: Server) -> None:
    server.waits = True
    with pytest.raises(QueueUnavailable) as caught:
        run(server, READ)
    assert not isinstance(caught.value, StoreRejected)
    assert caught.value.retry_after


def test_a_refusal_of_the_server_is_a_rejection_and_names_no_server(server: Server) -> None:
    server.scripted = ResponseError("OOM command not allowed on 10.0.0.7:6379")
    with pytest.raises(StoreRejected) as caught:
        run(server, DURABLE, wait_aof=True)
    assert "10.0.0.7" not in caught.value.detail


def test_a_broken_connection_leaves_it_open_what_was_written(server: Server) -> None:
    server.scripted = Unreachable("reset by 10.0.0.7:6379")
    with pytest.raises(QueueUnavailable) as caught:
        run(server, DURABLE)
    assert not isinstance(caught.value, StoreRejected)
    assert "10.0.0.7" not in caught.value.detail


@pytest.mark.parametrize("synced", [[0, 0], ResponseError("NOPERM this user has no permissions")], ids=["late", "no"])
def test_a_write_that_was_not_synced_is_no_rejection_since_it_was_written(server: Server, synced: Any) -> None:
    server.synced = synced
    with pytest.raises(QueueUnavailable) as caught:
        run(server, DURABLE, wait_aof=True)
    assert not isinstance(caught.value, StoreRejected)


def test_only_durable_commands_wait_for_the_disk(server: Server) -> None:
    server.synced = ResponseError("not asked")
    assert run(server, READ, wait_aof=True) is None
    assert isinstance(server, redis.asyncio.Redis)
