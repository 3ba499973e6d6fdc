"""The census: how many of everything there are in the job store, and how late."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.calls import Call, pairs


@dataclass(frozen=True)
class Census:
    """How the house stands: what workers serve, what waits, what was repaired."""

    models: dict[str, "ModelCensus"]
    states: dict[str, int]  #: jobs now in each state
    moves: dict[str, int]  #: transitions into each state since the store began
    repairs: dict[str, int]  #: lost leases, retries, releases, and indexes set right
    outbox: int
    leases: int
    hooks: int
    trash: int
    outbox_age: float  #: seconds the oldest hint is overdue
    lease_age: float  #: seconds the oldest lease is past its end
    hooks_age: float  #: seconds the oldest message is overdue


@dataclass(frozen=True)
class ModelCensus:
    """One model: the card its workers announced, how many are alive, how many jobs are ready."""

    card: dict[str, Any]
    workers: int
    queued: int


def take_census() -> Call[Census]:
    """How many of everything, and how late."""

    def read(answer: Any) -> Census:
        flat, states, moves, repairs, sizes = answer
        models = {
            name: ModelCensus(json.loads(card) if card else {}, int(workers), int(ready))
            for name, card, workers, ready in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        }
        outbox, leases, hooks, trash, outbox_age, lease_age, hooks_age = sizes
        return Census(
            models,
            states=_counts(states),
            moves=_counts(moves),
            repairs=_counts(repairs),
            outbox=int(outbox),
            leases=int(leases),
            hooks=int(hooks),
            trash=int(trash),
            outbox_age=float(outbox_age),
            lease_age=float(lease_age),
            hooks_age=float(hooks_age),
        )

    return Call("census", (), read)


def _counts(flat: Sequence[str]) -> dict[str, int]:
    return {name: int(count) for name, count in pairs(flat).items()}
