"""Every step of a job, from taking it in to removing it, as calls to the job store.

record = store.run(transitions.claim("mini", "worker-1", lease=30))
job = await astore.run(transitions.read_job("acme", "job_…"))
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from shared.calls import Call, Moved, Word, pairs
from shared.jobs import Job, State

Verdict = Literal["ok", "cancel", "late", "stale"]


@dataclass(frozen=True)
class Submitted:
    """What became of a submission; when it was accepted, the store's time and the queue position of a single job."""

    outcome: Literal["accepted", "overloaded", "in_progress"]
    at: float = 0
    position: int = -1


def _triples(flat: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def _moved(answer: Sequence[Any]) -> tuple[Any, tuple[str, ...]]:
    return answer[0], tuple(answer[1])


# --- taking in


def submit(
    tenant: str,
    jobs: Sequence[Job],
    *,
    max_queued: int,
    grace: float,
    idem: tuple[str, str, str] | None = None,
    batch: Mapping[str, str] | None = None,
) -> Call[Submitted]:
    """Take all `jobs` in, or none, when the queue is full or the Idempotency-Key went to another (`in_progress`).

    `grace` is how long the reconciler leaves the first hint to the caller; `idem` is (key, token, id to replay).
    """
    order = {
        "tenant": tenant,
        "jobs": [job.record() for job in jobs],
        "batch": dict(batch) if batch else None,
        "idem": dict(zip(("key", "token", "subject"), idem, strict=True)) if idem else None,
        "max_queued": max_queued,
        "grace": grace,
    }

    def read(answer: Any) -> Submitted:
        outcome, *more = answer
        return Submitted(outcome, float(more[0]), int(more[1])) if more else Submitted(outcome)

    return Call("submit", (json.dumps(order),), read, durable=True)


def reserve(tenant: str, key: str, fingerprint: str, token: str, seconds: int) -> Call[tuple[str, str, float]]:
    """Reserve an Idempotency-Key for `seconds`.

    Answers (`reserved` | `replay` | `mismatch` | `in_progress`, id to replay or "", seconds that another's reservation
    lasts at most unless it is extended).
    """

    def read(answer: Any) -> tuple[str, str, float]:
        outcome, subject, left_ms = answer
        return outcome, subject, max(0.0, int(left_ms) / 1000)

    return Call("reserve", (tenant, key, fingerprint, token, seconds), read)


def extend_reservation(tenant: str, key: str, token: str, seconds: int) -> Call[bool]:
    """Let the reservation of an Idempotency-Key last `seconds` from now; False where it is no longer held."""
    return Call("extend_reservation", (tenant, key, token, seconds), bool)


def unreserve(tenant: str, key: str, token: str) -> Call[bool]:
    """Give an Idempotency-Key back that was held for a request then refused."""
    return Call("unreserve", (tenant, key, token), bool)


# --- working


def claim(model: str, worker: str, lease: float) -> Call[Moved[Job | None]]:
    """Take the fairest queued job of `model` (priority, tenants in turn, age) for `lease` seconds, or None."""

    def read(answer: Any) -> Moved[Job | None]:
        record, messages = _moved(answer)
        return Moved(Job.read(pairs(record)) if record else None, messages)

    return Call("claim", (model, worker, lease), read)


def beat(jobs: Sequence[tuple[str, int, Mapping[str, Word]]], lease: float) -> Call[list[Verdict]]:
    """Renew the leases of (id, attempt, progress) and learn what became of each; `lease` 0 looks without renewing."""
    words = [[id, attempt, {name: str(value) for name, value in progress.items()}] for id, attempt, progress in jobs]
    return Call("beat", (lease, json.dumps(words)), list)


def finish(id: str, attempt: int, state: State, fields: Mapping[str, Any]) -> Call[Moved[bool]]:
    """End a held job; False when the lease went to another attempt. Safe to repeat after a lost answer."""
    job = Job(id=id, tenant="", model="", **fields)
    words = {name: text for name, text in job.record().items() if name in fields}
    return Call(
        "finish",
        (id, attempt, state.value, json.dumps(words)),
        lambda answer: Moved(bool(answer[0]), tuple(answer[1])),
        durable=True,
    )


def retry(id: str, attempt: int, error: Mapping[str, Any], backoff: float) -> Call[Moved[State | None]]:
    """Queue a held job again after a passing trouble, or fail it with `error` on its last attempt; None when stale."""
    args = (id, attempt, json.dumps(error), backoff, _jitter())
    return Call("retry", args, lambda answer: Moved(State(answer[0]) if answer[0] else None, tuple(answer[1])))


def release(id: str, attempt: int) -> Call[Moved[bool]]:
    """Give a job back on a clean shutdown, uncharged; False when stale."""
    return Call("release", (id, attempt), lambda answer: Moved(bool(answer[0]), tuple(answer[1])))


def announce(model: str, worker: str, card: Mapping[str, Any], seconds: float) -> Call[int]:
    """Say that `worker` serves `model` for the next `seconds`; 0 says that it leaves."""
    return Call("announce", (model, worker, json.dumps(card), seconds), int)


# --- ending and removing


def cancel(tenant: str, id: str) -> Call[Moved[str]]:
    """Cancel → `cancelled`, `cancelling`, `already_ended`, or "" where the tenant has no such job."""
    return Call("cancel", (tenant, id), lambda answer: Moved(str(answer[0]), tuple(answer[1])), durable=True)


def delete(tenant: str, id: str) -> Call[str]:
    """Remove an ended job's record → `deleted`, `not_ended`, `not_found`; its id then lies in the trash."""
    return Call("delete", (tenant, id), str, durable=True)


def trash(limit: int = 100) -> Call[list[str]]:
    """Ids whose objects are still to be deleted."""
    return Call("trash", (limit,), list)


def emptied(ids: Sequence[str]) -> Call[int]:
    """Say that the objects of `ids` are gone."""
    return Call("emptied", tuple(ids), int)


# --- keeping


def dispatch(redispatch: float, limit: int = 500) -> Call[list[tuple[str, str]]]:
    """(id, model) of queued jobs whose hint is due again."""
    return Call("dispatch", (redispatch, limit), lambda flat: list(zip(flat[::2], flat[1::2], strict=True)))


def reap(backoff: float, limit: int = 100) -> Call[Moved[list[tuple[str, str, str]]]]:
    """(id, new state, lost worker) of jobs whose lease ran out."""
    return Call(
        "reap",
        (backoff, _jitter(), limit),
        lambda answer: Moved(_triples(answer[0]), tuple(answer[1])),
    )


def overdue(limit: int = 100) -> Call[Moved[list[tuple[str, str]]]]:
    """(id, new state) of jobs that passed `start_within` or `run_within`."""
    return Call(
        "overdue",
        (limit,),
        lambda answer: Moved(list(zip(answer[0][::2], answer[0][1::2], strict=True)), tuple(answer[1])),
    )


def purge(limit: int = 100) -> Call[list[str]]:
    """Remove what is past its retention; ids of jobs, batches and test messages."""
    return Call("purge", (limit,), list)


def restore(job: Job, state: State, grace: float, batch: str = "") -> Call[Moved[bool]]:
    """Bring a job back whose record was lost, with the JSON of its batch; False when it is there."""
    args = (json.dumps(job.record()), state.value, grace, batch)
    return Call("restore", args, lambda answer: Moved(bool(answer[0]), tuple(answer[1])), durable=True)


# --- reading


def read_job(tenant: str, id: str) -> Call[Job | None]:
    """One job with its queue position, or None; tenant "" is for our own processes."""

    def read(answer: Any) -> Job | None:
        record, position = answer
        return replace(Job.read(pairs(record)), position=int(position)) if record else None

    return Call("read_job", (tenant, id), read)


def read_jobs(ids: Sequence[str]) -> Call[list[Job]]:
    """The records of `ids`, without queue positions; those that are gone are left out."""
    return Call("read_jobs", tuple(ids), lambda records: [Job.read(pairs(record)) for record in records if record])


def list_jobs(
    tenant: str, *, state: str = "", batch: str = "", after: str = "", limit: int = 20, metadata: Mapping[str, str]
) -> Call[tuple[list[Job], str]]:
    """A page of jobs, newest first, and the id to go on after ("" at the end). Looks at 5,000 records at most."""
    args = (tenant, state, batch, after, limit, json.dumps(dict(metadata)), 5000)
    return Call("list_jobs", args, lambda answer: ([Job.read(pairs(record)) for record in answer[0]], answer[1]))


def _jitter() -> float:
    return random.uniform(0.5, 1.5)
