"""Commands on the records of files; see `shared/files.py`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shared.files import File
from shared.limits import LimitState, TenantLimits
from shared.store.command import StoreCommand, hash_to_dict
from shared.store.limits import limit_state


@dataclass(frozen=True)
class PutResult:
    """The outcome of `put`; the tenant's limit that the file would pass (`quota_exceeded`)."""

    outcome: Literal["stored", "quota_exceeded", "in_progress"]
    limit: LimitState | None = None


def put(
    file: File, *, limits: TenantLimits | None = None, idem: tuple[str, str, str] | None = None
) -> StoreCommand[PutResult]:
    """Store a record, unless its tenant would pass its limit of bytes or another request holds the Idempotency-Key.

    Without `limits` the bytes of the file are not counted. `idem`: (key, token, id to replay). Repeating it changes
    nothing.
    """
    held = asdict(TenantLimits(bytes=limits.bytes)) if limits else None
    bound = dict(zip(("key", "token", "subject"), idem, strict=True)) if idem else None

    def parse(answer: Sequence[Any]) -> PutResult:
        outcome, *more = answer
        return PutResult(outcome, limit_state(more[0]) if more else None)

    order = {"file": file.to_hash(), "limits": held, "idem": bound}
    return StoreCommand("file_put", (json.dumps(order),), parse, durable=True)


def get(tenant: str, id: str) -> StoreCommand[File | None]:
    """A file, or None where the tenant has none of this id; tenant "" reads any tenant's."""

    def parse(flat: Sequence[str]) -> File | None:
        return File.from_hash(hash_to_dict(flat)) if flat else None

    return StoreCommand("file_get", (tenant, id), parse)


def list_files(
    tenant: str, *, purpose: str = "", after: str = "", limit: int, order: Literal["asc", "desc"] = "desc"
) -> StoreCommand[tuple[list[File], bool]]:
    """A page of files in order of time, and whether there are more."""

    def parse(answer: Any) -> tuple[list[File], bool]:
        return [File.from_hash(hash_to_dict(flat)) for flat in answer[0]], bool(answer[1])

    return StoreCommand("file_list", (tenant, purpose, after, limit, order), parse)


def delete(tenant: str, id: str) -> StoreCommand[bool]:
    """Delete a record; its id is then in `list_trash`. False where the tenant has no such file."""
    return StoreCommand("file_delete", (tenant, id), bool, durable=True)
