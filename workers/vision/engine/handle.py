"""A request inside an engine, seen from both sides: the caller reads events, the engine's thread writes them."""

import queue
import threading
import time
from collections.abc import Iterator

from workers.vision.engine.base import Delta, Done, EngineRequest, Event, Stage, StageName
from workers.vision.engine.errors import Cancelled, DeadlineExceeded


class RequestHandle:
    """State of one request between its caller and the engine's thread."""

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.timer = StageTimer()
        self._cancelled = threading.Event()
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()

    @property
    def cancelled(self) -> bool:
        """Whether the request was cancelled or its reader went away."""
        return self._cancelled.is_set()

    @property
    def late(self) -> bool:
        """Whether the request's deadline has passed."""
        return self.request.deadline is not None and time.monotonic() > self.request.deadline

    def cancel(self) -> None:
        """Raise `Cancelled` at the reader now; the engine drops the request at its next step."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._events.put(Cancelled())

    def check(self) -> None:
        """Raise `Cancelled` if the request was cancelled, `DeadlineExceeded` if its deadline passed."""
        if self.cancelled:
            raise Cancelled
        if self.late:
            raise DeadlineExceeded

    def stage(self, name: StageName) -> None:
        """Report that a stage begins."""
        self.timer.enter(name)
        self._events.put(Stage(name))

    def delta(self, text: str, completion_tokens: int) -> None:
        """Report final text; an empty one is not reported."""
        if text:
            self._events.put(Delta(text, completion_tokens))

    def done(self, text: str, *, stopped: bool, completion_tokens: int, cached_tokens: int = 0) -> Done:
        """The answer: its text and figures; stops the timer."""
        prompt = self.request.prompt
        return Done(
            text=text,
            finish_reason="stop" if stopped else "length",
            prompt_tokens=len(prompt.ids),
            image_tokens=prompt.image_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            timings=self.timer.stop(),
        )

    def end(self, outcome: Done | Exception) -> None:
        """Report the answer, or the error that takes its place."""
        self._events.put(outcome)

    def events(self) -> Iterator[Event]:
        """Yield events up to `Done`; raises the error that ended the request. Leaving the iterator early cancels it."""
        try:
            while True:
                event = self._events.get()
                if isinstance(event, Exception):
                    raise event
                if self.cancelled:
                    raise Cancelled
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self._cancelled.set()


class StageTimer:
    """Seconds spent in each stage of one request, and until its first token."""

    def __init__(self) -> None:
        self._began = self._entered = 0.0
        self._stage = ""
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0, "first_token": 0.0}

    def enter(self, stage: StageName) -> None:
        """End the stage before and begin `stage`; `decode` begins with the first token."""
        now = time.perf_counter()
        self._began = self._began or now
        self._leave(now)
        self._stage, self._entered = stage, now
        if stage == "decode":
            self.timings["first_token"] = now - self._began

    def stop(self) -> dict[str, float]:
        """End the last stage and return the seconds of all stages."""
        self._leave(time.perf_counter())
        self._stage = ""
        return self.timings

    def _leave(self, now: float) -> None:
        if self._stage:
            self.timings[self._stage] += now - self._entered
