"""Every order in which jobs come, hints are followed and slots end their jobs, without any loss: nothing may stall.

A queue that is not empty has a hint in the broker or a slot that claims again when its job ends. What a killed worker
or broker loses, the outbox repeats; `system.py` searches those orders.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

MAX_PER_HINT = 2  #: jobs that a slot processes on one hint, small so that the search meets the bound


class Queue(NamedTuple):
    """What waits, and the jobs that each slot has yet to process on its hint: 0, it is idle."""

    to_come: int
    ready: int = 0
    hints: int = 0
    slots: tuple[int, ...] = (0, 0)
    stopping: bool = False  #: the first slot's worker shuts down

    @property
    def stalled(self) -> bool:
        """Whether a job waits that no hint and no slot leads to."""
        return bool(self.ready) and not self.hints and not any(self.slots)


def steps(now: Queue, *, hand_on: bool, hinted_below: int) -> Iterator[Queue]:
    """Yield every state that may be next.

    A submission publishes a hint if fewer than `hinted_below` jobs wait; `hand_on`: a slot that leaves while jobs wait
    publishes its hint again.
    """
    if now.to_come:
        hints = now.hints + (now.ready < hinted_below)
        yield now._replace(to_come=now.to_come - 1, ready=now.ready + 1, hints=hints)
    if not now.stopping:
        yield now._replace(stopping=True)
    for index, left in enumerate(now.slots):
        stops = now.stopping and index == 0
        if not left and now.hints and not stops:
            taken = now._replace(hints=now.hints - 1)
            yield _claimed(taken, index, MAX_PER_HINT) if now.ready else taken
        elif left:
            yield _ended(now, index, left - 1, hand_on=hand_on, stops=stops)


def reachable(jobs: int, *, hand_on: bool, hinted_below: int) -> set[Queue]:
    """Return every state that `jobs` submissions can lead to."""
    first = Queue(jobs)
    seen, waiting = {first}, deque([first])
    while waiting:
        for after in steps(waiting.popleft(), hand_on=hand_on, hinted_below=hinted_below):
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return seen


def _ended(now: Queue, index: int, left: int, *, hand_on: bool, stops: bool) -> Queue:
    """A job ended, and the store told whether another one waits."""
    if now.ready and left and not stops:
        return _claimed(now, index, left)
    free = _with(now, index, 0)
    return free._replace(hints=free.hints + 1) if now.ready and hand_on else free


def _claimed(now: Queue, index: int, left: int) -> Queue:
    return _with(now, index, left)._replace(ready=now.ready - 1)


def _with(now: Queue, index: int, left: int) -> Queue:
    return now._replace(slots=tuple(left if at == index else old for at, old in enumerate(now.slots)))
