"""An engine that answers at once with the question: for tests, and to measure everything around a model."""

import threading
import time
from collections.abc import Iterator

from workers.vision.engine.base import Delta, Done, EngineRequest, Event, Stage
from workers.vision.engine.errors import Cancelled
from workers.vision.engine.stats import EngineStats

MAX_QUESTION_CHARACTERS = 200  #: of the question that come back


class EchoEngine:
    """Answers `echo: ` and the question, one word a token, each after `seconds_per_token`."""

    slots = 32

    def __init__(self, seconds_per_token: float = 0) -> None:
        self._seconds = seconds_per_token
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}
        self._finished = self._tokens = 0

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """Yield the question's words; see `Engine`."""
        cancelled = threading.Event()
        with self._lock:
            self._running[request.id] = cancelled
        try:
            yield from self._answer(request, cancelled)
        finally:
            with self._lock:
                del self._running[request.id]

    def cancel(self, request_id: str) -> None:
        """Stop before the next word."""
        with self._lock:
            event = self._running.get(request_id)
        if event:
            event.set()

    def stats(self) -> EngineStats:
        """Return the requests in it and the words generated."""
        with self._lock:
            return EngineStats(running=len(self._running), finished=self._finished, generated_tokens=self._tokens)

    def close(self) -> None:
        """Cancel everything."""
        with self._lock:
            for event in self._running.values():
                event.set()

    def _answer(self, request: EngineRequest, cancelled: threading.Event) -> Iterator[Event]:
        began = time.perf_counter()
        if len(request.tiles):
            yield Stage("vision")
        yield Stage("prefill")
        yield Stage("decode")
        words = _words(f"echo: {request.prompt.question[:MAX_QUESTION_CHARACTERS]}".strip())
        said = words[: request.sampling.max_new_tokens]
        for count, word in enumerate(said, 1):
            if cancelled.wait(self._seconds) if self._seconds else cancelled.is_set():
                raise Cancelled
            yield Delta(word, count)
        with self._lock:
            self._finished += 1
            self._tokens += len(said)
        elapsed = time.perf_counter() - began
        yield Done(
            text="".join(said),
            finish_reason="stop" if len(said) == len(words) else "length",
            prompt_tokens=len(request.prompt.ids),
            image_tokens=request.prompt.image_tokens,
            cached_tokens=0,
            completion_tokens=len(said),
            timings={"vision": 0.0, "prefill": 0.0, "decode": elapsed, "first_token": 0.0},
        )


def _words(text: str) -> list[str]:
    """Split so that the parts join to `text` again: every word but the first brings its space along."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
