"""The jobs in this worker's hands: for each what it knows of its lease, how far it is, and whether to drop it.

                    ┌─ cancel    the client no longer wants it
    hold ── work ───┼─ late      run_within passed                      each once, the first word counts
                    ├─ stale     another attempt may have it by now
                    └─ release   this worker shuts down

The job's own thread works; the pulse and the shutdown say why to stop, and the job's thread hears it at its next check.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Gauge, Histogram

from shared.jobs import Job
from shared.store.command import StoreArgument

Why = Literal["cancel", "deadline_exceeded", "lease_lost", "release"]

RUNNING = Gauge("tileq_vision_running_jobs", "Jobs in this worker's hands")
SECONDS = Histogram(
    "tileq_vision_stage_seconds",
    "Seconds of each stage of a job, and in all since it was submitted",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


class Dropped(Exception):
    """Work on this attempt is to stop; `why` says what is to become of the job."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class Held:
    """One attempt of one job. The clock is this process' own; the store's is known from the moment of the claim."""

    def __init__(self, job: Job, lease_ends: float) -> None:
        self.job = job
        self.key = f"{job.id}/{job.attempt}"  #: in the engine, where a stale attempt may be beside a new one
        self.taken = time.monotonic()
        self.deadline = self.taken + job.run_by - job.claimed
        self.lease_ends = lease_ends  #: at the earliest
        self.why: Why | None = None
        self.dropped = 0.0  #: when `why` was said
        self.progress: dict[str, StoreArgument] = {}
        self.timings = {"queue": max(0.0, job.claimed - job.created)}
        self._told: dict[str, StoreArgument] = {}

    def drop(self, why: Why) -> None:
        """Say why to stop; later reasons change nothing."""
        if self.why is None:
            self.dropped = time.monotonic()
            self.why = why

    def check(self) -> None:
        """Raise `Dropped` if work is to stop."""
        if time.monotonic() > self.deadline:
            self.drop("deadline_exceeded")
        if self.why is not None:
            raise Dropped(self.why)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Be in the stage `name`, which takes what it takes; begin and end only if the job is still wanted."""
        self.check()
        self.progress["stage"] = name
        began = time.monotonic()
        yield
        self.timings[name] = time.monotonic() - began
        self.check()

    @property
    def age(self) -> float:
        """Seconds since the job was submitted."""
        return self.timings["queue"] + time.monotonic() - self.taken

    @property
    def now(self) -> float:
        """The time by the store's clock."""
        return self.job.claimed + time.monotonic() - self.taken

    def news(self) -> dict[str, StoreArgument]:
        """What of the progress the store has not heard."""
        return {name: value for name, value in list(self.progress.items()) if self._told.get(name) != value}

    def told(self, news: dict[str, StoreArgument]) -> None:
        """Note that the store has heard it."""
        self._told.update(news)


class Hands:
    """All of them. Safe to share between threads."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, job: Job, lease_ends: float) -> Iterator[Held]:
        """Hold `job` for as long as the block lasts."""
        held = Held(job, lease_ends)
        with self._lock:
            self._held[held.key] = held
        RUNNING.inc()
        try:
            yield held
        finally:
            RUNNING.dec()
            with self._lock:
                del self._held[held.key]

    def all(self) -> list[Held]:
        """The jobs held at this moment."""
        with self._lock:
            return list(self._held.values())
