"""One reader of all delta streams of this process: one blocking XREAD for every job that somebody follows.

Each subscription has its own position, and a stream is read from the position of its slowest one, so a subscription
that joins or leaves while the read blocks loses nothing. A join wakes the read through a stream of this process.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.events import stream_key

XREAD_BLOCK_MS = 1000
XREAD_COUNT = 500  #: entries of one stream that one read returns at most
ERROR_DELAY_S = 1.0
WAKE_TTL_S = 60
FIRST = "0-0"  #: before every entry
log = structlog.get_logger(__name__)

Entry = tuple[str, dict[str, str]]


class DeltaSubscription:
    """The new entries of one stream, for one client. `notify` is called whenever there are some."""

    def __init__(self, after: str, notify: Callable[[], None]) -> None:
        self._after = _order(after)
        self._notify = notify
        self._entries: list[Entry] = []

    @property
    def position(self) -> str:
        """Id of the last entry that was delivered."""
        return f"{self._after[0]}-{self._after[1]}"

    def deliver(self, entries: list[Entry]) -> None:
        """Take the entries that are new to this subscription."""
        new = [entry for entry in entries if _order(entry[0]) > self._after]
        if new:
            self._after = _order(new[-1][0])
            self._entries += new
            self._notify()

    def take(self) -> list[Entry]:
        """Return what was delivered since the last call."""
        taken, self._entries = self._entries, []
        return taken


class DeltaReader:
    """Delivers entries while `run` runs."""

    def __init__(self, client: "Redis", prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._wake_key = f"{prefix}events:wake:{secrets.token_hex(8)}"
        self._wake_after = FIRST
        self._subscriptions: dict[str, set[DeltaSubscription]] = {}
        self._joined = asyncio.Event()
        self._closed = False
        self._wake_wanted = False
        self._waking: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, job: str, after: str, notify: Callable[[], None]) -> Iterator[DeltaSubscription]:
        """Deliver the entries of `job` behind the id `after` for as long as the block lasts."""
        key = stream_key(self._prefix, job)
        subscription = DeltaSubscription(after, notify)
        self._subscriptions.setdefault(key, set()).add(subscription)
        self._wake()
        try:
            yield subscription
        finally:
            remaining = self._subscriptions[key]
            remaining.discard(subscription)
            if not remaining:
                del self._subscriptions[key]

    async def range(self, job: str, first: str, last: str) -> list[Entry]:
        """Return the entries of `job` from `first` to `last`, in XRANGE's notation. Raises `RedisError`."""
        found: Any = await self._client.xrange(stream_key(self._prefix, job), first, last)
        return list(found)

    async def delete(self, job: str) -> None:
        """Delete the stream of a deleted job; one that is not reached expires by itself."""
        try:
            await self._client.delete(stream_key(self._prefix, job))
        except RedisError as error:
            log.warning("delta stream not deleted, it will expire", job=job, error=str(error))

    def close(self) -> None:
        """Let `run` end. Cancelling it is not enough: redis-py may miss that in the middle of a read."""
        self._closed = True
        self._joined.set()

    async def run(self) -> None:
        """Read until closed, through errors."""
        while not self._closed:
            if not self._subscriptions:
                self._joined.clear()
                await self._joined.wait()
                continue
            try:
                await self._read()
            except RedisError as error:
                log.warning("delta streams can't be read, trying again", error=str(error))
                await asyncio.sleep(ERROR_DELAY_S)
            except Exception:  # without this reader no stream would get another delta
                log.exception("delta reader failed, trying again")
                await asyncio.sleep(ERROR_DELAY_S)

    async def _read(self) -> None:
        positions: dict[Any, Any] = {
            key: min((one.position for one in some), key=_order) for key, some in self._subscriptions.items()
        }
        positions[self._wake_key] = self._wake_after
        found: Any = await self._client.xread(positions, count=XREAD_COUNT, block=XREAD_BLOCK_MS)
        for key, entries in found:
            if key == self._wake_key:
                self._wake_after = entries[-1][0]
                continue
            for subscription in tuple(self._subscriptions.get(key, ())):
                subscription.deliver(entries)

    def _wake(self) -> None:
        """End the present read, which does not know a subscription that joined after its start."""
        self._joined.set()
        self._wake_wanted = True
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._write_wake())

    async def _write_wake(self) -> None:
        try:
            while self._wake_wanted:
                self._wake_wanted = False
                async with self._client.pipeline(transaction=False) as pipe:
                    pipe.xadd(self._wake_key, {"wake": ""}, maxlen=1, approximate=False)
                    pipe.expire(self._wake_key, WAKE_TTL_S)
                    await pipe.execute()
        except RedisError as error:
            log.warning("delta reader not woken, a new stream starts with a delay", error=str(error))


def _order(id: str) -> tuple[int, int]:
    """Return the id of an entry as numbers, which sort as the server sorts them."""
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence)
