"""Guarantee: every accepted (202) job reaches exactly one terminal state, which is reported.

                 ┌────────── retry, release, lost lease ─────────┐
                 ▼                                               │
    submit ──> QUEUED ── claim (attempt += 1, lease begins) ──> RUNNING
                 │                                               │
                 ├─> CANCELLED   cancel                          ├─> SUCCEEDED  finish
                 └─> EXPIRED     start_within passed             ├─> FAILED     finish, last attempt, run_within passed
                                                                 └─> CANCELLED  cancel, seen within a second

How tileq keeps it:

- Before the 202, manifest and images (`request.tar`) are in object storage and the record is on disk (AOF).
- A job is at any moment in exactly one of `outbox` (a hint is to be published), `leases` (a worker runs it) and
  terminal. It leaves the outbox only when it is claimed, so the reconciler repeats a hint that the broker lost.
- `attempt` counts claims and is the fencing token: the store refuses heartbeat and finish of any other attempt, so a
  worker that was frozen cannot overwrite a newer attempt. Each attempt writes a large output under its own key.
- A lease that is not renewed expires; the job is queued again, and after `max_attempts` it fails with `worker_lost`.
- Two deadlines end every job: `start_within` until the first claim, `run_within` from there over all attempts. The time
  is always the store's (`redis.call('TIME')`), never a client's.
- The end of every job is in object storage within about a second, many in one object, so that `--recover` (Redis lost
  with its disk) restores it as it ended instead of queueing it again. Redis and its file lost before that is the one
  case in which an ended job runs again (`shared/ended.py`).
- Every arrow above is one Lua script in `shared/store/lua`, called by `shared/store/transitions.py`. Terminal states
  never change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Literal, Self, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json

from shared.records import JobError, JobImage, JobOutput, OpenAiOptions, StageTimings, TokenUsage, WebhookTarget


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  #: Accepted, waiting for a worker.
    RUNNING = "running"  #: A worker holds its lease.
    SUCCEEDED = "succeeded"  #: Answered; the output is in the record, or, if large, in object storage.
    FAILED = "failed"  #: Ended without an answer; `error` says why.
    CANCELLED = "cancelled"  #: The client cancelled it.
    EXPIRED = "expired"  #: No worker claimed it within `start_within`.

    @property
    def terminal(self) -> bool:
        """The last four states never change."""
        return self not in (State.QUEUED, State.RUNNING)


#: The legal transitions; the scripts in `shared/store/lua` make them, and tests compare both.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    **{state: frozenset() for state in State if state.terminal},
}

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  #: the first is served first


@dataclass(frozen=True)
class Job:
    """One job as the store keeps it.

    Moments are seconds since the epoch by the store's clock, 0 means not yet; durations are seconds.
    """

    id: str
    tenant: str
    model: str
    state: State = State.QUEUED
    priority: int = 1  #: index into PRIORITIES
    attempt: int = 0  #: claims so far: the fencing token
    released: int = 0  #: attempts released by a graceful shutdown, not charged
    lost: int = 0  #: attempts whose lease expired; the store writes it at the first
    max_attempts: int = 3
    owner: str = ""  #: worker that holds the lease
    created: float = 0
    started: float = 0  #: first claim
    claimed: float = 0  #: latest claim
    ended: float = 0
    expires: float = 0  #: record and objects are deleted after this
    retain: float = 0  #: duration: record and objects outlive the end by this
    not_before: float = 0  #: earliest next claim after a retry
    start_within: float = 0  #: duration from submission to the first claim
    start_by: float = 0  #: moment at which start_within ends
    run_within: float = 0  #: duration from the first claim to the end, over all attempts
    run_by: float = 0  #: moment at which run_within ends; 0 before the first claim
    cancel: bool = False  #: a running job is to be cancelled
    stage: str = ""  #: fetch, tile, vision, prefill, decode
    tiles: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: list[JobImage] = field(default_factory=list)
    fetched_bytes: int = 0  #: of images that workers fetched by URL; its tenant's limit counts them at the end
    webhook: WebhookTarget | None = None
    hook_state: str = "none"  #: none, pending, delivered, failed
    hook_attempts: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    parent: str = ""
    batch: str = ""
    custom_id: str = ""
    due: float = 0  #: of a line of a batch's file: the batch's deadline, by which it is ordered; 0: by `created`
    retry_of: str = ""
    idem: str = ""  #: hash of the Idempotency-Key
    trace: str = ""  #: W3C traceparent
    openai: OpenAiOptions | None = None  #: set for a job that was made on OpenAI's surface
    affinity: str = ""  #: keys of the prompts that it could share, see shared/affinity.py
    seal: str = field(default="", repr=False)  #: key that encrypts its end in object storage, see shared/ended.py
    request: str = ""  #: copy of a small manifest, which spares the worker a round trip; deleted at the end
    result: str = ""  #: key of the winning result object, "" where `output` is kept here
    output: JobOutput | None = None  #: a small output
    finish_reason: str = ""  #: that of the output, also of a large one; it names a response's event
    error: JobError | None = None
    usage: TokenUsage | None = None
    timings: StageTimings | None = None
    position: int = -1  #: jobs ahead of it while queued; not stored, counted when read

    @property
    def charged(self) -> int:
        """Claims that count against `max_attempts`."""
        return self.attempt - self.released

    @property
    def suspect(self) -> bool:
        """Whether this is its last attempt and an earlier one lost its worker: the job may be what ended it."""
        return self.lost > 0 and self.charged >= self.max_attempts

    def to_hash(self) -> dict[str, str]:
        """Return the fields that are set as strings of a Redis hash; `from_hash` gives the others their defaults."""
        return {
            name: _write(value)
            for name, spec in self.__dataclass_fields__.items()
            if name != "position" and ((value := getattr(self, name)) or (spec.type is int and name != "lost"))
        }

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash; unknown fields (of a newer version) are ignored."""
        parsers = _parsers()
        return cls(**{name: parsers[name](text) for name, text in record.items() if name in parsers})


def hash_of(**fields: Any) -> dict[str, str]:
    """Return some fields of a record as strings of its Redis hash, as `Job.to_hash` does."""
    job = Job(id="", tenant="", model="", **fields)
    return {name: text for name, text in job.to_hash().items() if name in fields}


def _write(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, BaseModel | dict | list):
        return to_json(value, exclude_none=True).decode()
    return str(value)


@cache
def _parsers() -> Mapping[str, Callable[[str], Any]]:
    """Return how each field is read from its text in the hash."""
    plain: Mapping[Any, Callable[[str], Any]] = {kind: kind for kind in (str, int, float, bool, State)}
    return {name: plain.get(hint) or _json_parser(hint) for name, hint in get_type_hints(Job).items()}


def _json_parser(hint: Any) -> Callable[[str], Any]:
    adapter = TypeAdapter(hint)
    return lambda text: adapter.validate_json(text) if text else None
