"""Every order of steps of workers, broker, reconciler, dispatchers, client and time around one job, all searched.

The search is breadth first over explicit states, as TLC's is for TLA+: safety is checked in each state, and from each
state a way must lead to the end (AG EF done), so nothing can get stuck whatever happened before; and the job must be
able to end although no worker ever does anything again.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tests.integration.shared.model import protocol
from tests.integration.shared.model.protocol import TERMINAL, DeliveryState, JobState, Rules

MAX_HINTS = 1  #: in the broker at once; more are alike
MAX_RELEASES = 1


class Worker(NamedTuple):
    """A worker's belief; after a freeze it may be wrong."""

    attempt: int = 0  #: that it works on; 0: none
    hint: bool = False  #: it holds a hint that is not acknowledged


class System(NamedTuple):
    """A state of everything."""

    job: JobState = JobState()
    hints: int = 0
    workers: tuple[Worker, ...] = (Worker(), Worker())
    delivery: DeliveryState | None = None
    dispatchers: tuple[int, ...] = (0, 0)  #: the turn that each believes it holds
    heard: bool = False  #: the receiver has the message
    ends: int = 0  #: how often the job came to an end
    winner: int = 0  #: attempt whose finish ended it


Step = tuple[str, System]
FINISHES = ("succeeded", "failed")
#: What only a worker does. Its dying is not among them: that happens to it.
WORKER_STEPS = frozenset(
    {"claim", "heartbeat", "retry", "release"}
    | {f"finish {state}{lost}" for state in FINISHES for lost in ("", ", the answer is lost")}
)


def steps(now: System, rules: Rules) -> Iterator[Step]:
    """Yield every step that may be next."""
    yield from _time(now)
    yield from _service(now, rules)
    for index, worker in enumerate(now.workers):
        yield from _worker(now, rules, index, worker)
    for index, turn in enumerate(now.dispatchers):
        yield from _dispatcher(now, index, turn)


def _time(now: System) -> Iterator[Step]:
    job, delivery = now.job, now.delivery
    if job.lease == "live":
        yield "lease runs out", now._replace(job=job._replace(lease="dead"))
    if job.state not in TERMINAL and not job.started and not job.start_late:
        yield "start_within passes", now._replace(job=job._replace(start_late=True))
    if job.state not in TERMINAL and job.started and not job.run_late:
        yield "run_within passes", now._replace(job=job._replace(run_late=True))
    if delivery and delivery.held == "live":
        yield "delivery lease runs out", now._replace(delivery=delivery._replace(held="dead"))
    if now.hints:
        yield "broker loses the hint", now._replace(hints=now.hints - 1)


def _service(now: System, rules: Rules) -> Iterator[Step]:
    job, published = protocol.dispatch(now.job, rules)
    if published and now.hints < MAX_HINTS:
        yield "publish", now._replace(job=job, hints=now.hints + 1)
        yield "publish into the void", now._replace(job=job)
    yield "reap", _moved(now, protocol.reap(now.job, rules)[0])
    yield "expire", _moved(now, protocol.expire_due(now.job)[0])
    yield "cancel", _moved(now, protocol.cancel(now.job)[0])


def _worker(now: System, rules: Rules, index: int, worker: Worker) -> Iterator[Step]:
    if not worker.attempt and now.hints:
        job, attempt = protocol.claim(now.job)
        yield "claim", _moved(_with(now, index, Worker(attempt))._replace(hints=now.hints - 1), job)
    if not worker.attempt:
        return
    yield "die", _with(now, index, Worker())
    for renew in (True, False):
        yield "heartbeat", now._replace(job=protocol.heartbeat(now.job, worker.attempt, renew, rules)[0])
    done = _with(now, index, Worker())
    for state in FINISHES:
        job, counts = protocol.finish(now.job, worker.attempt, state, rules)
        winner = worker.attempt if counts and job != now.job else now.winner
        yield f"finish {state}", _moved(done, job)._replace(winner=winner)
        yield f"finish {state}, the answer is lost", _moved(now, job)._replace(winner=winner)
    yield "retry", _moved(done, protocol.retry(now.job, worker.attempt, rules)[0])
    if now.job.released < MAX_RELEASES:
        yield "release", _moved(done, protocol.release(now.job, worker.attempt, rules)[0])


