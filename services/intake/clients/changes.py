"""One ear on the store's channel of changes, for everybody here who waits for a job or a message.

A lost word costs a waiter two seconds: each looks again by itself.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.events import changes_channel

LOOK_AGAIN = 2.0  #: seconds after which a waiter looks without having heard anything
log = structlog.get_logger(__name__)


class Watch:
    """Somebody who waits for one id."""

    def __init__(self, changes: "Changes", look_again: float) -> None:
        self._changes = changes
        self._look_again = look_again
        self._looked = time.monotonic()
        self._event = asyncio.Event()
        self._heard = False

    def wake(self) -> None:
        """Say that it may have changed."""
        self._heard = True
        self._event.set()

    def nudge(self) -> None:
        """End the wait for another reason."""
        self._event.set()

    async def changed(self, within: float) -> bool:
        """Wait `within` seconds at most; tell whether it is time to look."""
        due = self._looked + self._look_again - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(within, due))):
                await self._event.wait()
        self._event.clear()
        now = time.monotonic()
        if not (self._heard or now - self._looked >= self._look_again):
            return False
        self._heard, self._looked = False, now
        return True

    @property
    def closed(self) -> bool:
        """Whether the service shuts down, so that nobody should wait any longer."""
        return self._changes.closed


class Changes:
    """Listens while `run` runs."""

    def __init__(self, client: "Redis", prefix: str, look_again: float = LOOK_AGAIN) -> None:
        self._client = client
        self._channel = changes_channel(prefix)
        self._look_again = look_again
        self._watches: dict[str, set[Watch]] = {}
        self.closed = False

    @contextmanager
    def watch(self, id: str) -> Iterator[Watch]:
        """Hear of changes of `id` for as long as the block lasts; none since its begin is missed."""
        watch = Watch(self, self._look_again)
        self._watches.setdefault(id, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[id]
            watches.discard(watch)
            if not watches:
                del self._watches[id]

    def close(self) -> None:
        """Let everybody go."""
        self.closed = True
        self._wake_all()

    async def run(self) -> None:
        """Listen until closed, through broken connections."""
        while not self.closed:
            try:
                await self._listen()
            except RedisError as error:
                log.warning("no word of changes, waiters look by themselves", error=str(error))
                await asyncio.sleep(1)

    async def _listen(self) -> None:
        async with self._client.pubsub() as ear:
            await ear.subscribe(self._channel)
            self._wake_all()  # what was said before is not heard any more
            while not self.closed:
                message = await ear.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    for watch in self._watches.get(str(message["data"]), ()):
                        watch.wake()

    def _wake_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()
