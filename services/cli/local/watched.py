"""A process that is looked after: first start, readiness, death, backoff, next start."""

import time

from services.cli.local.process import Process

_PROBE_PERIOD = 0.5  # between two probes of a process that nobody waits for
_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 30.0
_STEADY = 60.0  # a process that ran this long starts its backoff anew


class SupervisorError(Exception):
    """The processes could not be brought up; says which and why."""


class Watched:
    """A process and how it has fared so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._started = 0.0
        self._restart_at: float | None = None
        self._failures = 0
        self._was_ready = False
        self._missing = ""
        self._probe_at = 0.0

    def start(self) -> None:
        """Start the process."""
        self._started = time.monotonic()
        self._restart_at = None
        self.process.start()

    def ready(self) -> bool:
        """Tell whether its probe was ever content; one that is not awaited counts as ready."""
        return not self.process.program.awaited or self._probe()

    def _probe(self) -> bool:
        if not self._was_ready:
            self._missing = self.process.program.probe()
            self._was_ready = not self._missing
        return self._was_ready

    def refuse_failure(self, began: float) -> None:
        """Raise if a first start failed: it ended, or its time is up."""
        if (code := self.process.exit_code()) is not None:
            raise SupervisorError(self._report(f"{self.process.name} {_ended(code)} while starting"))
        if time.monotonic() - began > self.process.program.start_within:
            limit = self.process.program.start_within
            raise SupervisorError(self._report(f"{self.process.name} not ready within {limit:g} s: {self._missing}"))

    def look(self) -> str:
        """Restart the process if it died and its backoff is over; return what is new, or ""."""
        if not self._started or not (self._was_ready or not self.process.program.awaited):
            return ""
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self.start()
            return ""
        code = self.process.exit_code()
        if code is not None:
            return self._back_off(code)
        if not self._was_ready and time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBE_PERIOD
            return f"{self.process.name} up in {time.monotonic() - self._started:.1f} s" if self._probe() else ""
        return ""

    def _back_off(self, code: int) -> str:
        self._failures = 0 if time.monotonic() - self._started > _STEADY else self._failures
        delay = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2**self._failures)
        self._failures += 1
        self._restart_at = time.monotonic() + delay
        return self._report(f"{self.process.name} {_ended(code)}; started again in {delay:g} s")

    def _report(self, what: str) -> str:
        words = self.process.last_words(6).replace("\n", "\n    ")
        return f"{what}; the end of {self.process.log}:\n    {words}" if words else what


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
