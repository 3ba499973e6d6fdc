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
from services.cli.local.watched import SupervisorError, Watched

Stages = Sequence[Sequence[Program]]

_PERIOD = 0.1  # between two looks at the processes
_HURRY = 1.0  # seconds that a second `stop` leaves


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
