"""Commands on batches; those on batches of files follow the arrows of `shared/batches.py`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.batches import Batch, BatchStatus
from shared.jobs import Job
from shared.store.command import StoreArgument, StoreCommand, TransitionResult, hash_to_dict


def get(tenant: str, id: str, first: int = 0, last: int = -1) -> StoreCommand[tuple[Batch, list[str]] | None]:
    """A batch and the ids of its jobs `first` to `last` in order, or None; tenant "" reads any tenant's."""

    def parse(answer: Any) -> tuple[Batch, list[str]] | None:
        return (Batch.from_hash(hash_to_dict(answer[0])), list(answer[1])) if answer[0] else None

    return StoreCommand("batch_get", (tenant, id, first, last), parse)


def list_batches(tenant: str, *, after: str = "", limit: int = 20) -> StoreCommand[tuple[list[Batch], bool]]:
    """A page of batches, newest first, from behind the id `after` on, and whether more follow."""

    def parse(answer: Any) -> tuple[list[Batch], bool]:
        return [Batch.from_hash(hash_to_dict(record)) for record in answer[0] if record], bool(answer[1])

    return StoreCommand("batch_list", (tenant, after, limit), parse)


# --- batches of files


def put(record: Mapping[str, str], idem: tuple[str, str, str] | None = None) -> StoreCommand[bool]:
    """Accept a batch, or restore one whose record was lost; False where another request holds the Idempotency-Key.

    `idem`: (key, token, id to replay). Repeating it changes nothing.
    """
    bound = dict(zip(("key", "token", "subject"), idem, strict=True)) if idem else None
    return StoreCommand("batch_put", (json.dumps({"batch": dict(record), "idem": bound}),), bool, durable=True)


def claim(lease: float) -> StoreCommand[tuple[Batch | None, float]]:
    """Claim, for `lease` seconds, the batch that is due and has the earliest deadline; and the store's time."""

    def parse(answer: Any) -> tuple[Batch | None, float]:
        return Batch.from_hash(hash_to_dict(answer[0])) if answer[0] else None, float(answer[1])

    return StoreCommand("batch_claim", (lease,), parse)


def renew(id: str, fence: int, status: BatchStatus, lease: float) -> StoreCommand[bool]:
    """Renew a claim; False where it is lost, or where the batch has another status than `status`."""
    return StoreCommand("batch_renew", (id, fence, status, lease), bool)


def release(id: str, fence: int, delay: float) -> StoreCommand[bool]:
    """Put a claimed batch back: it is due after `delay` seconds, or at once where its last job ended meanwhile."""
    return StoreCommand("batch_release", (id, fence, delay), bool)


def move(
    id: str,
    fence: int,
    status: BatchStatus,
    to: BatchStatus,
    *,
    fields: Mapping[str, StoreArgument],
    retain: float,
) -> StoreCommand[TransitionResult[bool]]:
    """Give a claimed batch the status `to`, and set `fields`; False where the claim is lost or it has another status.

    A batch becomes terminal by this call alone, which also creates its webhook, `batch.completed` and the like; its
    record is kept for `retain` seconds more.
    """
    texts = {name: str(value) for name, value in fields.items()}
    return StoreCommand(
        "batch_move",
        (id, fence, status, to, json.dumps(texts), retain),
        lambda answer: TransitionResult(bool(answer[0]), tuple(answer[1])),
        durable=True,
    )


def cancel(tenant: str, id: str) -> StoreCommand[Literal["cancelling", "unchanged", ""]]:
    """Cancel; "" where the tenant has no such batch of a file."""
    return StoreCommand("batch_cancel", (tenant, id), lambda answer: answer, durable=True)


@dataclass(frozen=True)
class LineOutcome:
    """What became of a line: its job, or the JSON that says why it became none, or neither."""

    job: Job | None
    refused: str


def outcomes(batch: str, lines: Sequence[tuple[int, str]]) -> StoreCommand[list[LineOutcome]]:
    """What became of each of `lines`: (number, id of its job)."""

    def parse(flat: Any) -> list[LineOutcome]:
        return [
            LineOutcome(Job.from_hash(hash_to_dict(record)) if record else None, refused)
            for record, refused in zip(flat[::2], flat[1::2], strict=True)
        ]

    return StoreCommand("batch_lines", (batch, *(word for line in lines for word in line)), parse)


def queue_depth(tenant: str) -> StoreCommand[tuple[int, int]]:
    """Queued jobs of `tenant`, and of all tenants together."""
    return StoreCommand("queue_depth", (tenant,), lambda answer: (int(answer[0]), int(answer[1])))
