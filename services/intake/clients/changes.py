"""One pub/sub subscription to the store's changes, shared by everybody who waits for a job or a message.

If a notification is lost, waiters poll every `POLL_S`.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.events import changes_channel
from shared.jobs import State

MAX_RECENT = 4096  #: jobs that ended last, of which a waiter that comes too late is notified at once
POLL_S = 2.0  #: after which a waiter reads again without a notification
log = structlog.get_logger(__name__)


class Subscription:
    """One waiter for the changes of one id."""

    def __init__(self, changes: "Changes", poll_s: float, *, ends_only: bool) -> None:
        self._changes = changes
        self.ends_only = ends_only
        self._poll_s = poll_s
        self._read_at = time.monotonic()
        self._event = asyncio.Event()
        self._notified = False

    def notify(self) -> None:
        """Tell the waiter that its id may have changed."""
        self._notified = True
        self._event.set()

    def interrupt(self) -> None:
        """End the present wait for another reason."""
        self._event.set()

    async def changed(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s`; tell whether it is time to read the id again."""
        due = self._read_at + self._poll_s - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(timeout_s, due))):
                await self._event.wait()
        self._event.clear()
        now = time.monotonic()
        if not (self._notified or now - self._read_at >= self._poll_s):
            return False
        self._notified, self._read_at = False, now
        return True

    @property
    def closed(self) -> bool:
        """Whether the service shuts down, so that waiting must end."""
        return self._changes.closed


class Changes:
    """Notifies subscriptions while `run` runs."""

    def __init__(self, client: "Redis", prefix: str, poll_s: float = POLL_S) -> None:
        self._client = client
        self._channel = changes_channel(prefix)
        self._poll_s = poll_s
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._ended: dict[str, None] = {}  #: ids of the `MAX_RECENT` last ends, in order
        self.closed = False

    @contextmanager
    def watch(self, id: str, *, ends_only: bool = False) -> Iterator[Subscription]:
        """Subscribe to changes of `id`, or only to its end, for as long as the block lasts.

        An end shortly before counts too, so that one who knows the job as it was accepted need not read it again.
        """
        subscription = Subscription(self, self._poll_s, ends_only=ends_only)
        if id in self._ended:
            subscription.notify()
        self._subscriptions.setdefault(id, set()).add(subscription)
        try:
            yield subscription
        finally:
            remaining = self._subscriptions[id]
            remaining.discard(subscription)
            if not remaining:
                del self._subscriptions[id]

    @property
    def waiting(self) -> int:
        """Number of ids with a waiter."""
        return len(self._subscriptions)

    def close(self) -> None:
        """End every wait."""
        self.closed = True
        self._notify_all()

    async def run(self) -> None:
        """Listen until closed; a broken connection is opened again."""
        while not self.closed:
            try:
                await self._listen()
            except RedisError as error:
                log.warning("subscription to changes lost, waiters poll", error=str(error))
                await asyncio.sleep(1)

    async def _listen(self) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            self._notify_all()  # a change before the subscription was not notified
            while not self.closed:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    self._notify(str(message["data"]))

    def _notify(self, change: str) -> None:
        """Notify of a `change`: an id, and the new state where that is what changed."""
        id, _, state = change.partition(" ")
        ended = bool(state) and State(state).terminal
        if ended:
            self._ended[id] = None
            if len(self._ended) > MAX_RECENT:
                del self._ended[next(iter(self._ended))]
        for subscription in self._subscriptions.get(id, ()):
            if ended or not subscription.ends_only:
                subscription.notify()

    def _notify_all(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.notify()
