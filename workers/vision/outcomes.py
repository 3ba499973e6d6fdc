"""What becomes of an attempt: one function for each outcome, naming the transition that commits it to the store.

Permanent ── failed         Transient ── retried, failed on the last attempt
cancel ── cancelled         deadline_exceeded ── failed, timed_out
release ── released         lease_lost ── nothing is written
postpone ── postponed, like released, and not claimed for `POSTPONE_S`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import STORE_FAILURES, Permanent, Transient
from shared.jobs import State
from shared.records import JobError, JobOutput, StageTimings, TokenUsage
from shared.results import StoredResult
from shared.store import transitions
from shared.store.command import StoreCommand, TransitionResult
from shared.views import moment
from workers.vision.attempt import AbortReason, Attempt
from workers.vision.engine.base import Done

POSTPONE_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """How an attempt ends, and the transition that commits it."""

    name: str  #: label of the metrics
    transition: StoreCommand[TransitionResult[Any]] | None  #: None: nothing to commit, another attempt may have begun


def result_of(attempt: Attempt, done: Done) -> StoredResult:
    """Return the result object of an answered attempt."""
    attempt.time_engine({stage: done.timings[stage] for stage in ("vision", "prefill", "decode")})
    attempt.timings.setdefault("first_token", attempt.timings["total"])  # of an answer without text
    attempt.progress["completion_tokens"] = done.completion_tokens
    return StoredResult(
        output=JobOutput(text=done.text, finish_reason=done.finish_reason),
        usage=TokenUsage(
            prompt_tokens=done.prompt_tokens,
            image_tokens=done.image_tokens,
            cached_tokens=done.cached_tokens,
            completion_tokens=done.completion_tokens,
        ),
        timings=StageTimings(**{stage: round(seconds, 4) for stage, seconds in attempt.timings.items()}),
        attempt=attempt.job.attempt,
        ended_at=moment(attempt.store_time),
    )


def succeeded(attempt: Attempt, result: StoredResult, key: str) -> Outcome:
    """The job was answered; its result object is in storage under `key`, "" where the record holds the output."""
    return Outcome("succeeded", _finish(attempt, State.SUCCEEDED, result.job_fields(key)))


def failed(attempt: Attempt, error: Permanent) -> Outcome:
    """No retry would help."""
    return Outcome("failed", _fail(attempt, error.code, error.detail, retryable=False, image=error.image))


def internal_error(attempt: Attempt) -> Outcome:
    """An error of ours: the log has its details, the job's error has none."""
    message = "an unexpected error occurred in the worker; submit the job again, and report it if it fails again"
    return Outcome("internal", _fail(attempt, "internal", message, retryable=True))


def retry(attempt: Attempt, error: Transient, backoff: float) -> Outcome:
    """Another attempt may succeed; the store fails the job with `error` if this was the last one."""
    record = JobError(code=error.code, message=error.detail, retryable=True, image=error.image)
    return Outcome("retried", transitions.retry(attempt.job.id, attempt.job.attempt, record, backoff))


def aborted(attempt: Attempt, reason: AbortReason) -> Outcome:
    """Work was stopped for `reason`."""
    if reason == "cancel":
        return Outcome("cancelled", _finish(attempt, State.CANCELLED, {}))
    if reason == "deadline_exceeded":
        return Outcome("timed_out", _fail(attempt, "timed_out", STORE_FAILURES["timed_out"], retryable=True))
    if reason == "release":
        return Outcome("released", transitions.release(attempt.job.id, attempt.job.attempt))
    if reason == "postpone":
        return Outcome("postponed", transitions.release(attempt.job.id, attempt.job.attempt, POSTPONE_S))
    return Outcome("lease_lost", None)


def _fail(
    attempt: Attempt, code: str, message: str, *, retryable: bool, image: int | None = None
) -> StoreCommand[TransitionResult[Any]]:
    return _finish(
        attempt, State.FAILED, {"error": JobError(code=code, message=message, retryable=retryable, image=image)}
    )


def _finish(attempt: Attempt, state: State, fields: Mapping[str, Any]) -> StoreCommand[TransitionResult[Any]]:
    progress = {**attempt.progress, **fields}
    return transitions.finish(attempt.job.id, attempt.job.attempt, state, progress, attempt.slot, attempt.wait_s)
