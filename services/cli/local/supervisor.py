"""Several processes in one folder: started stage by stage, restarted when one dies, stopped in the opposite order.

    FOLDER/run/lock            held by the supervisor, its pid inside
    FOLDER/run/NAME.pid        one of each process; NAME.metrics beside it holds its health port
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

from services.cli.local.orphans import kill_orphans, remove_run_files
from services.cli.local.process import Process, Program
from services.cli.local.restarts import RestartingProcess, SupervisorError

Stages = Sequence[Sequence[Program]]

_POLL_INTERVAL_S = 0.1
_FORCED_STOP_S = 1.0  # between a second `stop` and SIGKILL


class Supervisor:
    """Keeps the programs of `stages` running in `folder`. `report` is called with one line for each event."""

    def __init__(self, folder: Path, stages: Stages, report: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder.absolute()
        self._stages = [[RestartingProcess(Process(program, self._folder)) for program in stage] for stage in stages]
        self._report = report
        self._stops = 0

    def stop(self) -> None:
        """Make `run` stop everything and return; a second call kills what does not stop.

        Safe in a signal handler and from other threads.
        """
        self._stops += 1

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, call `ready`, restart what ends until `stop`, stop everything.

        Raises `SupervisorError` where a first start fails.
        """
        with locked(self._folder):
            for line in kill_orphans(self._folder):
                self._report(line)
            try:
                if self._start_all():
                    ready()
                while not self._stops:
                    self._watch()
                    time.sleep(_POLL_INTERVAL_S)
            finally:
                self._stop_all()
                remove_run_files(self._folder)

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
                time.sleep(_POLL_INTERVAL_S / 2)
            self._report(f"{names} up in {time.monotonic() - began:.1f} s")
        return not self._stops

    def _watch(self) -> None:
        for stage in self._stages:
            for watched in stage:
                if line := watched.check():
                    self._report(line)

    def _stop_all(self) -> None:
        for stage in reversed(self._stages):
            processes = [watched.process for watched in stage]
            for process in processes:
                process.terminate()
            began = time.monotonic()
            while any(process.exit_code() is None and self._time_left(process, began) > 0 for process in processes):
                time.sleep(_POLL_INTERVAL_S / 5)
            for process in processes:
                process.finish()

    def _time_left(self, process: Process, began: float) -> float:
        allowed = process.program.stop_within if self._stops < 2 else _FORCED_STOP_S
        return began + allowed - time.monotonic()


@contextmanager
def supervised(folder: Path, stages: Stages, report: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep the programs of `stages` running while the block runs, in a thread beside it."""
    supervisor = Supervisor(folder, stages, report)
    ready = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            supervisor.run(ready.set)
        except BaseException as error:  # any of them is raised in the caller's thread
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
    """Lock `folder` for this process. Raises `SupervisorError` with the pid of the process that holds the lock."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    with (folder / "run" / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise SupervisorError(
                f"{folder} is in use by another `tileq up` (process {holder}); stop that one or choose another --data"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
