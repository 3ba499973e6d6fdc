"""Several processes in one folder: started stage by stage, restarted when one dies, stopped in the opposite order.

    FOLDER/run/lock            held by the supervisor, its pid inside
    FOLDER/run/NAME.pid        one of each process; NAME.metrics beside it is the port of its /metrics
    FOLDER/logs/NAME.log

Everything happens in the one thread that calls `run`; `supervised` gives it a thread of its own.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.cli.local.leftovers import end_leftovers, remove_notes
from services.cli.local.process import Process, Program

Stages = Sequence[Sequence[Program]]

_PERIOD = 0.1  # between two looks at the processes
_PROBE_PERIOD = 0.5  # between two probes of a process that nobody waits for
_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 30.0
_STEADY = 60.0  # a process that ran this long starts its backoff anew
_HURRY = 1.0  # seconds that a second `stop` leaves


class SupervisorError(Exception):
    """The processes could not be brought up; says which and why."""


class Supervisor:
    """Keeps the programs of `stages` running in `folder`. `say` hears one line for each thing that happens."""

    def __init__(self, folder: Path, stages: Stages, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder.absolute()
        self._stages = [[Watched(Process(program, self._folder)) for program in stage] for stage in stages]
        self._say = say
        self._stops = 0

    def stop(self) -> None:
        """Make `run` stop everything and return; a second call kills what takes its time.

        Only counts: safe in a signal handler and from other threads.
        """
        self._stops += 1

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Start all, call `ready`, watch until `stop`, stop all. Raises `SupervisorError` if a start fails."""
        with locked(self._folder):
            for line in end_leftovers(self._folder):
                self._say(line)
            try:
                if self._start_all():
                    ready()
                while not self._stops:
                    self._watch()
                    time.sleep(_PERIOD)
            finally:
                self._stop_all()
                remove_notes(self._folder)

    def _start_all(self) -> bool:
        for stage in self._stages:
            for watched in stage:
                watched.start()
            names = ", ".join(watched.process.name for watched in stage if watched.process.program.awaited)
            began = time.monotonic()
            while missing := [watched for watched in stage if not watched.ready()]:
                if self._stops:
                    return False
                for watched in missing:
                    watched.refuse_failure(began)
                self._watch()
                time.sleep(_PERIOD / 2)
            self._say(f"{names} up in {time.monotonic() - began:.1f} s")
        return not self._stops

    def _watch(self) -> None:
        for stage in self._stages:
            for watched in stage:
                if news := watched.look():
                    self._say(news)

    def _stop_all(self) -> None:
        for stage in reversed(self._stages):
            processes = [watched.process for watched in stage]
            for process in processes:
                process.terminate()
            began = time.monotonic()
            while any(process.exit_code() is None and self._patience(process, began) > 0 for process in processes):
                time.sleep(_PERIOD / 5)
            for process in processes:
                process.finish()

    def _patience(self, process: Process, began: float) -> float:
        allowed = process.program.stop_within if self._stops < 2 else _HURRY
        return began + allowed - time.monotonic()


class Watched:
    """A process with its backoff."""

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


@contextmanager
def supervised(folder: Path, stages: Stages, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep the programs of `stages` running while the block runs, in a thread beside it."""
    supervisor = Supervisor(folder, stages, say)
    ready = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            supervisor.run(ready.set)
        except BaseException as error:  # handed to the caller's thread, whatever it is
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="supervisor")
    thread.start()
    try:
        ready.wait()
        if not failures:
            yield
    finally:
        supervisor.stop()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; `SupervisorError` names the one that holds it already."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    with (folder / "run" / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise SupervisorError(
                f"{folder} is in use by another `tileq up` (process {holder}); stop that one or give another --data"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
