"""Every order in which jobs come, hints are followed and slots end their jobs, without any loss: nothing may stall.

While a job is ready, each free slot has a hint to follow, and a queue that is not empty has a hint in the broker or a
slot that claims again when its job ends. A slot that finds no job ready waits for one: a submission wakes it, and then
asks for no hint. What a killed worker or broker loses, the outbox repeats; `system.py` searches those
orders, in which intake publishes no hint at all.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_PER_HINT = 2  #: jobs that a slot processes on one hint, small so that the search meets the bound
WAITS, WOKEN = 10, 20  #: added to the jobs that a slot has yet to process on its hint


@dataclass(frozen=True)
class Rules:
    """Who publishes hints."""

    many: int = 2  #: a submission does while fewer jobs than these are ready
    pass_on: bool = True  #: a slot that followed a hint or was woken does, if `many` jobs are ready after its claim
    hand_on: bool = True  #: a slot that leaves while jobs are ready does, if fewer than `many` hints wait
    wake_once: bool = True  #: a slot that was woken waits no longer, so that the next submission asks for a hint


class Queue(NamedTuple):
    """What waits, and the jobs that each slot has yet to process on its hint: 0, it is free."""

    to_come: int
    ready: int = 0
    hints: int = 0
    slots: tuple[int, ...] = (0, 0, 0)  #: with `WAITS` or `WOKEN` added where it does that
    stopping: bool = False  #: the first slot's worker shuts down

    @property
    def stalled(self) -> bool:
        """Whether a job is ready that no hint and no slot leads to."""
        return bool(self.ready) and not self.hints and not any(left and left // WAITS != 1 for left in self.slots)

    @property
    def starving(self) -> bool:
        """Whether a job is ready and a slot idle that has no hint to follow, and none that was woken publishes one."""
        idle = any(left // WAITS == 1 or not left for left in self.slots[self.stopping :])
        return bool(self.ready) and idle and not self.hints and not any(left > WOKEN for left in self.slots)


def steps(now: Queue, rules: Rules) -> Iterator[Queue]:
    """Yield every state that may be next."""
    if now.to_come:
        yield _submitted(now._replace(to_come=now.to_come - 1, ready=now.ready + 1), rules)
    if not now.stopping:
        yield now._replace(stopping=True)
    for index, left in enumerate(now.slots):
        stops = now.stopping and index == 0
        if left > WOKEN:
            passed_on = rules.pass_on and now.ready > rules.many and not stops
            yield _goes_on(now._replace(hints=now.hints + passed_on), index, left - WOKEN, rules, stops=stops)
        elif left > WAITS:
            yield _with(now, index, 0)
        elif left:
            yield _ended(now, index, left - 1, rules, stops=stops)
        elif now.hints and not stops:
            passed_on = rules.pass_on and now.ready > rules.many
            taken = now._replace(hints=now.hints - 1 + passed_on)
            yield _claimed(taken, index, MAX_PER_HINT) if now.ready else _with(taken, index, WAITS + MAX_PER_HINT - 1)


def reachable(jobs: int, rules: Rules) -> set[Queue]:
    """Return every state that `jobs` submissions can lead to."""
    first = Queue(jobs)
    seen, waiting = {first}, deque([first])
    while waiting:
        for after in steps(waiting.popleft(), rules):
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return seen


def _submitted(now: Queue, rules: Rules) -> Queue:
    """A job came: it wakes a slot that waits, else it asks for a hint while few are ready."""
    for index, left in enumerate(now.slots):
        if left // WAITS == 1:
            return _with(now, index, left - WAITS + WOKEN)
        if left > WOKEN and not rules.wake_once:
            return now
    return now._replace(hints=now.hints + (now.ready <= rules.many))


def _ended(now: Queue, index: int, left: int, rules: Rules, *, stops: bool) -> Queue:
    """A job ended, and the store told whether another one waits; if none does, the slot waits for one."""
    if not now.ready and left:
        return _with(now, index, WAITS + left)
    return _goes_on(now, index, left, rules, stops=stops)


def _goes_on(now: Queue, index: int, left: int, rules: Rules, *, stops: bool) -> Queue:
    """A slot claims again, or leaves: if it found nothing, has processed as many as it may, or stops."""
    if now.ready and left and not stops:
        return _claimed(now, index, left)
    if not now.ready and left > 1:
        return _with(now, index, WAITS + left - 1)
    free = _with(now, index, 0)
    handed_on = bool(now.ready) and rules.hand_on and now.hints < rules.many
    return free._replace(hints=free.hints + handed_on)


def _claimed(now: Queue, index: int, left: int) -> Queue:
    return _with(now, index, left)._replace(ready=now.ready - 1)


def _with(now: Queue, index: int, left: int) -> Queue:
    return now._replace(slots=tuple(left if at == index else old for at, old in enumerate(now.slots)))
