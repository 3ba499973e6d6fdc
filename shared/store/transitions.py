"""Every transition of a job, from submission to removal, as commands to the job store.

record = store.run(transitions.claim("mini", "worker-1", lease=30))
job = await astore.run(transitions.read_job("acme", "job_…"))
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from shared.jobs import Job, State, hash_of
from shared.limits import NO_LIMITS, LimitState, TenantLimits
from shared.records import JobError
from shared.store.command import StoreArgument, StoreCommand, TransitionResult, hash_to_dict
from shared.store.limits import limit_state

#: The reply to a heartbeat: go on; or stop, because of a cancellation, because `run_within` passed, or because another
#: attempt may own the job.
Verdict = Literal["ok", "cancel", "deadline_exceeded", "lease_lost"]
MAX_PASSES = 8  #: younger jobs that may be claimed before a job because their conversation or image is cached
MAX_PASSED_S = 2.0  #: since the first of them; then the job is overtaken no more
MANY_READY = 4  #: ready jobs of a model from which on a submission publishes no hint, and a claim passes its hint on
#: What a job's record has of its end, and when it is deleted, with the key that encrypts them for object storage.
END_FIELDS = (
    *("state", "attempt", "started", "claimed", "ended", "expires", "seal"),
    *("tiles", "prompt_tokens", "completion_tokens", "images"),
    *("result", "output", "finish_reason", "error", "usage", "timings"),
)
HINT_PERIOD_S = 0.1  #: after which a submission publishes a hint even so, since those before may have been lost


@dataclass(frozen=True)
class SubmitResult:
    """The outcome of a submission; if it was accepted, the store's time and the queue position of a single job.

    If not, the seconds until there is room (`overloaded`), or the tenant's limit that it would pass (`quota_exceeded`).
    """

    outcome: Literal["accepted", "overloaded", "quota_exceeded", "in_progress", "lease_lost"]
    at: float = 0
    position: int = -1
    retry_after: float = 0
    limit: LimitState | None = None
    hinted: tuple[bool, ...] = ()  #: for each job whether a hint of it is to be published


@dataclass(frozen=True)
class LinesRead:
    """Lines of a batch's file, read by the claim `fence`: some become jobs, `refused` says of the others why not."""

    batch: str
    fence: int
    offset: int  #: bytes of the file up to their end
    line: int  #: lines of the file up to there
    refused: Mapping[int, str]  #: line → JSON


