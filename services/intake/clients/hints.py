"""Publishes hints from a background thread through a bounded queue, so that requests never wait for the broker."""

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from services.intake.metrics import DROPPED_HINTS
from shared.broker import Publisher

MAX_WAITING = 10_000  #: hints kept while the broker is slow; the reconciler repeats what does not fit from the outbox
log = structlog.get_logger(__name__)


class HintPublisher:
    """Publishes hints in the order they came."""

    def __init__(self, publisher: Publisher, timeout_s: float = 5.0) -> None:
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._probe = ThreadPoolExecutor(1, thread_name_prefix="broker-probe")
        self._waiting: queue.Queue[tuple[str, ...] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="hint-publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Publish what waits, for at most `timeout_s`."""
        self._probe.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._put(None)
            self._thread.join(timeout_s)

    def job(self, model: str, job: str) -> None:
        """Publish that `job` waits."""
        self._put(("job", model, job))

    def deliveries(self, *messages: str) -> None:
        """Publish that webhook messages are due."""
        if messages:
            self._put(("deliveries", *messages))

    async def check(self) -> None:
        """Raise the reason where the broker takes no message within `timeout_s`; one probe at a time."""
        async with asyncio.timeout(self._timeout_s):
            await asyncio.get_running_loop().run_in_executor(self._probe, self._publisher.check)

    def _put(self, hint: tuple[str, ...] | None) -> None:
        try:
            self._waiting.put_nowait(hint)
        except queue.Full:
            DROPPED_HINTS.inc()
            log.warning("hint dropped, too many wait for the broker; the reconciler will repeat it", hint=hint)

    def _run(self) -> None:
        while (hint := self._waiting.get()) is not None:
            kind, *rest = hint
            if kind == "job":
                self._publisher.job(*rest)
            else:
                self._publisher.deliveries(*rest)
