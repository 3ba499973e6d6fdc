"""The subscription to the store's deliveries, which become due at the moment when their event is committed.

A hint takes two more writes to a synced log before a dispatcher has it, its publisher's and its consumer's. While
nobody is subscribed the store leaves it to hints; a notification that is lost is made up for by the claims after each
subscribing, and by the reconciler.
"""

import threading
from collections.abc import Callable

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from shared.events import deliveries_channel
from shared.store.client import Store

POLL_S = 1.0  #: between two looks at whether to stop
RESUBSCRIBE_DELAY_S = 1.0

LOST = Counter("tileq_webhook_subscription_losses_total", "Subscriptions to new deliveries that failed or broke")
log = structlog.get_logger(__name__)


class DueSubscription(threading.Thread):
    """Calls `wake` for each delivery that is created, and after each subscribing, until `stop` is set."""

    def __init__(self, store: Store, wake: Callable[[], object], stop: threading.Event) -> None:
        super().__init__(name="due-subscription", daemon=True)
        self._client = store.client
        self._channel = deliveries_channel(store.prefix)
        self._wake = wake
        self._stopping = stop

    def run(self) -> None:
        """Listen; a broken subscription is made again."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except RedisError as error:
                LOST.inc()
                log.warning("subscription to deliveries lost; hints still arrive", error=str(error))
                self._stopping.wait(RESUBSCRIBE_DELAY_S)

    def _listen(self) -> None:
        with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe(self._channel)
            while not self._stopping.is_set():
                # A confirmation wakes too, also the one after a reconnection: what came before it was not notified.
                if pubsub.get_message(timeout=POLL_S) is not None:
                    self._wake()
