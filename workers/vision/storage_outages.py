"""What a worker does while the object storage is down: attempts wait with what they have, and no job is claimed.

    call ─┬─ answered ──────────────────────────────────────────────────────────> go on
          └─ StorageDown ─ again every second, within the attempt ─┬─ answered ─> go on
                                                                   └─ HOLD_S ───> postpone, for a worker that reaches it

An outage charges no job an attempt. It does not start `run_within` of jobs either, because none is claimed meanwhile.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from prometheus_client import Counter

from shared.errors import StorageDown
from shared.storage import ObjectStorage
from workers.vision.attempt import Attempt

HOLD_S = 30.0  #: that an attempt waits for the storage before another worker may have the job
RETRY_INTERVAL_S = 1.0
ABORT_CHECK_INTERVAL_S = 0.1
PROBE_KEY = "models/probe"  #: below a prefix to which keys of a vision worker may write (infra/s3)

T = TypeVar("T")

log = structlog.get_logger(__name__)
FAILURES = Counter("tileq_vision_storage_failures_total", "Calls of the object storage that failed, each repeated")


class StorageOutages:
    """The object storage as one worker sees it. Safe to share between threads."""

    def __init__(
        self, objects: ObjectStorage, hold_s: float = HOLD_S, retry_interval_s: float = RETRY_INTERVAL_S
    ) -> None:
        self.objects = objects
        self._hold_s = hold_s
        self._retry_interval_s = retry_interval_s
        self._down = threading.Event()
        self._probing = threading.Lock()
        self._probe_at = 0.0  # by the monotonic clock: not before

    def outlast(self, attempt: Attempt, call: Callable[[], T]) -> T:
        """Return what `call` returns, repeated while it raises `StorageDown`.

        Raises `AttemptAborted` if work has to stop, or to postpone the attempt after `hold_s`.
        """
        give_up = None
        while True:
            try:
                return call()
            except StorageDown as error:
                self._down.set()
                FAILURES.inc()
                log.warning("the object storage is down, the attempt waits", error=error.detail)
                give_up = give_up or time.monotonic() + self._hold_s
            self._pause(attempt, give_up)

    def over(self, stopping: threading.Event) -> bool:
        """Wait until the storage takes an object again, for `hold_s` at most or until `stopping`; tell whether it does.

        Returns at once while no call has failed.
        """
        give_up = time.monotonic() + self._hold_s
        while self._down.is_set():
            self._probe()
            if self._down.is_set() and (stopping.wait(self._retry_interval_s) or time.monotonic() > give_up):
                return False
        return True

    def _probe(self) -> None:
        """Store a small object, unless a thread of this worker does so just now or did within the interval."""
        if not self._probing.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._probe_at:
                self.objects.put(PROBE_KEY, b"probe", "text/plain")
                self._down.clear()
        except StorageDown as error:
            self._probe_at = time.monotonic() + self._retry_interval_s
            log.warning("the object storage is down, no job is claimed", error=error.detail)
        finally:
            self._probing.release()

    def _pause(self, attempt: Attempt, give_up: float) -> None:
        again = time.monotonic() + self._retry_interval_s
        while (now := time.monotonic()) < again:
            if now > give_up:
                attempt.abort("postpone")
            attempt.check()
            time.sleep(min(ABORT_CHECK_INTERVAL_S, again - now))
