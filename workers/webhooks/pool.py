"""The threads that deliver webhooks, woken by hints and by notifications of the store."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from workers.webhooks.dispatcher import MAX_PER_HINT

log = structlog.get_logger(__name__)


class DeliveryPool:
    """Calls `deliver_due` on `threads` threads, whoever wakes them: they bound the attempts under way."""

    def __init__(self, deliver_due: Callable[[str], int], threads: int) -> None:
        self._deliver_due = deliver_due
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="delivery")
        self._lock = threading.Lock()
        self._waiting = 0  #: wakes that no thread has taken up
        self._closed = False

    def run(self, hint: str) -> None:
        """Deliver what is due on `hint`, and return then: Celery acknowledges the hint after it."""
        self._executor.submit(self._deliver_due, hint).result()

    def wake(self) -> None:
        """Let a thread deliver what is due.

        A thread claims until nothing is due, so as many wakes as there are threads cover any number of deliveries.
        """
        with self._lock:
            if self._closed or self._waiting == self._threads:
                return
            self._waiting += 1
            self._executor.submit(self._follow)

    def close(self) -> None:
        """Begin nothing more, and return when the attempts under way have ended."""
        with self._lock:
            self._closed = True
        self._executor.shutdown()

    def _follow(self) -> None:
        with self._lock:
            self._waiting -= 1  # before the claim: a delivery created after it needs another wake
        try:
            if self._deliver_due("") == MAX_PER_HINT:
                self.wake()
        except Exception:  # nobody reads the result of this call; the reconciler repeats the hint
            log.exception("deliveries interrupted")
