"""The one thread that owns a device: requests come in from any thread, each step is its own, outcomes go out as events.

    submit ──> inbox ──> take in ─> step ─> take in ─> step … ──> events of each request

Between two steps it takes in what came and lets go of what was cancelled.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import torch

from workers.vision.engine.base import Done, EngineRequest, Event
from workers.vision.engine.errors import EngineClosed
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.stats import EngineStats

WORK = TypeVar("WORK")
Outcome = Done | Exception


class Core(Protocol[WORK]):
    """What the thread runs. All but `prepare` and `stats` is called by that thread only."""

    @property
    def busy(self) -> bool:
        """There is something to compute."""

    def prepare(self, handle: RequestHandle, arrival: int) -> WORK:
        """What `add` takes, made in the caller's thread. Raises `ContextExceeded`."""

    def add(self, work: WORK) -> None:
        """Take a request in."""

    def drop_unwanted(self, *, everything: bool = False) -> None:
        """End the cancelled requests, or all of them, and those whose deadline has passed."""

    def step(self) -> None:
        """Compute for a while; leaves with errors of its requests, raises none."""

    def stats(self) -> EngineStats:
        """What the core itself knows of this moment."""


class EngineThread(Generic[WORK]):
    """See `Engine`."""

    def __init__(self, core: Core[WORK], slots: int) -> None:
        """`core` calls `_leave` with each outcome, and `_progress` whenever a part of a step is over."""
        self.slots = slots
        self._core = core
        self._changed = threading.Condition()  # guards what follows
        self._inbox: list[WORK] = []
        self._handles: dict[str, RequestHandle] = {}
        self._arrivals = 0
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """Queue the request at once; its events come as they are read."""
        handle = RequestHandle(request)
        with self._changed:
            if self._closed:
                raise EngineClosed
            self._handles[request.id] = handle
            self._arrivals += 1
            arrival = self._arrivals
        try:
            work = self._core.prepare(handle, arrival)
        except Exception as error:
            self._leave(handle, error)
            return handle.events()
        with self._changed:
            self._inbox.append(work)
            self._changed.notify()
        return handle.events()

    def cancel(self, request_id: str) -> None:
        """Cancel the request: its reader gets the end at once, and the device computes it for one more step at most."""
        with self._changed:
            if handle := self._handles.get(request_id):
                handle.cancel()
                self._changed.notify()

    def stats(self) -> EngineStats:
        """The figures of this moment."""
        with self._changed:
            stats = self._core.stats()
            return replace(
                stats,
                waiting=max(0, len(self._handles) - stats.running),
                busy_since=self._busy_since,
                memory_bytes=torch.cuda.memory_allocated() if torch.cuda.is_available() else None,
            )

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._changed:
            self._closed = True
            for handle in self._handles.values():
                handle.cancel()
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        while self._take_in():
            self._core.step()
        self._core.drop_unwanted(everything=True)

    def _take_in(self) -> bool:
        """Wait for work and sort out what is no longer wanted; False: the engine closes."""
        with self._changed:
            while not (self._closed or self._inbox or self._core.busy):
                self._busy_since = None
                self._changed.wait()
            for work in self._inbox:
                self._core.add(work)
            self._inbox.clear()
            self._busy_since = time.monotonic()
        self._core.drop_unwanted()
        return not self._closed

    def _progress(self) -> None:
        """A layer or a part of a step is over: a watchdog counts from here."""
        with self._changed:
            self._busy_since = time.monotonic()

    def _leave(self, handle: RequestHandle, outcome: Outcome) -> None:
        """Report the outcome; before the reader hears of it the request is in no figure."""
        with self._changed:
            # An id given twice: the later one stays cancellable.
            if self._handles.get(handle.request.id) is handle:
                del self._handles[handle.request.id]
            if not self._handles:
                self._busy_since = None
        handle.end(outcome)
