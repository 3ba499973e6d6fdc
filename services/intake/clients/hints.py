"""Hints on their way out: never in the way of an answer, and never more than the broker takes."""

import queue
import threading
from typing import Protocol

import structlog

WAITING = 10_000  #: hints kept while the broker is slow; what does not fit the keeper repeats from the outbox
log = structlog.get_logger(__name__)


class HintsLike(Protocol):
    """`shared.tasks.Hints`, or a double of it."""

    def job(self, model: str, job: str) -> bool:
        """Say that `job` waits."""

    def deliveries(self, *messages: str) -> bool:
        """Say that webhook messages are due."""


class Post:
    """Publishes hints from a thread, in the order they came."""

    def __init__(self, hints: HintsLike) -> None:
        self._hints = hints
        self._waiting: queue.Queue[tuple[str, ...] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def close(self, within: float = 2.0) -> None:
        """Publish what waits, for at most `within` seconds."""
        if self._thread.is_alive():
            self._put(None)
            self._thread.join(within)

    def job(self, model: str, job: str) -> None:
        """Say that `job` waits."""
        self._put(("job", model, job))

    def deliveries(self, *messages: str) -> None:
        """Say that webhook messages are due."""
        if messages:
            self._put(("deliveries", *messages))

    def _put(self, hint: tuple[str, ...] | None) -> None:
        try:
            self._waiting.put_nowait(hint)
        except queue.Full:
            log.warning("hint left to the keeper, too many wait for the broker", hint=hint)

    def _run(self) -> None:
        while (hint := self._waiting.get()) is not None:
            kind, *rest = hint
            if kind == "job":
                self._hints.job(*rest)
            else:
                self._hints.deliveries(*rest)
