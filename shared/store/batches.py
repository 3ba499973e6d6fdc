"""Queries for batches."""

from typing import Any

from shared.batches import Batch
from shared.store.command import StoreCommand, hash_to_dict


def get(tenant: str, id: str, first: int = 0, last: int = -1) -> StoreCommand[tuple[Batch, list[str]] | None]:
    """A batch and the ids of its jobs `first` to `last` in order, or None; tenant "" reads any tenant's."""

    def parse(answer: Any) -> tuple[Batch, list[str]] | None:
        return (Batch.from_hash(hash_to_dict(answer[0])), list(answer[1])) if answer[0] else None

    return StoreCommand("batch_get", (tenant, id, first, last), parse)
