"""A small cache whose entries are believed for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """At most `max_entries` values, each believed for `ttl_s` seconds; beyond that the oldest entry goes."""

    def __init__(self, ttl_s: float, max_entries: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[K, tuple[float, V]] = {}  # value, and until when; oldest first
        self._loading: dict[K, asyncio.Lock] = {}

    async def load(self, key: K, read: Callable[[], Awaitable[V]]) -> V:
        """Return the value of `key`, from `read()` where none is believed; `read` runs once for callers that wait."""
        if (found := self._find(key)) is not None:
            return found[1]
        lock = self._loading.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if (found := self._find(key)) is not None:
                    return found[1]
                value = await read()
                self._put(key, value)
                return value
        finally:
            if not lock.locked():
                self._loading.pop(key, None)

    def _find(self, key: K) -> tuple[float, V] | None:
        found = self._entries.get(key)
        return found if found is not None and self._clock() < found[0] else None

    def _put(self, key: K, value: V) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._clock() + self._ttl_s, value)
