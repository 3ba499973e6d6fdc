"""What one script does to one job or one delivery, written down a second time, without Redis and without time.

That a lease or a deadline has run out is a part of the state, so that time is one more actor (`system.py`). Every
function returns the state afterwards and the script's answer. `Rules` switches single rules off: then the search must
find what goes wrong, which shows that it can.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

MAX_ATTEMPTS = 2
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
Lease = Literal["", "live", "dead"]


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol that can be switched off."""

    fencing: bool = True  #: heartbeat, finish, retry and release are refused to any but the present attempt
    rearm: bool = True  #: a published hint stays in the outbox until the job is claimed
    counts_attempts: bool = True  #: lost attempts are counted


class JobState(NamedTuple):
    """One job's record, and where its id is a member."""

    state: str = "queued"
    attempt: int = 0
    released: int = 0
    started: bool = False
    cancel: bool = False
    outbox: bool = True
    lease: Lease = ""
    start_late: bool = False  #: start_within has passed
    run_late: bool = False  #: run_within has passed, by more than the reconciler allows


def claim(job: JobState) -> tuple[JobState, int]:
    """→ the attempt that begins, or 0."""
    if job.state != "queued":
        return job, 0
    if not job.started and job.start_late:
        return closed(job, "expired"), 0
    if job.started and job.run_late:
        return closed(job, "failed"), 0
    running = job._replace(state="running", attempt=job.attempt + 1, started=True, outbox=False, lease="live")
    return running, running.attempt


def heartbeat(job: JobState, attempt: int, renew: bool, rules: Rules) -> tuple[JobState, str]:
    """→ `ok`, `cancel`, `deadline_exceeded` or `lease_lost`."""
    if not _held(job, attempt, rules):
        return job, "lease_lost"
    after = job._replace(lease="live") if renew and not job.run_late and job.lease else job
    return after, "cancel" if job.cancel else "deadline_exceeded" if job.run_late else "ok"


def finish(job: JobState, attempt: int, state: str, rules: Rules) -> tuple[JobState, bool]:
    """→ whether it counts; repeating it changes nothing."""
    if job.attempt == attempt and job.state == state and state in TERMINAL:
        return job, True
    if not _held(job, attempt, rules):
        return job, False
    return closed(job, state), True


def retry(job: JobState, attempt: int, rules: Rules) -> tuple[JobState, str]:
    """→ the state it is in now, or "" for a lost lease."""
    if not _held(job, attempt, rules):
        return job, ""
    after = closed(job, "failed") if _exhausted(job, rules) and not job.cancel else requeued(job)
    return after, after.state


def release(job: JobState, attempt: int, rules: Rules) -> tuple[JobState, bool]:
    """→ whether it was still held."""
    if not _held(job, attempt, rules):
        return job, False
    return requeued(job._replace(released=job.released + 1)), True


def reap(job: JobState, rules: Rules) -> tuple[JobState, str]:
    """→ the state it is in now, or "" if its lease had not run out."""
    if job.lease != "dead":
        return job, ""
    after = closed(job, "failed") if _exhausted(job, rules) and not job.cancel else requeued(job)
    return after, after.state


def cancel(job: JobState) -> tuple[JobState, str]:
    """→ `cancelled`, `cancelling` or `already_ended`."""
    if job.state in TERMINAL:
        return job, "already_ended"
    if job.state == "queued":
        return closed(job, "cancelled"), "cancelled"
    return job._replace(cancel=True), "cancelling"


def expire_due(job: JobState) -> tuple[JobState, str]:
    """→ the state it is in now, or "" if no deadline had passed."""
    if job.state in TERMINAL or not (job.run_late if job.started else job.start_late):
        return job, ""
    state = "cancelled" if job.cancel else "failed" if job.started else "expired"
    return closed(job, state), state


def dispatch(job: JobState, rules: Rules) -> tuple[JobState, bool]:
    """→ whether a hint is to be published."""
    if job.state != "queued" or not job.outbox:
        return job, False
    return job if rules.rearm else job._replace(outbox=False), True


def closed(job: JobState, state: str) -> JobState:
    """A job that ends."""
    return job._replace(state=state, outbox=False, lease="")


def requeued(job: JobState) -> JobState:
    """A job that goes back, unless nobody wants it any more."""
    if job.cancel:
        return closed(job, "cancelled")
    return job._replace(state="queued", outbox=True, lease="")


def _held(job: JobState, attempt: int, rules: Rules) -> bool:
    return job.state == "running" and (job.attempt == attempt or not rules.fencing)


def _exhausted(job: JobState, rules: Rules) -> bool:
    return rules.counts_attempts and job.attempt - job.released >= MAX_ATTEMPTS


class DeliveryState(NamedTuple):
    """One message, and whether a dispatcher holds it."""

    state: str = "pending"
    turn: int = 0
    held: Lease = ""
    recorded: bool = False  #: the attempt of the present turn was written down


def claim_delivery(delivery: DeliveryState) -> tuple[DeliveryState, int]:
    """→ the turn that begins, or 0."""
    if delivery.state != "pending" or delivery.held == "live":
        return delivery, 0
    after = DeliveryState("pending", delivery.turn + 1, "live")
    return after, after.turn


def finish_delivery(delivery: DeliveryState, turn: int, outcome: str) -> tuple[DeliveryState, bool]:
    """→ whether it counts; repeating it changes nothing."""
    if delivery.turn == turn and delivery.recorded:
        return delivery, True
    if delivery.state != "pending" or delivery.turn != turn:
        return delivery, False
    state = "pending" if outcome == "again" else outcome
    return DeliveryState(state, delivery.turn, "", recorded=True), True


def release_delivery(delivery: DeliveryState, turn: int) -> tuple[DeliveryState, bool]:
    """→ whether it was still held."""
    if delivery.turn != turn or delivery.state != "pending" or delivery.recorded:
        return delivery, False
    return delivery._replace(held=""), True
