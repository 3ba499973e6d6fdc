"""Graceful shutdown: stop claiming, let running jobs finish, release the rest without charging an attempt.

    SIGTERM ──> stopping ── grace ──> abort the rest ── they leave the engine, release ──> exit
    SIGTERM again: no grace             └─ a thread does not return: release its job, end the process

Threads can't be killed and Celery's warm shutdown waits for every one of them, so this thread ends the process if they
don't return.
"""

import os
import threading
import time

import structlog

from shared.errors import QueueUnavailable
from shared.store import transitions
from shared.store.client import Store
from workers.vision.attempt import InFlightJobs
from workers.vision.engine.base import Engine

ENGINE_EXIT_TIMEOUT_S = 2.0  #: for aborted jobs to leave the engine
PROCESS_EXIT_TIMEOUT_S = 2.5  #: for the process to end after its jobs
POLL_INTERVAL_S = 0.05

log = structlog.get_logger(__name__)


class GracefulShutdown(threading.Thread):
    """Waits for the first request to stop, then brings the worker to its end."""

    def __init__(self, store: Store, jobs: InFlightJobs, engine: Engine, grace: float) -> None:
        super().__init__(name="shutdown", daemon=True)
        self.stopping = threading.Event()  #: from here on nothing is claimed
        self.finished = threading.Event()  #: the process ends by itself
        self._force = threading.Event()
        self._store = store
        self._jobs = jobs
        self._engine = engine
        self._grace = grace

    def request(self) -> None:
        """Begin to stop; a second call skips the grace period. Safe in a signal handler."""
        if self.stopping.is_set():
            self._force.set()
        self.stopping.set()

    def run(self) -> None:
        """Wait for `request`, then make sure that the process ends."""
        self.stopping.wait()
        log.info("stopping", jobs=len(self._jobs.all()), grace=self._grace)
        if not self._wait_until_empty(self._grace, self._force):
            self.release_remaining()
        if not self.finished.wait(PROCESS_EXIT_TIMEOUT_S):
            log.error("process does not end by itself")
            os._exit(0)

    def release_remaining(self) -> None:
        """Abort the attempts in flight; release those whose threads don't return in time in their place."""
        for attempt in self._jobs.all():
            attempt.abort("release")
            self._engine.cancel(attempt.key)
        if self._wait_until_empty(ENGINE_EXIT_TIMEOUT_S):
            return
        for attempt in self._jobs.all():
            log.error("job does not leave the engine, released all the same", job=attempt.job.id)
            try:
                self._store.run(transitions.release(attempt.job.id, attempt.job.attempt))
            except QueueUnavailable as error:
                log.warning("job not released, its lease will expire", job=attempt.job.id, error=error.detail)

    def _wait_until_empty(self, seconds: float, force: threading.Event | None = None) -> bool:
        """Wait until no attempt is in flight; False when `seconds` have passed or `force` is set."""
        until = time.monotonic() + seconds
        while self._jobs.all():
            if time.monotonic() > until or (force and force.is_set()):
                return False
            time.sleep(POLL_INTERVAL_S)
        return True
