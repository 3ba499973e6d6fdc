"""A vision worker of the product, whose echo engine dies or hangs when a question asks for it, and whose clock jumps.

POISON in a question    the process kills itself in the middle of the attempt
SLOW in a question      the attempt takes a second longer
HANG in a question      the first attempt of each process never leaves its engine step
CHAOS_CLOCK             a file with seconds that are added to the wall clock (`time.time`)
"""

import os
import runpy
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shared import results
from workers.vision.engine import echo
from workers.vision.engine.base import EngineRequest, Event
from workers.vision.engine.stats import EngineStats

SLOW_S = 1.0


class ChaosEngine(echo.EchoEngine):
    """Obeys the words of the module's docstring."""

    _stuck_since: float | None = None

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """See `Engine`."""
        question = request.prompt.question
        if "POISON" in question:
            os.kill(os.getpid(), signal.SIGKILL)
        if "SLOW" in question:
            threading.Event().wait(SLOW_S)
        if "HANG" in question and not _hung_before(question):
            type(self)._stuck_since = time.monotonic()
            threading.Event().wait()
        yield from super().submit(request)

    def stats(self) -> EngineStats:
        """See `Engine`."""
        return replace(super().stats(), busy_since=self._stuck_since)


def _hung_before(question: str) -> bool:
    """Tell whether this question hung a worker already; the note outlives the process."""
    note = Path(os.environ["CHAOS_CLOCK"]).with_name(f"hung-{question.split()[1]}")
    seen = note.exists()
    note.touch()
    return seen


def _skew(file: Path) -> None:
    real = time.time

    def skewed() -> float:
        return real() + float(file.read_text() or 0)

    time.time = skewed


if __name__ == "__main__":
    results.MAX_INLINE_OUTPUT_BYTES = 100  # so that some answers of the echo engine are objects (LONG in traffic.py)
    _skew(Path(os.environ["CHAOS_CLOCK"]))
    echo.EchoEngine = ChaosEngine  # type: ignore[misc]  # before the engine's factory imports it
    runpy.run_module("workers.vision", run_name="__main__", alter_sys=True)
