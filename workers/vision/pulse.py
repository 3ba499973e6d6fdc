"""The worker's sign of life: one round trip for all its jobs, twice a second.

look      every `cancel_interval`: write progress down, hear of cancels, lost leases and deadlines
renew     every third of a lease the same round trip renews the leases too
announce  as often, apart: this worker serves this model

A lease that could not be renewed in time is taken for lost, even though nobody said so: the store can't be asked.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from prometheus_client import Counter

from shared.errors import QueueUnavailable
from shared.store import transitions
from shared.store.client import Store
from workers.vision.engine.base import Engine
from workers.vision.hands import Hands, Held

log = structlog.get_logger(__name__)
MISSED = Counter("tileq_vision_missed_beats_total", "Signs of life that the job store did not take")


class Presence:
    """What this worker tells the house of itself."""

    def __init__(self, store: Store, model: str, worker: str, card: Mapping[str, Any]) -> None:
        self._store = store
        self._model = model
        self._worker = worker
        self._card = card

    def announce(self, seconds: float) -> None:
        """Be there for the next `seconds`; 0: be gone."""
        self._store.run(transitions.register_worker(self._model, self._worker, self._card, seconds))


class Pulse(threading.Thread):
    """Beats until closed."""

    def __init__(
        self, store: Store, hands: Hands, engine: Engine, presence: Presence, *, lease: float, interval: float
    ) -> None:
        super().__init__(name="pulse", daemon=True)
        self._store = store
        self._hands = hands
        self._engine = engine
        self._presence = presence
        self._lease = lease
        self._interval = min(interval, lease / 3)
        self._renewal = 0.0  # when the next one is due
        self._closed = threading.Event()
        self._healthy = True

    def run(self) -> None:
        """Beat on, whatever happens: leases depend on it."""
        while not self._closed.is_set():
            self.attempt()
            self._closed.wait(self._interval)

    def close(self) -> None:
        """Stop, and say that this worker is gone."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._presence.announce(0)
        except QueueUnavailable as error:
            log.warning("could not sign off, the house will notice by itself", error=error.detail)

    def attempt(self) -> None:
        """Beat once; what the store does not take is made up for at the next beat."""
        try:
            self.beat()
        except QueueUnavailable as error:
            MISSED.inc()
            if self._healthy:
                log.warning("the job store does not take this worker's sign of life", error=error.detail)
            self._healthy = False
        except Exception:
            MISSED.inc()
            log.exception("beat failed")
        else:
            self._healthy = True
        self.drop()

    def beat(self) -> None:
        """Look after every job in hand; when it is time, renew the leases and announce this worker."""
        began = time.monotonic()
        renew = began >= self._renewal
        held = self._hands.all()
        if held:
            self._look(held, began, renew)
        if renew:
            self._presence.announce(self._lease)
            self._renewal = began + self._lease / 3

    def drop(self) -> None:
        """Give up what is past its deadline or its lease, and take what nobody wants out of the engine."""
        now = time.monotonic()
        for held in self._hands.all():
            if now > held.deadline:
                held.drop("deadline_exceeded")
            if now > held.lease_ends:
                held.drop("lease_lost")
            if held.why:
                self._engine.cancel(held.key)  # again and again: the first time it may not be in there yet

    def _look(self, held: Sequence[Held], began: float, renew: bool) -> None:
        news = [one.news() for one in held]
        words = [(one.job.id, one.job.attempt, new) for one, new in zip(held, news, strict=True)]
        verdicts = self._store.run(transitions.heartbeat(words, self._lease if renew else 0))
        for one, new, verdict in zip(held, news, verdicts, strict=True):
            one.told(new)
            if verdict in ("deadline_exceeded", "lease_lost"):
                one.drop(verdict)
            else:
                if renew:
                    one.lease_ends = began + self._lease
                if verdict == "cancel":
                    one.drop(verdict)
