"""Threads can't be killed, so a process whose engine hangs ends itself; the supervisor and the leases do the rest."""

import os
import threading
import time

import structlog

from workers.vision.engine.base import Engine
from workers.vision.hands import Hands

log = structlog.get_logger(__name__)
STATUS = 70  #: exit status of a worker that gave itself up (EX_SOFTWARE)


class Watchdog(threading.Thread):
    """Looks at the engine's step in progress, and at jobs that were to leave it."""

    def __init__(self, engine: Engine, hands: Hands, stall: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._engine = engine
        self._hands = hands
        self._stall = stall

    def run(self) -> None:
        """Look on for as long as the process lives."""
        while not (found := self.hung()):
            time.sleep(min(1.0, self._stall / 4))
        log.critical("the engine hangs, this worker ends", reason=found, stall=self._stall)
        end_now()

    def hung(self) -> str | None:
        """Say what takes longer than `stall`, or None."""
        now = time.monotonic()
        try:
            since = self._engine.stats().busy_since
        except Exception as error:  # a dead device answers in its own ways
            return f"the engine can't tell its figures: {error}"
        if since is not None and now - since > self._stall:
            return f"a step has been in progress for {now - since:.0f} s"
        for held in self._hands.all():
            if held.why and now - held.dropped > self._stall:
                return f"{held.job.id} was to stop ({held.why}) {now - held.dropped:.0f} s ago"
        return None


def end_now() -> None:
    """End this process without waiting for anything; leases give its jobs to others."""
    os._exit(STATUS)
