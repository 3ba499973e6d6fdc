"""What 200 accepted jobs become when the worker, or the store, is killed in the middle of them and started again."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.peers.systems import ENDED, Client, System
from tests.bench.processes import signal_family

JOBS = 200
#: What the model takes for a job. taskiq holds a hundred at once: short ones would be done before the kill.
JOB_S = {"tileq": 0.2, "celery": 0.2, "taskiq": 6.0}
KILL_AFTER = 50  #: jobs have ended
PATIENCE_S = 60.0  #: without any further end
POLL_S = 0.25


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs."""

    ended: int
    most_s: float  #: from the kill to the end of 95 % of those that ended
    last_s: float
    twice: int  #: jobs that were done to their end more than once

    def __str__(self) -> str:
        rest = f", {self.twice} done twice" if self.twice else ""
        return f"{self.ended} of {JOBS} end: 95 % within {self.most_s:.0f} s, the last at {self.last_s:.0f} s{rest}"


def kill_worker(system: System, image: bytes) -> Outcome:
    """SIGKILL the worker with all of its processes; its supervisor starts it again."""
    return _survive(system, image, lambda: signal_family(system.pids()[system.worker], signal.SIGKILL))


def kill_store(system: System, image: bytes) -> Outcome:
    """SIGKILL Valkey; its supervisor starts it again."""
    return _survive(system, image, lambda: signal_family(system.pids()["valkey"], signal.SIGKILL))


def _survive(system: System, image: bytes, kill: Callable[[], None]) -> Outcome:
    client = Client(system, image)
    open_jobs = {client.submit()[0] for _ in range(JOBS)}
    ended: dict[str, float] = {}
    _follow(system, image, open_jobs, ended, lambda: len(ended) >= KILL_AFTER)
    kill()
    killed = time.monotonic()
    _follow(system, image, open_jobs, ended, lambda: time.monotonic() - max([killed, *ended.values()]) > PATIENCE_S)
    after = sorted(max(0.0, moment - killed) for moment in ended.values()) or [0.0]
    return Outcome(len(ended), after[int(0.95 * (len(after) - 1))], after[-1], _twice(system))


def _follow(
    system: System, image: bytes, open_jobs: set[str], ended: dict[str, float], enough: Callable[[], bool]
) -> None:
    """Poll until `enough`, or until every job has ended; a poll that fails is repeated."""
    client = Client(system, image)
    while open_jobs and not enough():
        for id in list(open_jobs):
            try:
                state = client.get(id)["state"]
            except (OSError, RuntimeError, ValueError):
                client = Client(system, image)
                break
            if state in ENDED:
                open_jobs.discard(id)
                ended[id] = time.monotonic()
        threading.Event().wait(POLL_S)


def _twice(system: System) -> int:
    """Executions to the end beyond one a job. A job of tileq can be begun again, and only one attempt can end it."""
    if system.runs is None:
        return 0
    return sum(times - 1 for times in Counter(system.runs.read_text().split()).values())
