"""One reader of all delta streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import pytest
from redis.exceptions import ConnectionError as Unreachable

from services.intake.clients import delta_reader
from services.intake.clients.delta_reader import DeltaReader, DeltaSubscription
from shared.events import stream_key


class Server(fakeredis.FakeAsyncRedis):
    """An emulated server that counts what waits for it."""

    reads = 0
    failures = 0
    failure: Exception = Unreachable("down")

    async def xread(self, *args: Any, **options: Any) -> Any:
        """Read, or fail as often as `failures` says."""
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise self.failure
        return await super().xread(*args, **options)


def scenario(play: Callable[[Server, DeltaReader], Awaitable[None]]) -> None:
    """Run `play` beside a running reader."""

    async def run() -> None:
        async with running() as (server, reader):
            async with asyncio.timeout(20):
                await play(server, reader)

    asyncio.run(run())


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Server, DeltaReader]]:
    server = Server(decode_responses=True)
    reader = DeltaReader(server, "t:")
    task = asyncio.create_task(reader.run())
    try:
        yield server, reader
    finally:
        reader.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.aclose()


async def write(server: Server, job: str, *texts: str) -> list[str]:
    return [str(await server.xadd(stream_key("t:", job), {"text": text})) for text in texts]


class Client:
    """A subscription, and what arrived."""

    def __init__(self, reader: DeltaReader, job: str, after: str = "0-0") -> None:
        self._arrived = asyncio.Event()
        self._context = reader.subscribe(job, after, self._arrived.set)
        self.subscription: DeltaSubscription = self._context.__enter__()
        self.texts: list[str] = []

    async def until(self, count: int) -> list[str]:
        while len(self.texts) < count:
            await self._arrived.wait()
            self._arrived.clear()
            self.texts += [fields["text"] for _, fields in self.subscription.take()]
        return self.texts

    def leave(self) -> None:
        self._context.__exit__(None, None, None)


def test_every_subscription_gets_every_entry_of_its_own_job_once() -> None:
    async def play(server: Server, reader: DeltaReader) -> None:
        clients = [Client(reader, "a"), Client(reader, "a"), Client(reader, "b")]
        await write(server, "a", "1", "2")
        await write(server, "b", "x")
        assert [await client.until(count) for client, count in zip(clients, (2, 2, 1), strict=True)] == [
            ["1", "2"],
            ["1", "2"],
            ["x"],
        ]

    scenario(play)


def test_one_that_joins_while_the_read_blocks_is_served_without_waiting_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delta_reader, "XREAD_BLOCK_MS", 3_600_000)  # only a wake ends the read in time

    async def play(server: Server, reader: DeltaReader) -> None:
        first = Client(reader, "a")
        await write(server, "a", "1")
        assert await first.until(1) == ["1"]
        for name in ("b", "c", "d"):
            joined = Client(reader, name)
            await write(server, name, name)
            assert await joined.until(1) == [name]

    scenario(play)


def test_one_that_joins_behind_the_others_gets_what_it_missed_and_they_nothing_twice() -> None:
    async def play(server: Server, reader: DeltaReader) -> None:
        first = Client(reader, "a")
        ids = await write(server, "a", "1", "2", "3")
        await first.until(3)
        late = Client(reader, "a", after=ids[0])
        assert await late.until(2) == ["2", "3"]
        await write(server, "a", "4")
        assert (await first.until(4), await late.until(3)) == (["1", "2", "3", "4"], ["2", "3", "4"])

    scenario(play)


def test_one_that_leaves_takes_nothing_from_the_others() -> None:
    async def play(server: Server, reader: DeltaReader) -> None:
        first, second = Client(reader, "a"), Client(reader, "a")
        await write(server, "a", "1")
        await first.until(1)
        first.leave()
        await write(server, "a", "2")
        assert await second.until(2) == ["1", "2"]
        second.leave()
        assert reader._subscriptions == {}

    scenario(play)


def test_a_long_stream_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_reader, "XREAD_COUNT", 2)

    async def play(server: Server, reader: DeltaReader) -> None:
        texts = [str(n) for n in range(7)]
        await write(server, "a", *texts)
        assert await Client(reader, "a").until(7) == texts

    scenario(play)


@pytest.mark.parametrize("failure", [Unreachable("down"), KeyError("unexpected")], ids=["the server's", "our own"])
def test_after_an_error_nothing_is_missing(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_reader, "ERROR_DELAY_S", 0.01)

    async def play(server: Server, reader: DeltaReader) -> None:
        server.failures, server.failure = 2, failure
        await write(server, "a", "1")
        assert await Client(reader, "a").until(1) == ["1"]

    scenario(play)


def test_nobody_waits_for_the_server_while_nobody_follows_a_job() -> None:
    async def play(server: Server, reader: DeltaReader) -> None:
        client = Client(reader, "a")
        await write(server, "a", "1")
        await client.until(1)
        client.leave()
        await write(server, reader._wake_key.removeprefix("t:events:"), "")  # end the present read
        while reader._joined.is_set():
            await asyncio.sleep(0)
        before = server.reads
        for _ in range(100):
            await asyncio.sleep(0)
        assert server.reads == before

    scenario(play)


def test_many_clients_need_one_connection() -> None:
    async def play(server: Server, reader: DeltaReader) -> None:
        clients = [Client(reader, f"job-{n}") for n in range(100)]
        for n in range(100):
            await write(server, f"job-{n}", "text")
        assert [await client.until(1) for client in clients] == [["text"]] * 100
        assert len(server.connection_pool._in_use_connections) <= 1

    scenario(play)
