"""Threads can't be killed, so a process whose engine hangs ends itself; the supervisor and the leases do the rest."""

import os
import threading
import time

import structlog

from workers.vision.attempt import InFlightJobs
from workers.vision.engine.base import Engine

log = structlog.get_logger(__name__)
EX_SOFTWARE = 70  #: exit status of a worker that ended itself (sysexits.h)
CHECK_INTERVAL_S = 1.0


class Watchdog(threading.Thread):
    """Ends the process when an engine step, or an aborted job that stays in the engine, takes too long.

    The limit is `stall` seconds, or what the engine says that its step may take on this device if that is longer.
    """

    def __init__(self, engine: Engine, jobs: InFlightJobs, stall: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._engine = engine
        self._jobs = jobs
        self._stall = stall

    def run(self) -> None:
        """Check for as long as the process lives."""
        while not (reason := self.stalled()):
            time.sleep(min(CHECK_INTERVAL_S, self._stall / 4))
        log.critical("engine hangs, this worker exits", reason=reason, stall=self._stall)
        exit_now()

    def stalled(self) -> str | None:
        """Say what takes too long, or return None."""
        now = time.monotonic()
        try:
            stats = self._engine.stats()
        except Exception as error:  # a lost device fails in its own ways
            return f"the engine's statistics can't be read: {error}"
        limit = max(self._stall, stats.step_allowance)
        if stats.busy_since is not None and now - stats.busy_since > limit:
            return f"an engine step has been in progress for {now - stats.busy_since:.0f} s; allowed: {limit:.0f} s"
        for attempt in self._jobs.all():
            if attempt.abort_reason and now - attempt.aborted_at > limit:
                return f"{attempt.job.id} was aborted ({attempt.abort_reason}) {now - attempt.aborted_at:.0f} s ago"
        return None


def exit_now() -> None:
    """End this process without waiting for anything; leases give its jobs to other workers."""
    os._exit(EX_SOFTWARE)
