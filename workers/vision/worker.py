"""The way of a job: claim, read, fetch, tile, ask, store, finish.

A hint says only that there is work; the claim decides which. Whatever happens on the way is one `Ending`, and the
store's fence decides whether it still counts.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from shared.broker import Hints
from shared.errors import Permanent, QueueUnavailable, StorageDown, Transient
from shared.jobs import Job
from shared.requests import Manifest, Request
from shared.settings import Settings
from shared.storage import ObjectStorage, manifest_key, result_key
from shared.store import transitions
from shared.store.client import Store
from shared.store.command import StoreCommand, TransitionResult
from workers.vision import endings, results
from workers.vision.asking import ask, question
from workers.vision.deltas import Deltas
from workers.vision.endings import Ending
from workers.vision.engine.base import Done
from workers.vision.engine.factory import Served
from workers.vision.hands import Dropped, Hands, Held
from workers.vision.images import Images, read

PER_HINT = 50  #: jobs that one hint may lead to, so that its message is acknowledged in time
PAUSE = 0.5  #: seconds between two tries to tell the store
LAST_DELTAS = 1.0  #: seconds a job waits for its last text to be out; losing it costs no job
VIEWS = 10.0  #: seconds a job waits until what the model saw is stored; losing it costs no job

log = structlog.get_logger(__name__)
CLAIMS = Counter("tileq_vision_claims_total", "Claims by what they brought: job, nothing, unavailable", ["outcome"])
ATTEMPTS = Counter("tileq_vision_attempts_total", "Attempts by how they ended", ["outcome"])
DROPPED_HINTS = Counter("tileq_vision_dropped_hints_total", "Hints that led to no job: somebody was faster")


@dataclass(frozen=True)
class Worker:
    """What the way of a job needs. Safe to call from as many threads as the engine has slots."""

    name: str
    settings: Settings
    store: Store
    objects: ObjectStorage
    hints: Hints
    served: Served
    images: Images
    deltas: Deltas
    hands: Hands
    stopping: threading.Event

    def look(self, hint: str) -> int:
        """Follow a hint: work while there is work, within bounds. Returns how many jobs that were."""
        if self.stopping.is_set():
            self.hints.job(self.served.model.id, hint)  # somebody else's now
            return 0
        for done in range(PER_HINT):
            if self.stopping.is_set() or not self._next():
                DROPPED_HINTS.inc(not done)
                return done
        return PER_HINT

    def _next(self) -> bool:
        asked = time.monotonic()
        job = self._claim()
        if job is None:
            return False
        with self.hands.hold(job, asked + self.settings.lease) as held, _named(job):
            self._end(held, self._attempt(held))
        return True

    def _claim(self) -> Job | None:
        try:
            claimed = self.store.run(transitions.claim(self.served.model.id, self.name, self.settings.lease))
        except QueueUnavailable as error:
            CLAIMS.labels("unavailable").inc()
            log.warning("no claim, the reconciler will repeat the hint", error=error.detail)
            return None
        self.hints.deliveries(*claimed.messages)
        CLAIMS.labels("job" if claimed.value else "nothing").inc()
        return claimed.value

    def _attempt(self, held: Held) -> Ending:
        try:
            return self._answer(held)
        except Dropped as drop:
            return endings.dropped(held, drop.why)
        except Permanent as error:
            return endings.failed(held, error)
        except Transient as error:
            log.warning("attempt failed, for now", code=error.code, error=error.detail)
            return endings.again(held, error, self.settings.retry_backoff)
        except Exception:
            log.exception("attempt failed in a way nobody thought of")
            return endings.broken(held)

    def _answer(self, held: Held) -> Ending:
        request = self._read(held.job)
        with held.stage("fetch"):
            data = self.images.fetch(held, request.images)
        with held.stage("tile"):
            tiled = self.images.tile(held, request.images, data, request.thumbnail)
        views = self.images.show(held.job.id, tiled)
        stream = self.deltas.stream(held.job.id, held.job.attempt)
        done = ask(self.served.engine, held, question(self.served, held, request, tiled), stream)
        written = stream.flush()
        ending = self._store(held, done)
        written.wait(LAST_DELTAS)
        wait(views, VIEWS)
        return ending

    def _read(self, job: Job) -> Request:
        if job.request:
            return Request.model_validate_json(job.request)
        return Manifest.model_validate_json(read(self.objects, manifest_key(job.id))).request

    def _store(self, held: Held, done: Done) -> Ending:
        key = result_key(held.job.id, held.job.attempt)
        result, fields = results.write(held, done)
        try:
            self.objects.put(key, result, "application/json")
        except StorageDown as error:
            raise Transient("storage_unavailable", error.detail) from error
        return endings.succeeded(held, {"result": key, **fields})

    def _end(self, held: Held, ending: Ending) -> None:
        outcome = (ending.call and self._told(held, ending.call)) or ending.outcome
        if outcome == "released":
            self.hints.job(self.served.model.id, held.job.id)
        if outcome == "succeeded":
            results.count(held)
        ATTEMPTS.labels(outcome).inc()
        log.info("attempt ended", outcome=outcome, seconds=round(held.age, 3))

    def _told(self, held: Held, call: StoreCommand[TransitionResult[Any]]) -> str | None:
        """Tell the store how the attempt ends, until the lease is over. Returns what became of it if not that."""
        while True:
            try:
                moved = self.store.run(call)
            except QueueUnavailable as error:
                if time.monotonic() + PAUSE > held.lease_ends:
                    log.error("given up, somebody else will have the job", error=error.detail)
                    return "abandoned"
                time.sleep(PAUSE)
            else:
                self.hints.deliveries(*moved.messages)
                return None if moved.value else "lease_lost"


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Name the job in every line that is logged meanwhile."""
    names = {"job": job.id, "attempt": job.attempt} | ({"traceparent": job.trace} if job.trace else {})
    with structlog.contextvars.bound_contextvars(**names):
        yield
