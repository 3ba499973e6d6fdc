"""The command of readiness: it writes as a submission does, and is as durable."""

from shared.store.command import StoreCommand

PROBE_TTL_S = 3600


def probe() -> StoreCommand[int]:
    """Write the key `health:probe`."""
    return StoreCommand("probe", (PROBE_TTL_S,), int, durable=True)
