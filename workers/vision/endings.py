"""What becomes of an attempt: one function for each way, naming the transition that says so to the store.

Permanent ── failed         Transient ── retried, failed on the last attempt
cancel ── cancelled         late ── failed, timed_out
release ── released         stale ── nothing is written
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import Permanent, Transient
from shared.jobs import State
from shared.store import transitions
from shared.store.command import StoreCommand, TransitionResult
from workers.vision.hands import Held, Why


@dataclass(frozen=True)
class Ending:
    """How an attempt ends, and the transition that says so."""

    outcome: str
    call: StoreCommand[TransitionResult[Any]] | None  #: None: nothing is said, the job is somebody else's


def succeeded(held: Held, fields: Mapping[str, Any]) -> Ending:
    """The answer is in object storage."""
    return Ending("succeeded", _finish(held, State.SUCCEEDED, fields))


def failed(held: Held, error: Permanent) -> Ending:
    """No retry would help."""
    return Ending("failed", _failed(held, error.code, error.detail, retryable=False, image=error.image))


def broken(held: Held) -> Ending:
    """We did something wrong; what it was stands in the logs, not in the answer."""
    message = "something went wrong inside the worker; submit the job again, and report it if it fails again"
    return Ending("internal", _failed(held, "internal", message, retryable=True))


def again(held: Held, error: Transient, backoff: float) -> Ending:
    """The trouble may pass."""
    told = _error(error.code, error.detail, retryable=True, image=error.image)
    return Ending("retried", transitions.retry(held.job.id, held.job.attempt, told, backoff))


def dropped(held: Held, why: Why) -> Ending:
    """Somebody said to stop."""
    if why == "cancel":
        return Ending("cancelled", _finish(held, State.CANCELLED, {}))
    if why == "deadline_exceeded":
        message = "the job did not end within run_within, all attempts together; allow more time"
        return Ending("timed_out", _failed(held, "timed_out", message, retryable=True))
    if why == "release":
        return Ending("released", transitions.release(held.job.id, held.job.attempt))
    return Ending("lease_lost", None)


def _failed(
    held: Held, code: str, message: str, *, retryable: bool, image: int | None = None
) -> StoreCommand[TransitionResult[Any]]:
    return _finish(held, State.FAILED, {"error": _error(code, message, retryable=retryable, image=image)})


def _finish(held: Held, state: State, fields: Mapping[str, Any]) -> StoreCommand[TransitionResult[Any]]:
    return transitions.finish(held.job.id, held.job.attempt, state, {**held.progress, **fields})


def _error(code: str, message: str, *, retryable: bool, image: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": retryable, "image": image}
