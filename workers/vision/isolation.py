"""Attempts that run alone in their worker: the last ones of jobs that had lost a worker before.

A job that kills its workers costs every job beside it an attempt. So that it takes none of them along to `worker_lost`,
its last attempt and theirs wait until no other runs in the worker, and none begins before they have ended. One that
waits is marked so in the store (`Worker._alone`), which does not charge it where the worker is lost before it runs.

    enter ──> claim ─┬─ runs together ───────────────────────┬─> leave
                     └─ alone: waits for the others ─ runs ──┘
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

POLL_INTERVAL_S = 0.05  #: between two looks at what ends a wait besides the other attempts

log = structlog.get_logger(__name__)


class Isolation:
    """The attempts of one worker: any number together, or one alone. Safe to share between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0  #: attempts that entered, without those that wait to run alone
        self._alone = False  #: one of them runs alone
        self.waiting = 0  #: attempts that wait to run alone

    def enter(self, stopping: threading.Event) -> bool:
        """Take a place for an attempt once none is to run alone; False, without one, when `stopping` is set."""
        with self._changed:
            while not stopping.is_set():
                if not (self._alone or self.waiting):
                    self._together += 1
                    return True
                self._changed.wait(POLL_INTERVAL_S)
        return False

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._together -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self, check: Callable[[], None]) -> Iterator[None]:
        """Keep the attempt that entered alone while the block runs. What `check` raises ends its wait."""
        with self._changed:
            self.waiting += 1
            self._together -= 1
            self._changed.notify_all()
            try:
                log.info("the last attempt waits to run alone", beside=self._together)
                while self._together or self._alone:
                    check()
                    self._changed.wait(POLL_INTERVAL_S)
                self._alone = True
            finally:
                self.waiting -= 1
                self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
