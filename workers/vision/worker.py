"""How a job is processed: claim, read, fetch, tile, generate, store, finish.

A hint says only that there is work; the claim decides which. Every attempt ends in one `Outcome`, and the store's fence
decides whether it still counts.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import structlog
from prometheus_client import Counter

from shared.broker import Publisher
from shared.ended import archive_ends
from shared.errors import ObjectMissing, Permanent, QueueUnavailable, StorageDown, Transient
from shared.jobs import Job
from shared.request_archive import read_manifest
from shared.requests import Request
from shared.settings.roles import VisionWorkerSettings
from shared.storage import result_key
from shared.store import transitions
from shared.store.client import Store
from shared.store.command import StoreCommand, TransitionResult
from shared.store.transitions import MANY_READY
from workers.vision import generation, outcomes
from workers.vision.affinity import CachedPrompts
from workers.vision.attempt import Attempt, AttemptAborted, InFlightJobs
from workers.vision.deltas import DeltaWriter
from workers.vision.engine.base import Done
from workers.vision.engine.factory import ServedModel
from workers.vision.images.pipeline import ImagePipeline, note_decoded
from workers.vision.images.url_images import UrlImages
from workers.vision.isolation import Isolation
from workers.vision.outcomes import Outcome
from workers.vision.shortage import shortage_of
from workers.vision.storage_outages import StorageOutages

MAX_JOBS_PER_HINT = 50  #: so that the hint's message is acknowledged in time
COMMIT_RETRY_DELAY_S = 0.5
DELTA_FLUSH_TIMEOUT_S = 1.0  #: that a finished job waits for its last deltas; losing them costs no job
PREVIEW_TIMEOUT_S = 10.0  #: that a finished job waits for its previews to be stored; losing them costs no job

#: What a slot does after a claim: another one, because a job may be ready; wait for one, as the store knows; return to
#: its hints.
Next = Literal["claim", "wait", "leave"]
CLAIM: Next = "claim"
WAIT: Next = "wait"
LEAVE: Next = "leave"
T = TypeVar("T")

log = structlog.get_logger(__name__)
CLAIMS = Counter("tileq_vision_claims_total", "Claims by result: job, nothing, unavailable", ["outcome"])
ATTEMPTS = Counter("tileq_vision_attempts_total", "Attempts by outcome", ["outcome"])
IDLE_HINTS = Counter("tileq_vision_idle_hints_total", "Hints that led to no job, because another worker was faster")


@dataclass(frozen=True)
class Worker:
    """Processes jobs of one model. Safe to call from as many threads as the engine has slots."""

    name: str
    settings: VisionWorkerSettings
    store: Store
    storage: StorageOutages
    hints: Publisher
    served: ServedModel
    images: ImagePipeline
    url_images: UrlImages
    deltas: DeltaWriter
    jobs: InFlightJobs
    stopping: threading.Event
    cached: CachedPrompts = field(default_factory=CachedPrompts)
    isolation: Isolation = field(default_factory=Isolation)
    wait_s: float = 0.5  #: that a slot waits for another job before it returns to its hints; 0: not at all

    def handle_hint(self, hint: str) -> int:
        """Process jobs while there are any, up to `MAX_JOBS_PER_HINT`; return how many.

        After the last ready job the slot waits for another one, which wakes it without a hint: to publish, deliver and
        acknowledge one takes as long as all the rest of a short job. If many jobs wait, the hint is passed on with the
        first claim, and with one after waiting, so that free slots follow although submissions publish none then. It is
        published again at the end, unless the store said that nothing waits, or many hints do.
        """
        slot = f"{self.name}/{threading.get_ident()}" if self.wait_s else ""
        rounds, done, then = 0, 0, CLAIM
        while then != LEAVE and rounds < MAX_JOBS_PER_HINT and self._may_begin():
            rounds += 1
            wait_s = self.wait_s if rounds < MAX_JOBS_PER_HINT else 0
            pass_on = hint if rounds == 1 or then == WAIT else ""
            try:
                processed, then = self._process_next(slot, wait_s, then == WAIT, pass_on)
            finally:
                self.isolation.leave()
            done += processed
        more = then == CLAIM or (then == WAIT and self._woken(slot))
        if more:
            self.hints.job(self.served.model.id, hint, unless_waiting=MANY_READY)
        IDLE_HINTS.inc(not (done or more))
        return done

    def _may_begin(self) -> bool:
        return self.storage.over(self.stopping) and self.isolation.enter(self.stopping)

    def _woken(self, slot: str) -> bool:
        """Let `slot` wait no longer; tell whether a submission woke it, which published no hint then."""
        try:
            return self.store.run(transitions.stop_waiting(self.served.model.id, slot))
        except QueueUnavailable as error:
            log.warning("wait for a job cut short", error=error.detail)
            return True

    def _process_next(
        self, slot: str = "", wait_s: float = 0, waited: bool = False, pass_on: str = ""
    ) -> tuple[bool, Next]:
        """Process a job if one is ready, or where `slot` waited, once one is; tell whether one was, and what is next.

        Where no other job is ready, `slot` waits for `wait_s` from the end of this one on.
        """
        asked = time.monotonic()
        try:
            claimed = self._claim(slot, wait_s, waited, pass_on)
        except QueueUnavailable as error:
            CLAIMS.labels("unavailable").inc()
            log.warning("claim failed, the reconciler will repeat the hint", error=error.detail)
            return False, LEAVE
        job = claimed.value
        if job is None:
            return False, WAIT if claimed.waits else LEAVE
        with self.jobs.track(job, asked + self.settings.lease, slot, wait_s) as attempt, _logged_as(job):
            if self.stopping.is_set():  # since the claim was sent
                attempt.abort("release")
            return True, self._finish(attempt, self._outcome(attempt))

    def _claim(self, slot: str, wait_s: float, waited: bool, pass_on: str) -> TransitionResult[Job | None]:
        """Claim a job, and publish the hint `pass_on` again if many jobs wait. Raises `QueueUnavailable`."""
        command = transitions.claim(
            self.served.model.id,
            self.name,
            self.settings.lease,
            self.cached.keys(),
            self.settings.affinity_window,
            slot,
            wait_s,
            waited,
        )
        claimed = self._run_when_woken(command, slot) if waited else self.store.run(command)
        self.hints.deliveries(*claimed.messages)
        CLAIMS.labels("job" if claimed.value else "nothing").inc()
        if claimed.more and pass_on:
            self.hints.job(self.served.model.id, pass_on)
        if claimed.value:
            self.cached.count_claim(claimed.value)
        return claimed

    def _run_when_woken(self, command: StoreCommand[T], slot: str) -> T:
        try:
            return self.store.run_when_woken(command, slot, self.wait_s)
        except QueueUnavailable as error:
            log.warning("wait for a job cut short", error=error.detail)
            return self.store.run(command)

    def _outcome(self, attempt: Attempt) -> Outcome:
        try:
            with self._alone(attempt) if attempt.job.suspect else nullcontext():
                return self._answer(attempt)
        except AttemptAborted as abort:
            return outcomes.aborted(attempt, abort.reason)
        except Permanent as error:
            return outcomes.failed(attempt, error)
        except Transient as error:
            return self._retry(attempt, error)
        except Exception as error:
            if shortage := shortage_of(error):
                return self._retry(attempt, shortage)
            log.exception("attempt failed with an unexpected error")
            return outcomes.internal_error(attempt)

    @contextmanager
    def _alone(self, attempt: Attempt) -> Iterator[None]:
        """Let an attempt wait until it runs alone. Where the worker is lost meanwhile, the store does not charge it."""
        self._report_waiting(attempt, True)
        with self.isolation.alone(attempt.check):
            self._report_waiting(attempt, False)
            yield

    def _report_waiting(self, attempt: Attempt, waits: bool) -> None:
        """Tell the store whether the attempt waits, before it does. Raises `AttemptAborted` if work has to stop."""
        report = (attempt.job.id, attempt.job.attempt, {"waits": int(waits)})
        try:
            (verdict,) = self.store.run(transitions.heartbeat([report], 0))
        except QueueUnavailable as error:
            log.warning("attempt released: the job store is unavailable before it runs alone", error=error.detail)
            attempt.abort("release")
        else:
            if verdict != "ok":
                attempt.abort(verdict)
        attempt.check()

    def _retry(self, attempt: Attempt, error: Transient) -> Outcome:
        log.warning("attempt failed with a transient error", code=error.code, error=error.detail)
        return outcomes.retry(attempt, error, self.settings.retry_backoff)

    def _answer(self, attempt: Attempt) -> Outcome:
        with attempt.stage("fetch"):
            request = self.storage.outlast(attempt, lambda: self._read(attempt.job))
            images = self.url_images.store(attempt, request.images)
            data = self.storage.outlast(attempt, lambda: self.images.fetch(attempt, images))
        with attempt.stage("tile"):
            tiled = self.images.tile(attempt, images, data, request.thumbnail)
        note_decoded(attempt, tiled)
        previews = self.images.store_previews(attempt.job.id, tiled)
        text = self.deltas.buffer(attempt.job.id, attempt.job.attempt)
        engine_request = generation.build_request(
            self.served, attempt, request, tiled, self.settings.prefix_cache_sharing
        )
        self.cached.add(attempt.job, len(engine_request.prompt.ids))
        done = generation.run(self.served.engine, attempt, engine_request, text)
        flushed = text.finish()
        outcome = self._store(attempt, done)
        flushed.wait(DELTA_FLUSH_TIMEOUT_S)
        wait(previews, PREVIEW_TIMEOUT_S)
        return outcome

    def _read(self, job: Job) -> Request:
        if job.request:
            return Request.model_validate_json(job.request)
        try:
            return read_manifest(self.storage.objects, job.id).request
        except ObjectMissing as error:
            raise Transient("storage_unavailable", error.detail) from error

    def _store(self, attempt: Attempt, done: Done) -> Outcome:
        result = outcomes.result_of(attempt, done)
        if attempt.job.seal and result.fits_record:
            return outcomes.succeeded(attempt, result, "")
        key, data = result_key(attempt.job.id, attempt.job.attempt), result.to_bytes()
        self.storage.outlast(attempt, lambda: self.storage.objects.put(key, data, "application/json"))
        return outcomes.succeeded(attempt, result, key)

    def _finish(self, attempt: Attempt, outcome: Outcome) -> Next:
        """Commit the outcome; tell what the slot does next."""
        name, then = outcome.name, CLAIM
        if outcome.transition:
            other, then = self._commit(attempt, outcome.transition)
            name = other or name
        if name == "released":
            self.hints.job(self.served.model.id, attempt.job.id)
        elif name == "succeeded":
            attempt.count_answered()
        elif outcome.transition and name not in ("lease_lost", "abandoned"):
            self._archive_end(attempt.job.id)
        ATTEMPTS.labels(name).inc()
        log.info("attempt ended", outcome=name, seconds=round(attempt.age, 3))
        return LEAVE if name == "released" else then

    def _archive_end(self, id: str) -> None:
        """Store the end of a job that was not answered; of one that is queued again there is none to store."""
        try:
            archive_ends(self.store, self.storage.objects, [id])
        except (QueueUnavailable, StorageDown) as error:
            log.warning("end of the job not stored, the reconciler will store it", error=error.detail)

    def _commit(
        self, attempt: Attempt, transition: StoreCommand[TransitionResult[Any]]
    ) -> tuple[Literal["abandoned", "lease_lost"] | None, Next]:
        """Commit a transition, repeating it until the lease expires.

        Returns the outcome if it is another one, and what the slot does next.
        """
        while True:
            try:
                result = self.store.run(transition)
            except QueueUnavailable as error:
                if time.monotonic() + COMMIT_RETRY_DELAY_S > attempt.lease_ends:
                    log.error(
                        "could not commit before the lease expired; another worker will retry", error=error.detail
                    )
                    return "abandoned", CLAIM
                time.sleep(COMMIT_RETRY_DELAY_S)
            else:
                self.hints.deliveries(*result.messages)
                then = CLAIM if result.more else WAIT if result.waits else LEAVE
                return (None if result.value else "lease_lost"), then


@contextmanager
def _logged_as(job: Job) -> Iterator[None]:
    """Add the job, its attempt and its trace to every line that is logged meanwhile."""
    names = {"job": job.id, "attempt": job.attempt} | ({"traceparent": job.trace} if job.trace else {})
    with structlog.contextvars.bound_contextvars(**names):
        yield
