"""Store statistics: workers, queue sizes, repair counters, and the age of the oldest overdue entries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.store.command import StoreCommand, hash_to_dict


@dataclass(frozen=True)
class StoreStats:
    """A snapshot of the store. Ages are seconds."""

    models: dict[str, "ModelStats"]
    states: dict[str, int]  #: jobs now in each state
    moves: dict[str, int]  #: transitions into each state since the store began
    repairs: dict[str, int]  #: lost leases, retries, releases, and indexes set right
    outbox: int
    leases: int
    hooks: int  #: webhook deliveries pending
    trash: int
    unarchived: int  #: ended jobs whose end is in no group object yet (shared/ended.py)
    batches: int  #: batches of files that have not ended
    outbox_age: float  #: seconds the oldest hint is overdue
    lease_age: float  #: seconds the oldest lease is past its end
    hooks_age: float  #: seconds the oldest delivery is overdue
    unarchived_age: float  #: seconds since the end of the oldest of them
    batches_age: float  #: seconds that a batch of a file has waited for a process to work on it


@dataclass(frozen=True)
class ModelStats:
    """One model: the card its workers registered, how many workers are alive, how many jobs are ready."""

    card: dict[str, Any]
    workers: int
    queued: int


def get_stats() -> StoreCommand[StoreStats]:
    """Read the statistics in one step."""

    def parse(answer: Any) -> StoreStats:
        flat, states, moves, repairs, sizes = answer
        models = {
            name: ModelStats(json.loads(card) if card else {}, int(workers), int(ready))
            for name, card, workers, ready in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        }
        outbox, leases, hooks, trash, unarchived, batches, *ages = sizes
        outbox_age, lease_age, hooks_age, unarchived_age, batches_age = map(float, ages)
        return StoreStats(
            models,
            states=_counts(states),
            moves=_counts(moves),
            repairs=_counts(repairs),
            outbox=int(outbox),
            leases=int(leases),
            hooks=int(hooks),
            trash=int(trash),
            unarchived=int(unarchived),
            batches=int(batches),
            outbox_age=outbox_age,
            lease_age=lease_age,
            hooks_age=hooks_age,
            unarchived_age=unarchived_age,
            batches_age=batches_age,
        )

    return StoreCommand("stats", (), parse)


def _counts(flat: Sequence[str]) -> dict[str, int]:
    return {name: int(count) for name, count in hash_to_dict(flat).items()}
