"""A process that is restarted with backoff whenever it ends."""

import time

from services.cli.local.process import Process

_PROBE_INTERVAL_S = 0.5  # of a process that its stage does not wait for
_STUCK_INTERVAL_S = 10.0  # between two looks at whether only a restart helps
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0
_BACKOFF_RESET_S = 60.0  # a process that ran this long has its backoff reset


class SupervisorError(Exception):
    """A process could not be started; the message says which one and why."""


class RestartingProcess:
    """A process with its readiness, failures and time of the next start."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._started = 0.0
        self._restart_at: float | None = None
        self._failures = 0
        self._was_ready = False
        self._missing = ""
        self._probe_at = 0.0
        self._stuck_at = 0.0

    def start(self) -> None:
        """Start the process."""
        self._started = time.monotonic()
        self._restart_at = None
        self._stuck_at = self._started + _STUCK_INTERVAL_S
        self.process.start()

    def ready(self) -> bool:
        """Return whether its probe has succeeded once; a process that is not awaited counts as ready."""
        return not self.process.program.awaited or self._probe()

    def _probe(self) -> bool:
        if not self._was_ready:
            self._missing = self.process.program.probe()
            self._was_ready = not self._missing
        return self._was_ready

    def refuse_failure(self, began: float) -> None:
        """Raise `SupervisorError` where the first start failed: the process ended, or `start_within` passed."""
        if (code := self.process.exit_code()) is not None:
            raise SupervisorError(self._with_log(f"{self.process.name} {_ended(code)} while starting"))
        if time.monotonic() - began > self.process.program.start_within:
            limit = self.process.program.start_within
            raise SupervisorError(self._with_log(f"{self.process.name} not ready within {limit:g} s: {self._missing}"))

    def check(self) -> str:
        """Restart the process if it ended and its backoff passed; return a line for the user, or ""."""
        if not self._started or not (self._was_ready or not self.process.program.awaited):
            return ""
        if self._restart_at is not None:
            return self._restart() if time.monotonic() >= self._restart_at else ""
        code = self.process.exit_code()
        if code is not None:
            return self._with_log(self._back_off(_ended(code)))
        if not self._was_ready and time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBE_INTERVAL_S
            return f"{self.process.name} up in {time.monotonic() - self._started:.1f} s" if self._probe() else ""
        return self._end_stuck() if self._was_ready and time.monotonic() >= self._stuck_at else ""

    def _end_stuck(self) -> str:
        self._stuck_at = time.monotonic() + _STUCK_INTERVAL_S
        if reason := self.process.program.stuck():
            self.process.terminate()
            return f"{self.process.name} is stopped, to be started again: {reason}"
        return ""

    def _restart(self) -> str:
        try:
            self.start()
        except OSError as error:  # a full disk, for example: the others go on, and it is tried again
            return self._back_off(f"can't start: {error}")
        return ""

    def _back_off(self, reason: str) -> str:
        self._failures = 0 if time.monotonic() - self._started > _BACKOFF_RESET_S else self._failures
        delay = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._failures)
        self._failures += 1
        self._restart_at = time.monotonic() + delay
        return f"{self.process.name} {reason}; restarts in {delay:g} s"

    def _with_log(self, message: str) -> str:
        tail = self.process.log_tail(6).replace("\n", "\n    ")
        return f"{message}; the end of {self.process.log}:\n    {tail}" if tail else message


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