def _dispatcher(now: System, index: int, turn: int) -> Iterator[Step]:
    if now.delivery is None:
        return
    if not turn:
        delivery, claimed = protocol.claim_delivery(now.delivery)
        if claimed:
            yield "claim delivery", _holding(now, index, claimed)._replace(delivery=delivery)
        return
    free = _holding(now, index, 0)
    yield "dispatcher dies", free
    yield "send", now._replace(heard=True)
    yield "put back", free._replace(delivery=protocol.release_delivery(now.delivery, turn)[0])
    yield "record again", free._replace(delivery=protocol.finish_delivery(now.delivery, turn, "again")[0])
    if now.heard:
        after = protocol.finish_delivery(now.delivery, turn, "delivered")[0]
        yield "record delivered", free._replace(delivery=after)


def _with(now: System, index: int, worker: Worker) -> System:
    workers = (worker, now.workers[1]) if index == 0 else (now.workers[0], worker)
    return now._replace(workers=workers)


def _holding(now: System, index: int, turn: int) -> System:
    turns = (turn, now.dispatchers[1]) if index == 0 else (now.dispatchers[0], turn)
    return now._replace(dispatchers=turns)


def _moved(now: System, job: JobState) -> System:
    """The job moves; when it ends, its message is put down in the same step."""
    ended = job.state in TERMINAL and now.job.state != job.state
    delivery = DeliveryState() if ended and now.delivery is None else now.delivery
    return now._replace(job=job, ends=now.ends + ended, delivery=delivery)


def _smaller(now: System) -> System:
    """One of the states that are alike: workers and dispatchers in order, the turns that anybody knows from 1 on."""
    now = now._replace(workers=tuple(sorted(now.workers)))
    if now.delivery is None:
        return now
    known = sorted({now.delivery.turn, *now.dispatchers} - {0})
    number = {turn: place for place, turn in enumerate(known, 1)} | {0: 0}
    delivery = now.delivery._replace(turn=number[now.delivery.turn])
    return now._replace(delivery=delivery, dispatchers=tuple(sorted(number[turn] for turn in now.dispatchers)))


def violated(now: System) -> str:
    """Name the invariant that does not hold, or ""."""
    job = now.job
    if now.ends > 1:
        return "a job ended twice"
    if [job.outbox, bool(job.lease), job.state in TERMINAL].count(True) != 1:
        return "a job is not in exactly one of outbox, leases and terminal"
    if job.attempt - job.released > protocol.MAX_ATTEMPTS:
        return "more attempts than allowed"
    if now.winner and now.winner != job.attempt:
        return "a stale attempt ended the job"
    if now.delivery and now.delivery.state == "delivered" and not now.heard:
        return "delivered to nobody"
    return ""


def done(now: System) -> bool:
    """Tell whether everything has come to its end."""
    return now.job.state in TERMINAL and now.delivery is not None and now.delivery.state == "delivered"


class Search(NamedTuple):
    """What the search found; a trace is "" where there is nothing to tell."""

    states: frozenset[System]
    edges: int
    violation: str = ""  #: with the steps that lead to it
    stuck: str = ""  #: steps to a state from which no way leads to the end
    hostage: str = ""  #: steps to a state from which the job ends only if a worker or the client does something


def search(rules: Rules = Rules()) -> Search:
    """Visit every reachable state."""
    first = System()
    came: dict[System, tuple[str, System] | None] = {first: None}
    back: dict[System, set[Step]] = {first: set()}
    queue, edges = deque([first]), 0
    while queue:
        now = queue.popleft()
        for name, reached in steps(now, rules):
            after = _smaller(reached)
            if after == now:
                continue
            edges += 1
            if after not in came:
                came[after] = (name, now)
                back[after] = set()
                if broken := violated(after):
                    return Search(frozenset(came), edges, f"{broken}: {_trace(came, after)}")
                queue.append(after)
            back[after].add((name, now))
    ends = {state for state in came if done(state)}
    ended = {state for state in came if state.job.state in TERMINAL}
    stuck = _not_leading(came, back, ends)
    hostage = _not_leading(came, back, ended, without=WORKER_STEPS | {"cancel"})
    return Search(frozenset(came), edges, "", stuck, hostage)


def _not_leading(
    came: dict[System, tuple[str, System] | None],
    back: dict[System, set[Step]],
    ends: set[System],
    without: frozenset[str] = frozenset(),
) -> str:
    """Go backwards from `ends`; return the steps to a state that is never met, or ""."""
    alive = set(ends)
    queue = deque(alive)
    while queue:
        for name, before in back[queue.popleft()]:
            if before not in alive and name not in without:
                alive.add(before)
                queue.append(before)
    lost = next((state for state in came if state not in alive), None)
    return _trace(came, lost) or "at the beginning" if lost else ""


def _trace(came: dict[System, tuple[str, System] | None], state: System) -> str:
    names = []
    while (step := came[state]) is not None:
        names.append(step[0])
        state = step[1]
    return " → ".join(reversed(names))
