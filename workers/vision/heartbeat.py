"""Heartbeat of the worker: one round trip for all its jobs, twice a second.

report    every `cancel_interval`: write progress, learn of cancels, lost leases and deadlines
renew     every third of a lease the same round trip renews the leases too
register  as often, apart: this worker serves this model

A lease that could not be renewed in time counts as lost, although the store could not say so.
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
from workers.vision.attempt import Attempt, InFlightJobs
from workers.vision.engine.base import Engine

log = structlog.get_logger(__name__)
MISSED = Counter("tileq_vision_missed_heartbeats_total", "Heartbeats that the job store did not take")


class WorkerRegistration:
    """The worker's entry in the store: which model it serves, and with what."""

    def __init__(self, store: Store, model: str, worker: str, card: Mapping[str, Any]) -> None:
        self._store = store
        self._model = model
        self._worker = worker
        self._card = card

    def renew(self, seconds: float) -> None:
        """Keep the entry for `seconds`; 0 removes it. Raises `QueueUnavailable`."""
        self._store.run(transitions.register_worker(self._model, self._worker, self._card, seconds))


class Heartbeat(threading.Thread):
    """Reports and renews until closed."""

    def __init__(
        self,
        store: Store,
        jobs: InFlightJobs,
        engine: Engine,
        registration: WorkerRegistration,
        *,
        lease: float,
        interval: float,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._store = store
        self._jobs = jobs
        self._engine = engine
        self._registration = registration
        self._lease = lease
        self._interval = min(interval, lease / 3)
        self._renew_at = 0.0
        self._closed = threading.Event()
        self._healthy = True

    def run(self) -> None:
        """Tick until closed; no error ends the thread, since the leases depend on it."""
        while not self._closed.is_set():
            self.tick()
            self._closed.wait(self._interval)

    def close(self) -> None:
        """End the thread and remove the worker's registration."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._registration.renew(0)
        except QueueUnavailable as error:
            log.warning("failed to deregister; the registration expires on its own", error=error.detail)

    def tick(self) -> None:
        """Beat once and abort what has run out; the next beat makes up for one that the store did not take."""
        try:
            self._beat()
        except QueueUnavailable as error:
            MISSED.inc()
            if self._healthy:
                log.warning("heartbeat failed, the job store is unavailable", error=error.detail)
            self._healthy = False
        except Exception:
            MISSED.inc()
            log.exception("heartbeat failed")
        else:
            self._healthy = True
        self.abort_overdue()

    def abort_overdue(self) -> None:
        """Abort attempts past their deadline or lease, and cancel every aborted attempt in the engine."""
        now = time.monotonic()
        for attempt in self._jobs.all():
            if now > attempt.deadline:
                attempt.abort("deadline_exceeded")
            if now > attempt.lease_ends:
                attempt.abort("lease_lost")
            if attempt.abort_reason:
                self._engine.cancel(attempt.key)  # at every beat: at the first it may not have reached the engine yet

    def _beat(self) -> None:
        """Report all attempts; when due, renew their leases and the registration. Raises `QueueUnavailable`."""
        began = time.monotonic()
        renew = began >= self._renew_at
        attempts = self._jobs.all()
        if attempts:
            self._report(attempts, began, renew)
        if renew:
            self._registration.renew(self._lease)
            self._renew_at = began + self._lease / 3

    def _report(self, attempts: Sequence[Attempt], began: float, renew: bool) -> None:
        progress = [attempt.unreported() for attempt in attempts]
        reports = [(one.job.id, one.job.attempt, new) for one, new in zip(attempts, progress, strict=True)]
        verdicts = self._store.run(transitions.heartbeat(reports, self._lease if renew else 0))
        for attempt, new, verdict in zip(attempts, progress, verdicts, strict=True):
            attempt.mark_reported(new)
            if renew and verdict in ("ok", "cancel"):
                attempt.lease_ends = began + self._lease
            if verdict != "ok":
                attempt.abort(verdict)
