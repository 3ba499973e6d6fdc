"""In-flight job attempts of this worker: for each what it knows of its lease, its progress, and why it is to stop.

                       ┌─ cancel              the client cancelled the job
    track ── work ─────┼─ deadline_exceeded   run_within passed               the first reason counts
                       ├─ lease_lost          another attempt may have begun
                       ├─ release             this worker shuts down
                       └─ postpone            too many jobs wait here for images by URL

The job's own thread works. Heartbeat and shutdown give the reason from their threads; the job's thread sees it at its
next check.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram
from pydantic_core import to_json

from shared.jobs import Job
from shared.records import JobImage
from shared.store.command import StoreArgument

AbortReason = Literal["cancel", "deadline_exceeded", "lease_lost", "release", "postpone"]

RUNNING = Gauge("tileq_vision_running_jobs", "Job attempts in flight in this worker")
SECONDS = Histogram(
    "tileq_vision_stage_duration_seconds",
    "Seconds of each stage of a job, and in all since it was submitted",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


TOKENS = Counter("tileq_vision_tokens_total", "Tokens of answered jobs", ["kind"])


class AttemptAborted(Exception):
    """Work on this attempt has to stop; `reason` decides what becomes of the job."""

    def __init__(self, reason: AbortReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Attempt:
    """One attempt of one job. Times are seconds of `time.monotonic()`, unless they say that they are the store's."""

    def __init__(self, job: Job, lease_ends: float, slot: str = "", wait_s: float = 0) -> None:
        self.job = job
        self.slot = slot  #: that waits for another job for `wait_s` after this one, "" for none
        self.wait_s = wait_s
        self.key = f"{job.id}/{job.attempt}"  #: id in the engine, which may hold a stale attempt beside a new one
        self.claimed_at = time.monotonic()
        self.deadline = self.claimed_at + job.run_by - job.claimed
        self.lease_ends = lease_ends  #: at the earliest
        self.abort_reason: AbortReason | None = None
        self.aborted_at = 0.0
        self.progress: dict[str, StoreArgument] = {}  #: fields of the job's record
        self.images = list(job.images)  #: what is known of them so far
        self.timings = {"queue": max(0.0, job.claimed - job.created)}  #: seconds of each stage
        self._stage_ended = self.claimed_at
        self._reported: dict[str, StoreArgument] = {}
        self._images_lock = threading.Lock()

    def abort(self, reason: AbortReason) -> None:
        """Give the reason to stop; later reasons change nothing."""
        if self.abort_reason is None:
            self.aborted_at = time.monotonic()
            self.abort_reason = reason

    def check(self) -> None:
        """Raise `AttemptAborted` if work has to stop."""
        if time.monotonic() > self.deadline:
            self.abort("deadline_exceeded")
        if self.abort_reason is not None:
            raise AttemptAborted(self.abort_reason)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report and time the stage `name`, which begins where the one before ended: at first, at the claim.

        Raises `AttemptAborted` before or after it if work has to stop.
        """
        self.check()
        self.progress["stage"] = name
        yield
        now = time.monotonic()
        self.timings[name] = now - self._stage_ended
        self._stage_ended = now
        self.check()

    def time_engine(self, stages: Mapping[str, float]) -> None:
        """Add the seconds of the engine's stages; what else passed since the last stage was waiting for them."""
        now = time.monotonic()
        self.timings["engine_wait"] = max(0.0, now - self._stage_ended - sum(stages.values()))
        self.timings |= stages
        self.timings["total"] = self.timings["queue"] + now - self.claimed_at

    def note_image(self, n: int, seen: JobImage) -> None:
        """Add to the record what was learnt of image `n`; `bytes` of one that was fetched by URL are counted."""
        with self._images_lock:
            self.images[n] = self.images[n].model_copy(update=seen.model_dump(exclude_none=True))
            self.progress["images"] = to_json(self.images, exclude_none=True).decode()
            if seen.bytes:
                before = self.progress.get("fetched_bytes", self.job.fetched_bytes)
                self.progress["fetched_bytes"] = int(before) + seen.bytes

    @property
    def age(self) -> float:
        """Seconds since the job was submitted."""
        return self.timings["queue"] + time.monotonic() - self.claimed_at

    @property
    def store_time(self) -> float:
        """The present by the store's clock, seconds since the epoch."""
        return self.job.claimed + time.monotonic() - self.claimed_at

    def count_answered(self) -> None:
        """Add the stages and tokens of an answered job to the metrics."""
        for stage, seconds in self.timings.items():
            SECONDS.labels(stage).observe(seconds)
        for kind in ("prompt", "completion"):
            TOKENS.labels(kind).inc(float(self.progress[f"{kind}_tokens"]))

    def unreported(self) -> dict[str, StoreArgument]:
        """Return the progress that was not reported to the store yet."""
        return {name: value for name, value in list(self.progress.items()) if self._reported.get(name) != value}

    def mark_reported(self, progress: dict[str, StoreArgument]) -> None:
        """Note that `progress` was reported to the store."""
        self._reported.update(progress)


class InFlightJobs:
    """All attempts of this worker. Safe to share between threads."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()

    @contextmanager
    def track(self, job: Job, lease_ends: float, slot: str = "", wait_s: float = 0) -> Iterator[Attempt]:
        """Keep an attempt of `job` among the attempts in flight while the block runs."""
        attempt = Attempt(job, lease_ends, slot, wait_s)
        with self._lock:
            self._attempts[attempt.key] = attempt
        RUNNING.inc()
        try:
            yield attempt
        finally:
            RUNNING.dec()
            with self._lock:
                del self._attempts[attempt.key]

    def all(self) -> list[Attempt]:
        """Return the attempts of this moment."""
        with self._lock:
            return list(self._attempts.values())
