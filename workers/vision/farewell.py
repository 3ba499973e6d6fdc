"""How a worker goes: it takes nothing more, what runs may end, what is left is given back uncharged.

    SIGTERM ──> stopping ── grace ──> drop the rest ── they leave the engine, release ──> gone
    SIGTERM again: no grace             └─ a thread does not come back: release for it, end the process

Threads can't be killed, and Celery's warm shutdown waits for every one of them: so it must be seen to that they end.
"""

import os
import threading
import time

import structlog

from shared.errors import QueueUnavailable
from shared.store import transitions
from shared.store.client import Store
from workers.vision.engine.base import Engine
from workers.vision.hands import Hands

LEAVE = 2.0  #: seconds for a dropped job to leave the engine
END = 2.5  #: seconds for the process to end after its jobs
LOOK = 0.05  #: seconds between two looks

log = structlog.get_logger(__name__)


class Farewell(threading.Thread):
    """Waits for the first signal, then brings the worker to its end."""

    def __init__(self, store: Store, hands: Hands, engine: Engine, grace: float) -> None:
        super().__init__(name="farewell", daemon=True)
        self.stopping = threading.Event()  #: from here on nothing is claimed
        self.over = threading.Event()  #: the process ends by itself
        self._hurry = threading.Event()
        self._store = store
        self._hands = hands
        self._engine = engine
        self._grace = grace

    def begin(self) -> None:
        """Go; called again, go at once. Safe in a signal handler."""
        if self.stopping.is_set():
            self._hurry.set()
        self.stopping.set()

    def run(self) -> None:
        """Wait for `begin`, and see to it that the process ends."""
        self.stopping.wait()
        log.info("stopping", jobs=len(self._hands.all()), grace=self._grace)
        if not self._emptied(self._grace, self._hurry):
            self.give_back()
        if not self.over.wait(END):
            log.error("the process does not end by itself")
            os._exit(0)

    def give_back(self) -> None:
        """Drop what is still held; release in their stead those whose threads don't come back."""
        for held in self._hands.all():
            held.drop("release")
            self._engine.cancel(held.key)
        if self._emptied(LEAVE):
            return
        for held in self._hands.all():
            log.error("a job does not leave the engine, given back all the same", job=held.job.id)
            try:
                self._store.run(transitions.release(held.job.id, held.job.attempt))
            except QueueUnavailable as error:
                log.warning("not given back, its lease will end", job=held.job.id, error=error.detail)

    def _emptied(self, seconds: float, hurry: threading.Event | None = None) -> bool:
        """Wait until nothing is held any more; False when time is up or somebody hurries."""
        until = time.monotonic() + seconds
        while self._hands.all():
            if time.monotonic() > until or (hurry and hurry.is_set()):
                return False
            time.sleep(LOOK)
        return True
