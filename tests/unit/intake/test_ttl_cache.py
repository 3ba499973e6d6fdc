"""The cache whose entries are believed for a while."""

import asyncio

import pytest

from services.intake.ttl_cache import TtlCache


class Source:
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.now = 0.0

    async def read(self) -> int | None:
        self.reads += 1
        await asyncio.sleep(0)
        return self.reads if self.reads % 2 else None

    def cache(self, ttl_s: float, max_entries: int = 10) -> TtlCache[str, int | None]:
        return TtlCache(ttl_s, max_entries, clock=lambda: self.now)


def test_a_value_is_believed_until_its_time_is_over_and_none_is_a_value() -> None:
    async def run() -> None:
        source = Source()
        cache = source.cache(10)
        assert [await cache.load("a", source.read) for _ in range(2)] == [1, 1]
        source.now = 10
        assert [await cache.load("a", source.read) for _ in range(2)] == [None, None]
        assert source.reads == 2

    asyncio.run(run())


def test_with_a_ttl_of_zero_nothing_is_believed() -> None:
    async def run() -> None:
        source = Source()
        cache = source.cache(0)
        assert [await cache.load("a", source.read) for _ in range(3)] == [1, None, 3]

    asyncio.run(run())


def test_callers_at_the_same_time_share_one_read() -> None:
    async def run() -> None:
        source = Source()
        cache = source.cache(10)
        assert await asyncio.gather(*(cache.load("a", source.read) for _ in range(5))) == [1] * 5
        assert cache._loading == {}

    asyncio.run(run())


def test_a_failed_read_is_no_value() -> None:
    async def broken() -> int | None:
        raise ZeroDivisionError

    async def run() -> None:
        source = Source()
        cache = source.cache(10)
        with pytest.raises(ZeroDivisionError):
            await cache.load("a", broken)
        assert await cache.load("a", source.read) == 1
        assert cache._loading == {}

    asyncio.run(run())


def test_the_oldest_entry_goes_first() -> None:
    async def run() -> None:
        source = Source()
        cache = source.cache(10, max_entries=2)
        for key in ("a", "b", "c"):
            await cache.load(key, source.read)
        assert list(cache._entries) == ["b", "c"]

    asyncio.run(run())
