"""Where the seconds of the steps go, and what the part of a step in progress should take."""

import time
from collections.abc import Callable

from workers.vision.engine.schedule import Schedule
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.transfers import Mark


class StepTimer:
    """Used by the engine's thread only."""

    def __init__(self, budget: StepBudget, *, waits: bool) -> None:
        """`waits`: the host computes nothing while it waits for the device; else they are one."""
        self._budget = budget
        self._waits = waits
        self._device_s = 0.0  # of this step: waited for, or computed in the host's own thread
        self.expected_s = 0.0  #: of the part of the step that is in progress
        self.seconds = {"vision": 0.0, "prefill": 0.0, "decode": 0.0, "host": 0.0}

    def expect(self, rows: int = 0, tiles: int = 0) -> None:
        """A part of a step begins."""
        self.expected_s = rows * self._budget.row_s + tiles * self._budget.tile_s

    def measure(self, schedule: Schedule, marks: tuple[Mark, Mark, Mark], progress: Callable[[], None]) -> None:
        """Wait for the device, and keep what the step's parts took, for the next step's budget too."""
        began, encoded, ended = marks
        self.expect(schedule.rows, len(schedule.tiles))
        waiting = time.perf_counter()
        ended.wait()
        self._device_s += time.perf_counter() - waiting if self._waits else ended.since(began)
        progress()
        if schedule.tiles:
            self.seconds["vision"] += (seconds := encoded.since(began))
            self._budget.took_tiles(len(schedule.tiles), seconds)
        if schedule.chunks:
            seconds = ended.since(encoded)
            self.seconds["decode" if schedule.rows == len(schedule.chunks) else "prefill"] += seconds
            if schedule.rows >= 2 * len(schedule.chunks):  # else it says nothing about prompts
                self._budget.took_rows(schedule.rows, seconds)

    def step_over(self, began: float) -> None:
        """A step that began at `time.perf_counter()` is over: what the device did not take was the host's."""
        self.seconds["host"] += max(0.0, time.perf_counter() - began - self._device_s)
        self._device_s = 0.0