def _triples(flat: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


# --- submission


def submit(
    tenant: str,
    jobs: Sequence[Job],
    *,
    max_queued: int,
    grace: float,
    idem: tuple[str, str, str] | None = None,
    batch: Mapping[str, str] | None = None,
    limits: TenantLimits = NO_LIMITS,
    lines: LinesRead | None = None,
    hint_period: float = HINT_PERIOD_S,
) -> StoreCommand[SubmitResult]:
    """Accept all `jobs`, or none, where the queue is full, where the tenant would pass one of its `limits`, or where
    another request holds the Idempotency-Key (`in_progress`).

    `grace`: seconds before the reconciler publishes the first hint itself. `idem`: (key, token, id to replay). With
    `lines` the batch moves behind them in its file; where its claim is lost, nothing is done (`lease_lost`).
    """
    stored = [sum(image.bytes or 0 for image in job.images) for job in jobs]
    order = {
        "tenant": tenant,
        "jobs": [job.to_hash() for job in jobs],
        "batch": dict(batch) if batch else None,
        "idem": dict(zip(("key", "token", "subject"), idem, strict=True)) if idem else None,
        "max_queued": max_queued,
        "grace": grace,
        "limits": limits.of_submissions or None,
        "bytes": sum(stored),
        "job_bytes": stored,
        "lines": asdict(lines) | {"fence": str(lines.fence)} if lines else None,
        "many_ready": MANY_READY,
        "hint_period": hint_period,
    }

    def parse(answer: Any) -> SubmitResult:
        outcome, *more = answer
        if outcome == "accepted":
            return SubmitResult(outcome, float(more[0]), int(more[1]), hinted=tuple(map(bool, more[2])))
        if outcome == "quota_exceeded":
            return SubmitResult(outcome, limit=limit_state(more[0]))
        return SubmitResult(outcome, retry_after=float(more[0]) if more else 0)

    return StoreCommand("submit", (json.dumps(order),), parse, durable=True)


def reserve(tenant: str, key: str, fingerprint: str, token: str, seconds: int) -> StoreCommand[tuple[str, str, float]]:
    """Reserve an Idempotency-Key for `seconds`.

    Replies (`reserved` | `replay` | `mismatch` | `in_progress`, id to replay or "", seconds that the reservation of
    another lasts at most unless it is extended).
    """

    def parse(reply: Any) -> tuple[str, str, float]:
        outcome, resource_id, left_ms = reply
        return outcome, resource_id, max(0.0, int(left_ms) / 1000)

    return StoreCommand("reserve", (tenant, key, fingerprint, token, seconds), parse)


def extend_reservation(tenant: str, key: str, token: str, seconds: int) -> StoreCommand[bool]:
    """Let the reservation of an Idempotency-Key last `seconds` from now; False if `token` no longer holds it."""
    return StoreCommand("extend_reservation", (tenant, key, token, seconds), bool)


def unreserve(tenant: str, key: str, token: str) -> StoreCommand[bool]:
    """Free an Idempotency-Key whose request was refused; False if `token` does not hold it."""
    return StoreCommand("unreserve", (tenant, key, token), bool)


# --- processing


def claim(  # noqa: PLR0917
    model: str,
    worker: str,
    lease: float,
    cached: Sequence[str] = (),
    window: int = 1,
    slot: str = "",
    wait_s: float = 0,
    waited: bool = False,
) -> StoreCommand[TransitionResult[Job | None]]:
    """Claim the fairest queued job of `model` (priority, tenants in turn, age) for `lease` seconds, or None.

    If none is ready, `slot` waits for one for `wait_s` seconds: a submission wakes it instead of asking for a hint. Its
    wait ends by a claim that `waited` (`Store.run_when_woken`) or by `stop_waiting`. One that waited in vain does not
    wait again.

    Among the oldest `window` jobs of the tenant whose turn it is, one goes first that has an affinity key of `cached`
    (`tenant/key`, or `/key` for any tenant). At most `MAX_PASSES` younger jobs go before one, and none once
    `MAX_PASSED_S` have passed since the first of them. `more`: whether `MANY_READY` jobs are still ready.
    """

    def parse(answer: Any) -> TransitionResult[Job | None]:
        record, messages, many, waits = answer
        job = Job.from_hash(hash_to_dict(record)) if record else None
        return TransitionResult(job, tuple(messages), bool(many), bool(waits))

    preferred = cached if window > 1 else ()
    bounds = (MAX_PASSES, MAX_PASSED_S, MANY_READY)
    return StoreCommand("claim", (model, worker, lease, window, *bounds, slot, wait_s, int(waited), *preferred), parse)


def heartbeat(
    jobs: Sequence[tuple[str, int, Mapping[str, StoreArgument]]], lease: float
) -> StoreCommand[list[Verdict]]:
    """Renew the leases of (id, attempt, progress) by `lease` seconds (0: only read) and return a verdict for each."""
    words = [[id, attempt, {name: str(value) for name, value in progress.items()}] for id, attempt, progress in jobs]
    return StoreCommand("heartbeat", (lease, json.dumps(words)), list)


def finish(  # noqa: PLR0917
    id: str, attempt: int, state: State, fields: Mapping[str, Any], slot: str = "", wait_s: float = 0
) -> StoreCommand[TransitionResult[bool]]:
    """End a running job; False if another attempt holds the lease. Repeating it after a lost reply changes nothing.

    If no other job is ready, `slot` waits for one, as after a claim that finds none.
    """
    return StoreCommand(
        "finish",
        (id, attempt, state.value, json.dumps(hash_of(**fields)), slot, wait_s),
        lambda answer: TransitionResult(bool(answer[0]), tuple(answer[1]), bool(answer[2]), bool(answer[3])),
        durable=True,
    )


def stop_waiting(model: str, slot: str) -> StoreCommand[bool]:
    """Let `slot` wait for a job no longer; True if it was woken meanwhile, and is to claim."""
    return StoreCommand("stop_waiting", (model, slot), bool)


def retry(id: str, attempt: int, error: JobError, backoff: float) -> StoreCommand[TransitionResult[State | None]]:
    """Queue a job again after a transient error, or fail it with `error` on its last attempt; None: lease lost."""
    args = (id, attempt, error.model_dump_json(), backoff, _jitter())
    return StoreCommand(
        "retry", args, lambda answer: TransitionResult(State(answer[0]) if answer[0] else None, tuple(answer[1]))
    )


def release(id: str, attempt: int, delay: float = 0) -> StoreCommand[TransitionResult[bool]]:
    """Release a job without charging the attempt, to be claimed after `delay` seconds; False if the lease is lost."""
    return StoreCommand(
        "release", (id, attempt, delay), lambda answer: TransitionResult(bool(answer[0]), tuple(answer[1]))
    )


def register_worker(model: str, worker: str, card: Mapping[str, Any], seconds: float) -> StoreCommand[int]:
    """Register `worker` as serving `model` for the next `seconds`; 0 deregisters it."""
    return StoreCommand("register_worker", (model, worker, json.dumps(card), seconds), int)


# --- cancellation and removal


def cancel(tenant: str, id: str) -> StoreCommand[TransitionResult[str]]:
    """Cancel → `cancelled`, `cancelling`, `already_ended`, or "" where the tenant has no such job."""
    return StoreCommand(
        "cancel", (tenant, id), lambda answer: TransitionResult(str(answer[0]), tuple(answer[1])), durable=True
    )


def delete(tenant: str, id: str) -> StoreCommand[str]:
    """Remove an ended job's record → `deleted`, `not_ended`, `not_found`; its id is then in `list_trash`."""
    return StoreCommand("delete", (tenant, id), str, durable=True)


def list_trash(limit: int = 100) -> StoreCommand[list[str]]:
    """Ids whose objects are still to be deleted."""
    return StoreCommand("list_trash", (limit,), list)


def purge_done(ids: Sequence[str]) -> StoreCommand[int]:
    """Record that the objects of `ids` are deleted."""
    return StoreCommand("purge_done", tuple(ids), int)


# --- ends that are in no group object yet (shared/ended.py)


def list_unarchived(
    ids: Sequence[str] = (), archiver: str = "", lease_s: int = 10, limit: int = 500
) -> StoreCommand[dict[str, dict[str, str]]]:
    """The fields that tell its end of each job: of `ids`, or the `limit` oldest unless another archiver has a lease."""

    def parse(flat: Sequence[str]) -> dict[str, dict[str, str]]:
        width = 1 + len(END_FIELDS)
        rows = [flat[start : start + width] for start in range(0, len(flat), width)]
        return {id: {name: text for name, text in zip(END_FIELDS, row, strict=True) if text} for id, *row in rows}

    asked = ids or ("", archiver, lease_s, limit)
    return StoreCommand("list_unarchived", (len(END_FIELDS), *END_FIELDS, *asked), parse)


def archived(ids: Sequence[str]) -> StoreCommand[int]:
    """Record that the ends of `ids` are in a group object."""
    return StoreCommand("archived", tuple(ids), int)


def find_unarchived(offset: int, count: int = 500) -> StoreCommand[int]:
    """Add the jobs to the index that former releases ended; return how many ended ids were read."""
    return StoreCommand("find_unarchived", (offset, count), int)


# --- reconciliation


def dispatch(redispatch: float, limit: int = 500) -> StoreCommand[list[tuple[str, str]]]:
    """(id, model) of the queued jobs whose hint is due again; the next repeat follows after `redispatch` seconds."""
    return StoreCommand("dispatch", (redispatch, limit), lambda flat: list(zip(flat[::2], flat[1::2], strict=True)))


def reap(backoff: float, limit: int = 100) -> StoreCommand[TransitionResult[list[tuple[str, str, str]]]]:
    """Queue again or fail the jobs whose lease expired → (id, new state, lost worker) of each."""
    return StoreCommand(
        "reap",
        (backoff, _jitter(), limit),
        lambda answer: TransitionResult(_triples(answer[0]), tuple(answer[1])),
    )


def expire_due(limit: int = 100) -> StoreCommand[TransitionResult[list[tuple[str, str]]]]:
    """End the jobs that passed `start_within` or `run_within` → (id, new state) of each."""
    return StoreCommand(
        "expire_due",
        (limit,),
        lambda answer: TransitionResult(list(zip(answer[0][::2], answer[0][1::2], strict=True)), tuple(answer[1])),
    )


def purge(limit: int = 100) -> StoreCommand[list[str]]:
    """Delete the records past their retention → ids of jobs, batches and test deliveries."""
    return StoreCommand("purge", (limit,), list)


def restore(job: Job, state: State, grace: float, batch: str = "") -> StoreCommand[TransitionResult[bool]]:
    """Restore a job whose record was lost, with the JSON of its batch; False if the record exists."""
    args = (json.dumps(job.to_hash()), state.value, grace, batch)
    return StoreCommand(
        "restore", args, lambda answer: TransitionResult(bool(answer[0]), tuple(answer[1])), durable=True
    )


def settle_batch(id: str) -> StoreCommand[list[str]]:
    """End a restored batch without active jobs, although some jobs are missing → messages now due; else do nothing."""
    return StoreCommand("settle_batch", (id,), list)


# --- queries


def read_job(tenant: str, id: str) -> StoreCommand[Job | None]:
    """One job with its queue position, or None; tenant "" reads any tenant's."""

    def parse(answer: Any) -> Job | None:
        record, position = answer
        return replace(Job.from_hash(hash_to_dict(record)), position=int(position)) if record else None

    return StoreCommand("read_job", (tenant, id), parse)


def read_jobs(ids: Sequence[str]) -> StoreCommand[list[Job]]:
    """The records of `ids`, without queue positions; missing ones are left out."""
    return StoreCommand(
        "read_jobs", tuple(ids), lambda records: [Job.from_hash(hash_to_dict(record)) for record in records if record]
    )


def list_jobs(
    tenant: str, *, state: str = "", batch: str = "", after: str = "", limit: int = 20, metadata: Mapping[str, str]
) -> StoreCommand[tuple[list[Job], str]]:
    """A page of jobs, newest first, and the cursor of the next page ("" at the end). Scans at most 5,000 records."""
    args = (tenant, state, batch, after, limit, json.dumps(dict(metadata)), 5000)
    return StoreCommand(
        "list_jobs", args, lambda answer: ([Job.from_hash(hash_to_dict(record)) for record in answer[0]], answer[1])
    )


def _jitter() -> float:
    return random.uniform(0.5, 1.5)
